"""Reading pickles without running them: what data needs is read, everything else is refused."""

import os
import pickle
import struct
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest

from examples.fewshot.data.pickles import load_pickle
from tests.examples.fewshot.damage import damaged

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


@contextmanager
def at_most(size):
    """No more bytes of memory are taken within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


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


def nested(make, leaf=b"x", levels=60):
    """The opcodes of a container that holds another one twice, and so on, without start and end."""
    value = leaf
    for _ in range(levels):
        value = make(value)
    return pickle.dumps(value, protocol=2)[2:-1]


LISTS = nested(lambda value: [value, value])
TUPLES = nested(lambda value: (value, value))
DTYPE, SCALAR = b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\nh\x01h\x00\x86R"
ENCODED = b"c_codecs\nencode\nh\x00U\x06latin1\x86R"
LONG_TEXT = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000 + b"q\x00"
# Short files which a reader that trusts them would be busy with for ever, or fill the memory with.
REPEATED = {
    "lists": LISTS,
    "tuples": TUPLES,
    "dictionaries": nested(lambda value: {"a": value, "b": value}),
    "a mixture": nested(lambda value: ([value], {"a": (value,)})),
    "lists in protocol 0": pickle.dumps(pickle.loads(b"\x80\x02" + LISTS + b"."), protocol=0)[:-1],
    "arrays": nested(lambda value: [value, value], np.zeros(1000, np.uint8)),
    "texts": b"](" + LONG_TEXT + b"h\x00" * 100_000 + b"e",
    "byte strings": b"](T" + LONG_TEXT[1:] + b"h\x00" * 100_000 + b"e",
    "a key": b"}" + TUPLES + b"K\x01s",
    "one of many keys": b"}(" + TUPLES + b"K\x01U\x01aK\x02u",
    "a key in protocol 0": b"(" + TUPLES + b"K\x01d",
    "a member of a set": b"\x8f(" + TUPLES + b"\x90",
    "a frozen set": b"(" + TUPLES + b"\x91",
    "copies by encoding": b"](" + LONG_TEXT + b"0" + ENCODED * 10_000 + b"e",
    "an encoding": b"c_codecs\nencode\nX\x01\x00\x00\x00a" + LISTS + b"\x86R",
    "copies of scalars": b"]("
    + DTYPE
    + b"U\x07S100000K\x00K\x01\x87Rq\x01T"
    + LONG_TEXT[1:]
    + SCALAR * 9999
    + b"e",
    "a byte order": DTYPE + b"U\x02i2K\x00K\x01\x87R(K\x03" + LISTS + b"tb",
    "a type": DTYPE + LISTS + b"K\x00K\x01\x87R",
    "arguments": b"](" + b"K\x00" * 50_000 + b"eq\x000](" + (DTYPE + b"h\x00R0") * 50_000 + b"e",
    "copies of the top": b"](" + LONG_TEXT + b"2" * 100_000 + b"e",
}


@pytest.mark.parametrize("content", REPEATED.values(), ids=REPEATED)
@both_ways
def test_what_would_take_for_ever_is_refused(tmp_path, content, keep):
    assert_refused(write(tmp_path, b"\x80\x02" + content + b"."), keep)


@pytest.mark.parametrize("content", [TUPLES, LISTS, b"(" + b"K\x00" * 100_000 + b"t" + b"q\x00" * 100_000])
def test_streaming_looks_at_what_it_notes_down_once(tmp_path, content):
    """What is thrown away does no harm, and must not take for ever."""
    assert load_pickle("test", write(tmp_path, b"\x80\x04" + content + b"\x940K\x07."), len) == 7


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


@pytest.mark.parametrize("length", [1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 63) + 5])
@pytest.mark.parametrize("opcode", [bytes([opcode]) for opcode in b"TBX\x8a\x8brj\x8d\x8e\x95\x96pgLI"])
@both_ways
def test_wrong_lengths_take_no_memory(tmp_path, keep, opcode, length):
    """Of texts, bytes, integers, frames, and places to refer back to."""
    if opcode in b"pgLI":
        number = b"%d\n" % length
    else:
        number = struct.pack("<Q", length)[: 8 if opcode > b"\x8b" else 4]
    path = write(tmp_path, b"\x80\x04]" + opcode + number + b"abc")
    with at_most(1 << 20):
        assert_refused(path, keep)


def array_of(kind=b"u1", shape=b"K\x03\x85", data=b"U\x03abc", order=b"|"):
    """Opcodes of an array, in protocol 2."""
    start = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    kind, order = (b"U" + bytes([len(text)]) + text for text in (kind, order))
    dtype = DTYPE + kind + b"K\x00K\x01\x87R(K\x03" + order + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    return start + shape + dtype + b"\x89" + data + b"tb."


IMPOSSIBLE = {
    "kind": [b"S" + b"9" * 30, b"U999999999", b"S999999999", b"i3", b"S0", b"O8", b"b1\n"],
    "order": [b">>", b""],
    "shape": [
        *(b"K\x04\x85", b"\x8a\x08" + struct.pack("<q", 1 << 62) + b"\x85", b"J\xfe\xff\xff\xff\x85"),
        *(b"(" + b"K\x01" * 100 + b"K\x03t", TUPLES, b"N"),
    ],
    "data": [b"N", b"K\x03", LISTS],
}


@pytest.mark.parametrize("part", IMPOSSIBLE)
def test_arrays_that_cannot_be_are_refused(tmp_path, part):
    assert load_pickle("test", write(tmp_path, array_of())).tolist() == [97, 98, 99]
    for value in IMPOSSIBLE[part]:
        assert_refused(write(tmp_path, array_of(**{part: value})))


@pytest.mark.parametrize(
    "content",
    [
        *(b"Pidentifier\n.", b"K\x01Q.", b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00."),
        *(b"(inumpy\ndtype\n.", b"(" + DTYPE + b"U\x02i2o.", DTYPE + b")\x81.", DTYPE + b")}\x92."),
        *(b"\x97.", b"K\x01\x98.", b"\x8f.", b"K\x012.", b"\xff.", b"]K\x01b."),
        *(DTYPE + b".", b"cnumpy\nndarray\n.", b"c_codecs\nencode\n.", DTYPE + b"}U\x01aK\x01sb."),
        *(b"c_codecs\nencode\n}U\x01aK\x01sb.", b"c_codecs\nencode\nN}U\x0c__defaults__(NtsR\x86b."),
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
    messages = []
    for content in damaged(whole, 300, 5):
        try:
            load_pickle("test", write(tmp_path, content), keep)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert all("data.pkl" in message and len(message) < 1000 for message in messages)


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
    with at_most(10 * size):
        load_pickle("test", path, len)
