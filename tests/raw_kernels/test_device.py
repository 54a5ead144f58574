"""What a launch asks of CuPy: a device's functions stood in for, its kernels run on the CPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from srwm._raw_kernels import loader
from srwm._raw_kernels.backend import Device
from tests.cuda_host import backend
from tests.cuda_host.platform import Platform
from tests.operators import CUDA_ON_HOST, STARTS, assert_same, each_operator, random_case

# Without a C++ compiler no kernel can be built; in CI tests/operators.py fails for that.
pytestmark = pytest.mark.skipif(backend.unusable() is not None, reason=str(backend.unusable()))

INDEX = 1  # of the device that the arrays are on


class Cuda:
    """CUDA in one thread: its current device and context, and what was launched where."""

    def __init__(self, current, context):
        self.current, self.context, self.kernels, self.launched_on = current, context, [], set()

    def set_device(self, index):
        self.current = self.context = index

    def function(self, plan, index):
        assert index == INDEX
        self.kernels.append(Platform().kernel(plan))
        return SimpleNamespace(kernel=SimpleNamespace(ptr=len(self.kernels)))

    def launch(self, handle, blocks, y, z, threads, of_y, of_z, shared_bytes, stream, params, extra):
        assert (y, z, of_y, of_z, stream, params) == (1, 1, 1, 1, backend.STREAM, 0)
        Platform().launch(self.kernels[handle - 1], blocks, threads, shared_bytes, stream, extra)
        self.launched_on.add(self.context)


@pytest.mark.parametrize(
    ("current", "context"), [(1, 1), (0, 0), (1, None), (0, None)], ids=["it", "another", "new", "neither"]
)
@each_operator
def test_kernels_are_launched_on_the_device_of_the_arrays(row, current, context, monkeypatch):
    """Whichever device is current in the thread, and whether the thread has a context yet."""
    cupy = pytest.importorskip("cupy")
    cuda = Cuda(current, context)
    monkeypatch.setattr(loader, "limits", lambda index: Platform().limits())
    monkeypatch.setattr(loader, "function", cuda.function)
    monkeypatch.setattr(cupy.cuda, "Device", lambda index: pytest.MonkeyPatch.context())
    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: cuda.current)
    monkeypatch.setattr(cupy.cuda.runtime, "setDevice", cuda.set_device)
    monkeypatch.setattr(cupy.cuda.driver, "ctxGetCurrent", lambda: 0 if cuda.context is None else 1)
    monkeypatch.setattr(cupy.cuda.driver, "launchKernel", cuda.launch)
    case = random_case(row, ((3,), (), 5, 4, 3), **STARTS["state-reset"]).astype(np.float32)
    expected = CUDA_ON_HOST.run(case)
    with backend.on(Device(INDEX)):
        assert_same(CUDA_ON_HOST.run(case), expected)
    assert cuda.launched_on == {INDEX}
    assert cuda.current == current
