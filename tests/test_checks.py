"""Every bad input: the error's type, and a message with operation, argument, expected, got, remedy."""

from __future__ import annotations

import numpy as np
import pytest

import srwm
from srwm import _dispatch

x = np.zeros((5, 7, 3), np.float32)
W = np.zeros((3, 2 + 6 + 4), np.float32)
y = np.zeros((5, 7, 2), np.float32)
W_next = np.zeros((5, 3, 12), np.float32)

BAD_OPERANDS = {
    "list": (([[1.0]], W), {}, TypeError, r"x: expected an array .* got builtins.list; convert"),
    "None": ((x, None), {}, TypeError, r"W: expected an array .* got builtins.NoneType"),
    "scalar": (
        (np.zeros((), "f"), W),
        {},
        ValueError,
        r"x: expected shape \(\.\.\., L, D\), got \(\) with 0 axes",
    ),
    "rank of x": (
        (x[0, 0], W),
        {},
        ValueError,
        r"x: expected shape .* got \(3,\) with 1 axes; add",
    ),
    "rank of W": ((x, W[0]), {}, ValueError, r"W: expected shape \(\.\.\., D, M\), got \(12,\)"),
    "D": (
        (x, np.zeros((4, 14), "f")),
        {},
        ValueError,
        r"W: expected shape \(\.\.\., D=3, M\).*\(4, 14\)",
    ),
    "M": (
        (x, W[:, :10]),
        {},
        ValueError,
        r"M = Do \+ 2 D \+ 4 >= 11 columns for D = 3 .* got M = 10",
    ),
    "D = 0": ((x[..., :0], W[:0]), {}, ValueError, r"D >= 1, got \(5, 7, 0\)"),
    "leading axes": (
        (x, np.zeros((4, 3, 12), "f")),
        {},
        ValueError,
        r"W: expected leading axes that broadcast with those of x \(5, 7, 3\), got \(4, 3, 12\)",
    ),
    "mixed dtypes": (
        (x, W.astype("d")),
        {},
        TypeError,
        r"W: expected the dtype of x, float32, got float64; cast",
    ),
    "integers": (
        (x.astype(int), W.astype(int)),
        {},
        TypeError,
        r"x: expected dtype float16.* got int64",
    ),
    "complex": ((x + 0j, W + 0j), {}, TypeError, r"x: expected dtype .* got complex64"),
    "objects": (
        (x.astype(object), W.astype(object)),
        {},
        TypeError,
        r"x: expected dtype .* got object",
    ),
    "long double": ((x.astype("g"), W.astype("g")), {}, TypeError, r"x: expected dtype .* got"),
    "byte order": (
        (x.astype(">f4"), W.astype(">f4")),
        {},
        TypeError,
        r"\(native byte order\), got >f4",
    ),
    "masked": ((np.ma.array(x), W), {}, TypeError, r"x: expected a plain array, got numpy.ma"),
    "masked W": ((x, np.ma.array(W)), {}, TypeError, r"W: expected a plain array, got numpy.ma"),
    "reset not bool": (
        (x, W),
        {"reset": np.zeros((5, 7), int)},
        TypeError,
        r"reset: expected dtype bool, got int64; compare, e.g. done != 0",
    ),
    "reset length": (
        (x, W),
        {"reset": np.zeros((5, 6), bool)},
        ValueError,
        r"reset: expected shape \(\.\.\., L=7\), one flag for each step of x \(5, 7, 3\), got \(5, 6\)",
    ),
    "reset scalar": (
        (x, W),
        {"reset": np.zeros((), bool)},
        ValueError,
        r"reset: expected shape .* got \(\)",
    ),
    "reset list": ((x, W), {"reset": [True] * 7}, TypeError, r"reset: expected an array"),
    "reset leading axes": (
        (x, W),
        {"reset": np.zeros((4, 7), bool)},
        ValueError,
        r"leading axes that broadcast .* and of reset \(4, 7\)",
    ),
    "backend": (
        (x, W),
        {"backend": "cupy"},
        ValueError,
        r"backend: expected one of cython, cuda, reference",
    ),
    "cuda": (
        (x, W),
        {"backend": "cuda"},
        RuntimeError,
        r"backend 'cuda' cannot run: (CuPy cannot|CUDA finds no|there is no CUDA|it takes CUDA arrays)",
    ),
    "no threads": (
        (x, W),
        {"num_threads": 0},
        ValueError,
        r"num_threads: expected an int >= 1, got 0",
    ),
    "half a thread": (
        (x, W),
        {"num_threads": 0.5},
        ValueError,
        r"num_threads: expected an int >= 1",
    ),
}


@pytest.mark.parametrize("operation", ["forward", "vjp", "backward"])
@pytest.mark.parametrize("bad", BAD_OPERANDS)
def test_bad_operands(operation, bad):
    arguments, options, error, message = BAD_OPERANDS[bad]
    gradients = (y,) if operation == "backward" else ()
    with pytest.raises(error, match=rf"^srwm\.{operation}: .*{message}"):
        getattr(srwm, operation)(*arguments, *gradients, **options)


BAD_GRADIENTS = {
    "shape of grad_y": (
        (y[:, :6], None),
        ValueError,
        r"grad_y: expected the shape of y, \(5, 7, 2\), got \(5, 6, 2\)",
    ),
    "dtype of grad_y": (
        (y.astype("d"), None),
        TypeError,
        r"grad_y: expected the dtype of x, float32, got float64",
    ),
    "grad_y missing": ((None, W_next), TypeError, r"grad_y: expected an array"),
    "shape of grad_W_next": (
        (y, W),
        ValueError,
        r"grad_W_next: expected the shape of W_next, \(5, 3, 12\), got \(3, 12\)",
    ),
    "type of grad_W_next": (
        (y, 1.0),
        TypeError,
        r"grad_W_next: expected an array .* got builtins.float",
    ),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
def test_bad_gradients(bad):
    gradients, error, message = BAD_GRADIENTS[bad]
    with pytest.raises(error, match=rf"^srwm\.backward: {message}"):
        srwm.backward(x, W, *gradients)
    _, pullback = srwm.vjp(x, W)
    with pytest.raises(error, match=rf"^srwm\.vjp: {message}"):
        pullback(*gradients)


def test_pack_names_the_block_that_does_not_fit():
    good = [np.zeros((3, n)) for n in (2, 3, 3, 4)]
    for i, (name, bad, error, message) in enumerate(
        [
            ("W_y", [1.0], TypeError, "expected an array"),
            (
                "W_q",
                np.zeros((3, 2)),
                ValueError,
                r"expected the shape of D = 3, \(3, 3\), got \(3, 2\)",
            ),
            ("W_k", np.zeros((3, 3), np.float32), TypeError, "expected the dtype of x"),
            ("w_beta", np.zeros(4), ValueError, "expected shape"),
        ]
    ):
        blocks = [*good[:i], bad, *good[i + 1 :]]
        with pytest.raises(error, match=rf"^srwm\.pack: {name}.*{message}"):
            srwm.pack(*blocks)
    with pytest.raises(ValueError, match=r"^srwm\.pack: expected leading axes that broadcast"):
        srwm.pack(np.zeros((2, 3, 2)), np.zeros((4, 3, 3)), *good[2:])


def test_unpack_names_what_is_missing():
    with pytest.raises(ValueError, match=r"^srwm\.unpack: W: expected M = Do \+ 2 D \+ 4 >= 11"):
        srwm.unpack(np.zeros((3, 10)))
    with pytest.raises(TypeError, match=r"^srwm\.unpack: W: expected dtype"):
        srwm.unpack(np.zeros((3, 12), int))


class OnDevice:
    """An array of a library that says it lies elsewhere."""

    def __init__(self, a, device):
        self.shape, self.dtype, self.ndim, self.device = a.shape, a.dtype, a.ndim, device

    def __dlpack__(self, **options):
        raise BufferError("not exported in this test")

    def __dlpack_device__(self):
        return self.device


def test_devices_are_named_and_never_mixed():
    gpu = OnDevice(x, (2, 0)), OnDevice(W, (2, 0))
    if _dispatch.states()["cuda"] != "usable":
        with pytest.raises(RuntimeError, match=r"^srwm\.forward: no backend takes arrays on the cuda here"):
            srwm.forward(*gpu)
    with pytest.raises(
        ValueError, match=r"W: expected on the device of x, \('cuda', 0\), got \('cuda', 1\)"
    ):
        srwm.forward(gpu[0], OnDevice(W, (2, 1)))
    with pytest.raises(RuntimeError, match=r"no backend takes arrays on the DLPack device type 8"):
        srwm.forward(OnDevice(x, (8, 0)), OnDevice(W, (8, 0)))
    with pytest.raises(
        TypeError, match=r"x: expected an array that DLPack can share .* refuses: not exported"
    ):
        srwm.forward(OnDevice(x, (1, 0)), OnDevice(W, (1, 0)))
    with pytest.raises(TypeError, match=r"W: expected the array type of x, .*OnDevice, got numpy.ndarray"):
        srwm.forward(gpu[0], W)


def test_warmup_says_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"^srwm\.warmup: dtype: expected one of float16, .* got 'int8'"):
        srwm.warmup(16, 16, "int8")
    if _dispatch.states()["cuda"] != "usable":
        with pytest.raises(RuntimeError, match=r"^srwm\.warmup: backend 'cuda' cannot run"):
            srwm.warmup(16, 16, np.float32)
