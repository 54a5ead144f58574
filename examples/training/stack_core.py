"""A core that is a stack of layers of `srwm.nn`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from srwm.nn import FeedForward, Stack

from .core import Core, Flags, Sizes, States, out_layer


class StackCore(Core):
    """A linear map, layers of a mixer and a feed-forward block each, and a linear map to the outputs.

    A mixer is a layer of `srwm.nn`, D entries wide; None: there are only feed-forward blocks. A state is
    that of a layer's mixer, (..., H, D / H, columns), or none at all where it carries nothing.
    """

    def __init__(self, s: Sizes, mixer: Callable[[], Any] | None) -> None:
        super().__init__(s.n_inputs, s.n_outputs or s.d_model)
        # In this order the weights are drawn: with a seed they are those of the published results.
        self.input_proj = nn.Linear(s.n_inputs, s.d_model)
        mixers = [[] if mixer is None else [mixer()] for _ in range(s.n_layers)]
        blocks = [FeedForward(s.d_model, s.d_ff, dropout=s.dropout) for _ in range(s.n_layers)]
        self.stack = Stack(
            layer for own, block in zip(mixers, blocks, strict=True) for layer in (*own, block)
        )
        self.out_layer = out_layer(s)
        with torch.no_grad():
            self.input_proj.weight.mul_(s.input_gain)
        self._carries = [state is not None for state in self.stack.initial_state()]
        self.n_states = sum(self._carries)

    def initial_state(self, *lead: int) -> States:
        """See `Core`."""
        return [state for state in self.stack.initial_state(*lead) if state is not None]

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        carried = None
        if states is not None:
            own = iter(states)
            carried = tuple(next(own) if carries else None for carries in self._carries)
        h, following = self.stack(
            self.input_proj(inputs), carried, resets, mask, return_state=return_states
        )
        return self.out_layer(h), [state for state in following or () if state is not None]
