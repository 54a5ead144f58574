"""Reading pickles without running them: what data needs is read, everything else is refused."""

import os
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from examples.fewshot.data.pickles import load_pickle, stream_arrays

# {'data': numpy.arange(6, dtype='>i2').reshape(2, 3), 'names': ['caf\xe9'], 7L: numpy.float32(0.5)}
# as Python 2 writes it in protocol 2: byte strings are short strings (U), integers may be long (\x8a).
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
    b"K\x00\x85U\x01bq\x05\x87Rq\x06(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x07U\x02i2q\x08K\x00K\x01\x87R"
    b"q\t(K\x03U\x01>q\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    b"U\x0c\x00\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05q\x0btbU\x05namesq\x0c]q\rU\x04caf\xe9q\x0ea"
    b"\x8a\x01\x07cnumpy.core.multiarray\nscalar\nq\x0fh\x07U\x02f4q\x10K\x00K\x01\x87Rq\x11(K\x03U\x01<q\x12NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x04\x00\x00\x00?q\x13\x86Rq\x14u."
)


class Malicious:
    """A pickle that writes a file when it is loaded in the usual way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def write(folder, value, protocol=2):
    path = folder / "data.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


def test_python_2(tmp_path):
    content = load_pickle("test", write(tmp_path, PYTHON_2))
    assert list(content) == ["data", "names", 7]
    np.testing.assert_array_equal(content["data"], [[0, 1, 2], [3, 4, 5]])
    assert content["names"] == ["café"]
    assert content[7] == 0.5


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12).reshape(3, 4)[:, ::2],
        np.array([True, False]),
        np.array(["crab", "lobster"]),
        np.zeros((0, 3), np.int32),
        np.array(5, ">u4"),
    ],
    ids=["bytes", "fortran", "strided", "bool", "text", "empty", "no axes"],
)
def test_every_protocol(tmp_path, protocol, array):
    value = {"a": array, "b": [np.int64(3), b"crab", "lobster", None, 1.5, (True, {})]}
    content = load_pickle("test", write(tmp_path, value, protocol))
    np.testing.assert_array_equal(content["a"], array)
    assert content["a"].dtype == array.dtype
    assert content["b"] == [3, "crab", "lobster", None, 1.5, (True, {})]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("read", [load_pickle, lambda *a: stream_arrays(*a, len)], ids=["load", "stream"])
def test_what_is_not_data_is_refused_and_not_run(tmp_path, protocol, read):
    trace = tmp_path / "trace"
    path = write(tmp_path, {"image_data": [Malicious(trace)]}, protocol)
    with pytest.raises(ValueError, match=r"data\.pkl.*asks for (posix|nt)\.system.*nothing of it was run"):
        read("test", path)
    assert not trace.exists()


def test_the_refused_pickle_is_dangerous_otherwise(tmp_path):
    path = write(tmp_path, Malicious(tmp_path / "trace"))
    subprocess.run(
        [sys.executable, "-c", f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"], check=True
    )
    assert (tmp_path / "trace").exists()


def test_nothing_is_imported_for_a_refusal(tmp_path):
    (tmp_path / "imported_by_a_pickle.py").write_text("raise SystemExit('imported')")
    path = write(tmp_path, b"cimported_by_a_pickle\nname\n.")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(ValueError, match=r"asks for imported_by_a_pickle\.name"):
            load_pickle("test", path)
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, None]),
        np.zeros(2, [("a", "i4"), ("b", "O")]),
        np.array(["2020-01-01"], "datetime64[D]"),
        slice(1),
        {1, 2},
        bytearray(b"ab"),
    ],
    ids=["objects", "records", "dates", "slice", "set", "bytearray"],
)
def test_other_types_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"data\.pkl.*delete it and fetch it again"):
        load_pickle("test", write(tmp_path, value))


@pytest.mark.parametrize("read", [load_pickle, lambda *a: stream_arrays(*a, len)], ids=["load", "stream"])
def test_every_truncation_is_refused(tmp_path, read):
    whole = pickle.dumps({"data": np.arange(9), "labels": [1, 2, 3]}, protocol=4)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"test: cannot read .*data\.pkl"):
            read("test", write(tmp_path, whole[:length]))


@pytest.mark.parametrize(
    "content", [b"not a pickle", b"\x80\x99", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f"]
)
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"test: cannot read"):
        load_pickle("test", write(tmp_path, content))


def test_a_pickle_that_holds_itself_is_refused(tmp_path):
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="RecursionError"):
        load_pickle("test", write(tmp_path, value))


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_pickle("test", tmp_path / "nothing.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_streaming_hands_over_each_array_once_and_in_order(tmp_path, protocol):
    arrays = [np.frombuffer(bytes([i]) * (100 * i + 1), np.uint8)[:, None] for i in range(8)]
    seen = []

    def keep(data):
        seen.append(bytes(data))
        return len(data)

    assert stream_arrays("test", write(tmp_path, arrays, protocol), keep) == [len(a) for a in arrays]
    assert seen == [array.tobytes() for array in arrays]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_streaming_forgets_the_arrays(tmp_path, protocol):
    size = 100_000
    path = write(tmp_path, [np.zeros(size, np.uint8) + i for i in range(40)], protocol)
    tracemalloc.start()
    try:
        stream_arrays("test", path, len)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * size
