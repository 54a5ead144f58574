"""The tests' stand-in for a CUDA device: NumPy arrays for CuPy's, the kernels run on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from srwm._cy import launch
from srwm._raw_kernels import loader
from tests.cuda_host.raw_module import Kernel, RawModule

# An H100's limits, with so few multiprocessors that blocks have several sequences one after the other.
LIMITS = launch.ARCHITECTURES[90]._replace(multiprocessors=1)


class Platform(NamedTuple):
    """A platform of `srwm._raw_kernels.passes`; how its kernels run: `raw_module.RawModule`."""

    mode: str = "plain"
    order: str = "forward"
    seed: int = 0
    device: launch.Limits = LIMITS
    most_blocks: int = 3  # of a grid, for the same reason
    source: Callable[[str], str] = loader.source  # the text of a kernel; tests plant faults here

    def limits(self) -> launch.Limits:
        """Those of the device."""
        return self.device

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Memory that shows whether all of it was written: NaN."""
        memory = np.empty(shape, dtype)
        memory.reshape(-1).view(np.uint8)[:] = 0xFF
        return memory

    def kernel(self, plan: launch.Plan) -> Kernel:
        """The kernel of a plan."""
        code, options = self.source(plan.kernel), loader.options(plan)
        module = RawModule(code=code, options=options, mode=self.mode, order=self.order, seed=self.seed)
        return module.get_function(plan.kernel)

    def launch(self, plan: launch.Plan, blocks: int, args: tuple[Any, ...], dynamic: int) -> None:
        """Run a kernel, on fewer blocks than asked for where those are many."""
        blocks = min(blocks, self.most_blocks)
        self.kernel(plan)((blocks,), (plan.threads,), args, shared_mem=dynamic)
