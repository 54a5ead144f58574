"""Reading pickles without running them: what data needs is read, everything else is refused."""

import os
import pickle
import sys
import tracemalloc

import numpy as np
import pytest

from examples.fewshot.data.pickles import load_pickle
from tests.examples.fewshot.damage import messages_of

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


both_ways = pytest.mark.parametrize("keep", [None, len], ids=["load", "stream"])
every_protocol = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


def assert_refused(path, keep=None, message=""):
    """A ValueError that names the file, says what to do, and is not long."""
    with pytest.raises(
        ValueError, match=rf"test: cannot read .*{path.name}.*{message}.*delete it and fetch it again"
    ) as error:
        load_pickle("test", path, keep)
    assert len(str(error.value)) < 1000


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


@every_protocol
def test_every_protocol(tmp_path, protocol):
    arrays = {
        "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
        "bool": np.array([True, False]),
        "text": np.array(["crab", "lobster"]),
        "empty": np.zeros((0, 3), np.int32),
        "no axes": np.array(5, ">u4"),
    }
    others = [np.int64(3), b"crab", "lobster", None, 1.5, (True, {})]
    *read, plain = load_pickle("test", write(tmp_path, [*arrays.values(), others], protocol))
    for array, (name, expected) in zip(read, arrays.items(), strict=True):
        np.testing.assert_array_equal(array, expected, name)
        assert array.dtype == expected.dtype, name
    assert plain == [3, "crab", "lobster", None, 1.5, (True, {})]


@every_protocol
@both_ways
def test_what_is_not_data_is_refused_and_not_run(tmp_path, protocol, keep):
    trace = tmp_path / "trace"
    path = write(tmp_path, {"image_data": [Malicious(trace)]}, protocol)
    assert_refused(path, keep, r"asks for (posix|nt)\.system.*nothing of it was run")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists(), "it does nothing in the usual way either"


def test_nothing_is_imported_for_a_refusal(tmp_path):
    (tmp_path / "imported_by_a_pickle.py").write_text("raise SystemExit('imported')")
    path = write(tmp_path, b"cimported_by_a_pickle\nname\n.")
    sys.path.insert(0, str(tmp_path))
    try:
        assert_refused(path, message=r"asks for imported_by_a_pickle\.name")
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    "value",
    [
        *(
            np.array([{}, None]),
            np.zeros(2, [("a", "i4"), ("b", "O")]),
            np.array(["2020"], "datetime64[Y]"),
        ),
        *(slice(1), {1, 2}, bytearray(b"ab"), b"not a pickle", b"\x80\x99"),
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ],
)
def test_other_types_and_files_are_refused(tmp_path, value):
    assert_refused(write(tmp_path, value))


def test_a_pickle_that_holds_itself_is_refused(tmp_path):
    value = []
    value.append(value)
    assert_refused(write(tmp_path, value), message="RecursionError")


DTYPE = b"cnumpy\ndtype\n"


@every_protocol
def test_what_is_referred_to_again_is_read(tmp_path, protocol):
    names, array = ["crab", "lobster"], np.arange(6)
    value = {"a": names, "b": [names, names, ("eel", names)], "c": [array, array], "d": ["crab"] * 1000}
    content = load_pickle("test", write(tmp_path, value, protocol))
    assert content["b"] == [names, names, ("eel", names)]
    assert content["a"] is content["b"][0] is content["b"][2][1]
    assert content["d"] == ["crab"] * 1000
    for read in content["c"]:
        np.testing.assert_array_equal(read, array)


def array_of(kind=b"u1", shape=b"K\x03\x85", data=b"U\x03abc", order=b"|"):
    """Opcodes of an array, in protocol 2."""
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    kind, order = (b"U" + bytes([len(text)]) + text for text in (kind, order))
    dtype = DTYPE + kind + b"K\x00K\x01\x87R(K\x03" + order + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    return start + shape + dtype + b"\x89" + data + b"tb."


IMPOSSIBLE = {
    "kind": [b"S" + b"9" * 30, b"U999999999", b"S999999999", b"i3", b"S0", b"O8", b"b1\n", b"M8"],
    "order": [b">>", b"", b"O,|"],
    "shape": [b"K\x04\x85", b"(" + b"K\x01" * 100 + b"K\x03t", b"N"],
    "data": [b"N", b"K\x03", b"]"],
}


@pytest.mark.parametrize("part", IMPOSSIBLE)
def test_arrays_that_cannot_be_are_refused(tmp_path, part):
    assert load_pickle("test", write(tmp_path, array_of())).tolist() == [97, 98, 99]
    for value in IMPOSSIBLE[part]:
        assert_refused(write(tmp_path, array_of(**{part: value})))


@pytest.mark.parametrize(
    "content",
    [
        *(b"Pidentifier\n.", b"\x82\x01.", b"\x97.", b"\x8f.", b"\xff.", b"]K\x01b.", DTYPE + b"."),
        # Its state, or one of a function that is called for data, would be changed for the next file too.
        DTYPE + b"N}X\x04\x00\x00\x00kindK\x01s\x86b0K\x07.",
        b"c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__N\x85s\x86b0K\x07.",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.",
    ],
)
@both_ways
def test_opcodes_and_objects_that_data_does_not_need_are_refused(tmp_path, keep, content):
    assert_refused(write(tmp_path, b"\x80\x04" + content), keep)


@pytest.mark.parametrize("protocol", ["Python 2", *range(pickle.HIGHEST_PROTOCOL + 1)])
@both_ways
def test_every_damage_is_a_value_error(tmp_path, protocol, keep):
    value = {"data": np.arange(9), "labels": [1, 2, 3], "names": [b"crab", "eel"], "one": np.float32(1)}
    whole = PYTHON_2 if protocol == "Python 2" else pickle.dumps(value, protocol=protocol)
    for length in range(len(whole)):
        assert_refused(write(tmp_path, whole[:length]), keep)
    path = tmp_path / "data.pkl"
    messages = messages_of(path, whole, 300, 5, lambda: load_pickle("test", path, keep))
    assert len(messages) > 30
    assert all(len(message) < 1000 for message in messages)


@both_ways
def test_what_is_no_plain_file_is_refused(tmp_path, keep):
    """A pipe would be waited for, for ever."""
    os.mkfifo(tmp_path / "data.pkl")
    for path in (tmp_path / "data.pkl", tmp_path):
        with pytest.raises(ValueError, match=rf"test: '{path}' must be a plain file"):
            load_pickle("test", path, keep)
    with pytest.raises(FileNotFoundError):
        load_pickle("test", tmp_path / "nothing.pkl", keep)


@every_protocol
def test_streaming_hands_over_each_array_once_and_in_order(tmp_path, protocol):
    arrays = [np.frombuffer(bytes([i]) * (100 * i + 1), np.uint8)[:, None] for i in range(8)]
    seen = []

    def keep(data):
        seen.append(bytes(data))
        return len(data)

    assert load_pickle("test", write(tmp_path, arrays, protocol), keep) == [len(a) for a in arrays]
    assert seen == [array.tobytes() for array in arrays]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_streaming_forgets_the_arrays(tmp_path, protocol):
    size = 100_000
    path = write(tmp_path, [np.zeros(size, np.uint8) + i for i in range(40)], protocol)
    tracemalloc.start()
    try:
        load_pickle("test", path, len)
        assert tracemalloc.get_traced_memory()[1] < 10 * size
    finally:
        tracemalloc.stop()
