"""Keys and addresses of arrays: what is in them, and that arrays of one layout have one key."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srwm._cy import exchange
from srwm._layouts import Layout

DTYPES = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "bool": np.bool_,
}


def of_numpy(*arrays):
    return exchange.of_numpy(arrays, np.ndarray)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (2, 3, 4)])
def test_a_key_says_all_but_addresses(dtype, shape):
    a = np.zeros(shape, DTYPES[dtype])
    key, addresses = of_numpy(a, None, a)
    assert addresses == (a.ctypes.data, 0, a.ctypes.data)
    described = Layout(a.shape, a.strides, dtype)
    first, none, last = exchange.unpack(key)
    assert first == last
    assert none is None
    if a.size:
        assert first == described
    else:  # its buffer has strides of its own, which nobody follows
        assert (first.shape, *first[2:]) == (described[0], *described[2:])
    assert of_numpy(np.ones(shape, DTYPES[dtype]), None, a.copy())[0] == key


@given(st.lists(st.integers(0, 3), max_size=4), st.data())
def test_strides_of_any_view(shape, data):
    a = np.zeros([2 * n + 1 for n in shape], np.float32)
    steps = [data.draw(st.sampled_from((1, 2, -1, -2))) for _ in shape]
    view = a[(..., *(slice(None, None, s) for s in steps))]
    view = view.transpose(data.draw(st.permutations(range(len(shape)))))
    key, (address,) = of_numpy(view)
    (layout,) = exchange.unpack(key)
    assert layout == Layout(view.shape, layout.strides, "float32")
    assert address == view.__array_interface__["data"][0]
    moved = [stride for stride, n in zip(layout.strides, view.shape, strict=True) if n > 1]
    assert view.size == 0 or moved == [s for s, n in zip(view.strides, view.shape, strict=True) if n > 1]


def test_what_differs_has_another_key():
    a = np.zeros((2, 3, 4), np.float32)
    misaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(a.shape)
    several = [
        (a,),
        (a, None),
        (None, a),
        (a, a),
        (a.astype(np.float64),),
        (a.astype(np.float16),),
        (a.astype(ml_dtypes.bfloat16),),
        (a[0],),
        (a[None],),
        (a.swapaxes(0, 1),),
        (a[:, ::-1],),
        (np.broadcast_to(a[:1], a.shape),),
        (misaligned,),
        (None,),
        (),
    ]
    keys = [of_numpy(*arrays)[0] for arrays in several]
    for (i, a), (j, b) in product(enumerate(keys), enumerate(keys)):
        assert (a == b) == (i == j)
    assert exchange.unpack(of_numpy(misaligned)[0])[0].is_aligned is False


def test_where_one_array_ends_and_the_next_begins_is_in_the_key():
    """A shape is never taken for strides, or for the shape of the next array."""
    shapes = [((2, 3), (4,)), ((2,), (3, 4)), ((2, 3, 4), ()), ((), (2, 3, 4))]
    keys = {of_numpy(*(np.zeros(shape) for shape in pair))[0] for pair in shapes}
    assert len(keys) == len(shapes)


@pytest.mark.parametrize(
    "dtype", [np.int16, np.uint16, np.int64, np.complex64, "g", object, ">f4", "M8[s]", "S3"]
)
def test_other_types_have_no_key(dtype):
    assert of_numpy(np.zeros(3, dtype)) is None
    assert of_numpy(np.zeros(3), np.zeros(3, dtype)) is None


def test_what_is_no_plain_array_has_no_key():
    for a in (
        np.ma.zeros(3),
        np.zeros((2, 2)).view(type("Own", (np.ndarray,), {})),
        [1.0],
        1.0,
        np.float64(1),
    ):
        assert of_numpy(a) is None


def test_read_only_arrays_are_read():
    a = np.zeros(3)
    a.flags.writeable = False
    assert of_numpy(a) is not None


def test_bounds():
    a = np.zeros((1,) * 64)
    assert exchange.unpack(of_numpy(*[a] * 24)[0]) == [Layout(a.shape, a.strides, "float64")] * 24
    assert of_numpy(*[a] * 25) is None
    assert of_numpy(*[None] * 24) is not None
    assert of_numpy(*[None] * 25) is None
    described = (0, "float64", (1, 0), (1,) * 64, (8,) * 64)
    assert exchange.pack([described] * 24) is not None
    assert exchange.pack([described] * 25) is None
    assert exchange.pack([(0, "float64", (1, 0), (1,) * 65, (8,) * 65)]) is None
    assert exchange.pack([None] * 25) is None


def test_descriptions_give_the_key_of_the_array():
    for name, dtype in DTYPES.items():
        a = np.zeros((2, 3), dtype)[:, ::2]
        described = (a.ctypes.data, name, (1, 0), a.shape, a.strides)
        assert exchange.pack([described, None]) == of_numpy(a, None)
    assert exchange.pack([(0, "int32", (1, 0), (), ())]) is None


def test_entries_without_an_address_are_told_from_no_entries():
    for shape, has_memory in (((3,), False), ((0, 3), True)):
        key, _ = exchange.pack([(0, "float32", (1, 0), shape, (4,) * len(shape))])
        assert exchange.unpack(key)[0].has_memory is has_memory


def test_a_device_is_in_the_key():
    keys = {exchange.pack([(0, "float32", device, (3,), (4,))])[0] for device in ((1, 0), (2, 0), (2, 1))}
    assert len(keys) == 3


def test_no_reference_is_kept():
    import sys

    a = np.zeros((2, 3))
    before = sys.getrefcount(a)
    for _ in range(100):
        of_numpy(a, a)
        of_numpy(a, np.zeros(3, int))
    assert sys.getrefcount(a) == before


def test_a_type_without_the_exchange_api_is_refused():
    assert not exchange.has_api(np.ndarray)
    with pytest.raises(TypeError, match="expected an array type with DLPack's C exchange API, got"):
        exchange.of_exchange(np.ndarray, (np.zeros(3),))
    with pytest.raises(TypeError, match="C exchange API"):
        exchange.current_stream(np.ndarray, 1, 0)


torch = pytest.importorskip("torch")


@pytest.mark.skipif(not exchange.has_api(torch.Tensor), reason="this torch has no C exchange API")
class TestExchange:
    """Through DLPack's C exchange API."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3, 4)])
    def test_tensors_have_the_keys_of_arrays(self, dtype, shape):
        t = torch.zeros(shape, dtype=getattr(torch, dtype))
        key, addresses = exchange.of_exchange(torch.Tensor, (t, None, t))
        assert addresses == (t.data_ptr(), 0, t.data_ptr())
        a = np.zeros(shape, DTYPES[dtype])
        assert key == of_numpy(a, None, a)[0]

    def test_views(self):
        t = torch.zeros(3, 4, 5)[1:, ::2].mT
        key, (address,) = exchange.of_exchange(torch.Tensor, (t,))
        strides = tuple(4 * n for n in t.stride())
        assert exchange.unpack(key) == [Layout(tuple(t.shape), strides, "float32")]
        assert address == t.data_ptr()

    def test_other_types_and_bounds(self):
        for dtype in (torch.int32, torch.complex64, torch.uint8):
            assert exchange.of_exchange(torch.Tensor, (torch.zeros(3, dtype=dtype),)) is None
        t = torch.zeros(3)
        assert exchange.of_exchange(torch.Tensor, (t,) * 24) is not None
        assert exchange.of_exchange(torch.Tensor, (t,) * 25) is None
        assert exchange.of_exchange(torch.Tensor, (torch.zeros((1,) * 65),)) is None

    def test_what_has_no_memory_raises(self):
        with pytest.raises((RuntimeError, BufferError, TypeError, ValueError, NotImplementedError)):
            exchange.of_exchange(torch.Tensor, (torch.zeros(3).to_sparse(),))

    def test_what_it_raises_is_torchs_also_where_another_error_is_handled(self):
        sparse = torch.zeros(3).to_sparse()
        for read in (exchange.of_exchange, exchange.addresses_of_exchange):
            try:
                {}["another"]
            except KeyError:
                with pytest.raises((RuntimeError, BufferError, NotImplementedError)):
                    read(torch.Tensor, (sparse,))

    def test_no_reference_is_kept(self):
        import sys

        t = torch.zeros(3)
        before = sys.getrefcount(t)
        for _ in range(100):
            exchange.of_exchange(torch.Tensor, (t, t))
        assert sys.getrefcount(t) == before


def test_types_without_the_exchange_api():
    assert not exchange.has_api(np.ndarray)
    assert not exchange.has_api(list)
