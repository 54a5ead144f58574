"""A sequence of layers as one layer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._layer import Layer

State = tuple[Any, ...]


class Stack(Layer):
    """A sequence of layers with the call of one layer: ``out, state = stack(h, state, reset, mask)``.

    All layers get reset and mask. The state is a tuple with the state of each layer, None for layers
    without a state.

    Parameters
    ----------
    layers : iterable of layers
        Layers of this module: `SRWM`, `DeltaNet`, `FeedForward` and so on, or stacks of them. The inputs
        of each have the size of the outputs of the previous one.

    Attributes
    ----------
    layers : ModuleList
        The layers.

    Raises
    ------
    TypeError
        An element that is not a layer of this module, or an argument that is not iterable.
    ValueError
        No layers, or sizes of neighbouring layers that do not fit.

    Notes
    -----
    The models of Irie et al., ICML 2022, are such stacks: a mixing layer and a feed-forward block,
    repeated.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import SRWM, FeedForward, Stack
    >>> stack = Stack(layer for _ in range(2) for layer in (SRWM(64, n_heads=4), FeedForward(64, 256)))
    >>> out, state = stack(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = stack(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, [None if layer is None else layer.shape for layer in state]
    (torch.Size([8, 20, 64]), [torch.Size([8, 4, 16, 52]), None, torch.Size([8, 4, 16, 52]), None])
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(layers, Iterable):
            raise TypeError(
                f"{name}: layers: expected an iterable of layers, got {type(layers).__name__}; pass a list"
            )
        given = list(layers)
        if not given:
            raise ValueError(f"{name}: layers: expected at least one, got none; pass a list of layers")
        for i, layer in enumerate(given):
            if not isinstance(layer, Layer):
                raise TypeError(
                    f"{name}: layers[{i}]: expected a layer of srwm.nn, which is called (h, state, reset, "
                    f"mask), got {type(layer).__name__}; call other modules before or behind the stack"
                )
        for i, (layer, following) in enumerate(pairwise(given)):
            if layer.d_out != following.d_model:
                raise ValueError(
                    f"{name}: layers[{i + 1}]: expected inputs of {layer.d_out} entries, which layers[{i}] "
                    f"gives, got d_model = {following.d_model}; make the sizes follow from one another"
                )
        self.layers = nn.ModuleList(given)
        self.d_model, self.d_out = given[0].d_model, given[-1].d_out

    def reset_parameters(self) -> None:
        """Initialise all parameters again."""
        for layer in self._layers():
            layer.reset_parameters()

    def initial_state(self, *lead: int) -> State:
        """The state of sequences that begin: a tuple with that of each layer.

        Parameters
        ----------
        *lead : int
            Leading axes, those of the inputs: ``initial_state(B)`` is for h (B, L, d_model).

        Returns
        -------
        state : tuple of (Tensor (*lead, H, D, columns) or None)

        Examples
        --------
        >>> from srwm.nn import DeltaNet, FeedForward, Stack
        >>> fast_weights, nothing = Stack([DeltaNet(12, n_heads=3), FeedForward(12, 24)]).initial_state(5)
        >>> fast_weights.shape, nothing
        (torch.Size([5, 3, 4, 4]), None)
        """
        _checks.lead(f"{type(self).__name__}.initial_state", lead)
        return tuple(layer.initial_state(*lead) for layer in self._layers())

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        return self._layers()[0]._kind()

    def _layers(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))

    def _check_state(self, call: str, argument: str, state: Any, h: Tensor, *, has_steps: bool) -> None:
        _checks.states(call, argument, state, len(self.layers))
        if state is None:
            return
        for i, (layer, own) in enumerate(zip(self._layers(), state, strict=True)):
            layer._check_state(call, f"{argument}[{i}]", own, h, has_steps=has_steps)

    def _run(
        self,
        h: Tensor,
        state: State | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, State | None]:
        mask = None if padding is None else ~padding
        following = []
        for layer, own in zip(self.layers, state or (None,) * len(self.layers), strict=True):
            h, own = layer(h, own, reset, mask, return_state=return_state)
            following.append(own)
        return h, tuple(following) if return_state else None
