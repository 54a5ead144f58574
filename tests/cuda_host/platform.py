"""The tests' stand-in for a CUDA device: its kernels run on the CPU, its memory is the host's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

from srwm._cy import launch
from srwm._raw_kernels import loader
from tests.cuda_host.raw_module import CudaHostError, Kernel, Memory, RawModule

# An H100's limits, with so few multiprocessors that blocks have several sequences one after the other.
LIMITS = launch.ARCHITECTURES[90]._replace(multiprocessors=1)

# The memory at each address of the call at hand. The sanitizers' programs get copies of it, so they need
# its size; backend.py fills it.
known: dict[int, Memory] = {}


WORD = 8  # bytes, of an address as of every number among the parameters

# What follows in cuLaunchKernel's `extra`, by CUDA's numbers.
_END, _BLOCK, _SIZE = 0, 1, 2


def parameters_of(extra: int) -> bytes:
    """The block of a launch's parameters, as a driver reads it."""
    named, at = {}, extra
    while (name := ctypes.c_uint64.from_address(at).value) != _END:
        named[name] = ctypes.c_uint64.from_address(at + WORD).value
        at += 2 * WORD
    if named.keys() != {_BLOCK, _SIZE}:
        raise CudaHostError(f"expected a block of parameters and its size, got what has numbers {[*named]}")
    return ctypes.string_at(named[_BLOCK], ctypes.c_uint64.from_address(named[_SIZE]).value)


class Platform(NamedTuple):
    """A driver of `srwm._cy.cuda`; how its kernels run: `raw_module.RawModule`."""

    mode: str = "plain"
    order: str = "forward"
    seed: int = 0
    device: launch.Limits = LIMITS
    most_blocks: int = 3  # of a grid, for the same reason
    source: Callable[[str], str] = loader.source  # the text of a kernel; tests plant faults here

    def limits(self) -> launch.Limits:
        """Those of the device."""
        return self.device

    def kernel(self, config: launch.Config, stream: int) -> Kernel:
        """The kernel of a config."""
        del stream  # none is captured here
        code, options = self.source(config.kernel), loader.options(config)
        module = RawModule(code=code, options=options, mode=self.mode, order=self.order, seed=self.seed)
        return module.get_function(config.kernel)

    def launch(
        self, kernel: Kernel, blocks: int, threads: int, shared_bytes: int, stream: int, extra: int
    ) -> None:
        """Run a kernel, on fewer blocks than asked for where those are many."""
        del stream
        arguments: list[Memory | bytes | None] = []
        block = parameters_of(extra)
        *first, last = kernel.takes_addresses
        for takes_address in first:
            held, block = block[:WORD], block[WORD:]
            address = int.from_bytes(held, "little")
            arguments.append(held if not takes_address else known[address] if address else None)
        assert not last, "the last parameter is a number, or a structure of numbers"
        arguments.append(block)
        blocks = min(blocks, self.most_blocks)
        kernel((blocks,), (threads,), tuple(arguments), shared_mem=shared_bytes)
