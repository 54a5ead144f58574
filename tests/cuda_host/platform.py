"""The tests' stand-in for a CUDA device: its kernels run on the CPU, its memory is the host's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from srwm._cy import launch
from srwm._raw_kernels import loader
from srwm._raw_kernels.passes import Bound
from tests.cuda_host.raw_module import Kernel, Memory, RawModule

# An H100's limits, with so few multiprocessors that blocks have several sequences one after the other.
LIMITS = launch.ARCHITECTURES[90]._replace(multiprocessors=1)

# The memory at each address of the call at hand. The sanitizers' programs get copies of it, so they need
# its size; backend.py fills it.
known: dict[int, Memory] = {}


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

    def kernel(self, plan: launch.Plan) -> Kernel:
        """The kernel of a plan."""
        code, options = self.source(plan.kernel), loader.options(plan)
        module = RawModule(code=code, options=options, mode=self.mode, order=self.order, seed=self.seed)
        return module.get_function(plan.kernel)

    def launch(self, bound: Bound, addresses: tuple[int, ...], stream: int) -> None:
        """Run a kernel, on fewer blocks than asked for where those are many."""
        del stream
        memory = (known[address] if address else None for address in addresses)
        blocks = min(bound.blocks, self.most_blocks)
        bound.kernel((blocks,), (bound.threads,), (*memory, *bound.values), shared_mem=bound.dynamic)
