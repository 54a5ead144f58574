"""What a sequence model is to all programs: vectors step by step in, an answer at every step out.

Letters in the shapes: L steps, D the width.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

States = list[Tensor]  # what a core carries, one tensor for each layer that carries something
Flags = Tensor | None  # (..., L) bool


@dataclass(frozen=True)
class Sizes:
    """What all cores take, see `build_core`; some do without n_heads or d_ff."""

    n_inputs: int
    n_outputs: int | None
    n_layers: int
    n_heads: int
    d_model: int
    d_ff: int
    dropout: float
    input_gain: float


class Core(nn.Module, ABC):
    """A sequence model, called ``outputs, states = core(inputs, states, resets, mask)``, that carries
    `n_states` tensors from one call to the next.
    """

    # Whether short sequences cost less one behind the other, with resets, than each with its padding.
    packs: ClassVar[bool] = True

    def __init__(self, n_inputs: int, n_outputs: int, n_states: int = 0) -> None:
        super().__init__()
        self.n_inputs, self.n_outputs, self.n_states = n_inputs, n_outputs, n_states

    def forward(
        self,
        inputs: Tensor,
        states: States | None = None,
        resets: Flags = None,
        mask: Flags = None,
        *,
        return_states: bool = True,
    ) -> tuple[Tensor, States]:
        """Go through a segment of L steps.

        Parameters
        ----------
        inputs : (..., L, n_inputs).
        states : `n_states` tensors, what the call before returned or `initial_state`. Their leading axes
            broadcast to those of the inputs, so that many queries can continue from one reading. None:
            sequences begin. Gradients flow through them.
        resets : (..., L) bool, whose leading axes broadcast likewise. Where it is true a new sequence
            begins: before that step whatever is carried is forgotten.
        mask : (..., L) bool, likewise. False at padding, which may be anywhere: all else is as without
            those steps, whatever the inputs and resets are there. The outputs there are finite, no more.
        return_states : whether they are wanted.

        Returns
        -------
        outputs : (..., L, n_outputs).
        states : to continue with, with the leading axes of the inputs; none without `return_states`.
        """
        lead = inputs.shape[:-1]
        if not lead or inputs.shape[-1] != self.n_inputs:
            raise ValueError(
                f"core: inputs must be (..., L, n_inputs = {self.n_inputs}), got {tuple(inputs.shape)}"
            )
        if states is not None and len(states) != self.n_states:
            raise ValueError(
                f"core: states must be {self.n_states} tensors, got {len(states)}; pass what the core "
                "returned, its initial_state, or None where sequences begin"
            )
        resets, mask = _flags("resets", resets, lead), _flags("mask", mask, lead)
        if mask is not None:
            # In front of the first linear map, in whose gradient 0 * NaN would be NaN.
            inputs = inputs.masked_fill(~mask.unsqueeze(-1), 0)
            resets = None if resets is None else resets & mask
        return self._run(inputs, states, resets, mask, return_states)

    def initial_state(self, *lead: int) -> States:
        """What is carried after no steps at all: `n_states` tensors (*lead, ...), zeros."""
        return []

    @abstractmethod
    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        """A checked call; resets and mask have all axes of the inputs but the last one."""


def out_layer(s: Sizes) -> nn.Module:
    return nn.Identity() if s.n_outputs is None else nn.Linear(s.d_model, s.n_outputs)


def one_axis(a: Tensor, lead: tuple[int, ...] | list[int], axes: int) -> Tensor:
    """Its leading axes, all but the last `axes`, broadcast to `lead` and made one."""
    rest = a.shape[a.ndim - axes :]
    return a.expand(*lead, *rest).reshape(math.prod(lead), *rest)


def _flags(name: str, flags: Flags, lead: torch.Size) -> Flags:
    """Resets or a mask, with all axes of the inputs but the last one."""
    if flags is None:
        return None
    if flags.dtype != torch.bool:
        raise TypeError(f"core: {name} must be bool, got {flags.dtype}; compare, e.g. {name} != 0")
    if flags.shape[-1:] != lead[-1:] or not broadcasts(flags.shape, lead):
        raise ValueError(
            f"core: {name} must be (..., L = {lead[-1]}) and broadcast to {tuple(lead)}, the axes of the "
            f"inputs, got {tuple(flags.shape)}"
        )
    return flags.expand(lead)


def broadcasts(own: torch.Size, lead: torch.Size) -> bool:
    """Whether axes `own` broadcast to `lead` as they are."""
    pairs = zip(reversed(own), reversed(lead), strict=False)
    return len(own) <= len(lead) and all(n in (1, m) for n, m in pairs)
