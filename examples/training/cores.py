"""Sequence models by name: what reads vectors step by step, and answers at every step.

Letters in the shapes: L steps, D the width.

All have one call, see `Core`. `build_core` makes them: a stack of layers of `srwm.nn`, an LSTM or a
Transformer. One table says which layer a name stands for, which options it takes, and in what the published
few-shot learners and the published agents differ.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm.nn import (
    SRWM,
    DeltaCDE,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    FeedForward,
    LinearAttention,
    RecurrentDeltaNet,
    Residual,
    SelfModifyingTitans,
    SRDelta,
    Stack,
)

CoreName = Literal[
    "srwm",
    "srwm_read",
    "sr_delta",
    "fake_sr",
    "deltanet",
    "deltanet_negative",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
    "self_modifying_titans",
    "deeper",
    "lstm",
    "transformer",
]

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
    """A sequence model, called ``outputs, states = core(inputs, states, resets, mask)``.

    Attributes
    ----------
    n_inputs, n_outputs : entries of an input vector, and of an output vector.
    n_states : tensors that it carries from one call to the next.
    """

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

        Raises
        ------
        TypeError : for resets or a mask that are not bool.
        ValueError : for shapes that do not fit, or another number of states.
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
        del lead
        return []

    @abstractmethod
    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        """A checked call; resets and mask have all axes of the inputs but the last one."""


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
        self.out_layer = _out_layer(s)
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


class LstmCore(Core):
    """An LSTM on the inputs themselves, and a linear map to the outputs.

    A state (..., 2, D) is a layer's hidden state and its cell. L is at least 1. Dropout is between the
    layers and before the last map. (The published few-shot LSTM takes the option and ignores it.)
    """

    def __init__(self, s: Sizes) -> None:
        super().__init__(s.n_inputs, s.n_outputs or s.d_model, s.n_layers)
        between = s.dropout if s.n_layers > 1 else 0.0  # torch warns of dropout with nothing in between
        self.lstm = nn.LSTM(s.n_inputs, s.d_model, s.n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(s.dropout)
        self.out_layer = _out_layer(s)
        with torch.no_grad():
            self.lstm.get_parameter("weight_ih_l0").mul_(s.input_gain)

    def initial_state(self, *lead: int) -> States:
        """See `Core`."""
        weight = self.lstm.get_parameter("weight_ih_l0")
        return [weight.new_zeros(*lead, 2, self.lstm.hidden_size) for _ in range(self.n_states)]

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        lead = inputs.shape[:-2]
        states = self.initial_state() if states is None else states
        for state in states:
            if state.shape[-2:] != (2, self.lstm.hidden_size) or not _broadcasts(state.shape[:-2], lead):
                raise ValueError(
                    f"core: states of an LSTM must be (..., 2, D = {self.lstm.hidden_size}), to go with "
                    f"inputs {tuple(inputs.shape)}, got {tuple(state.shape)}; pass what the core returned"
                )
        if torch.is_autocast_enabled(inputs.device.type):
            # In the parameters' precision: what is carried keeps it in the other cores too, and on many
            # CPUs there is no other LSTM.
            inputs = inputs.to(states[0].dtype)
        if mask is not None and not return_states:
            # Padding behind a sequence changes no output of it: read on, in one stretch.
            mask = mask | (mask.flip(-1).cumsum(-1).flip(-1) == 0)
        with torch.autocast(inputs.device.type, enabled=False):
            out, last = self._in_stretches(
                _one_axis(inputs, lead, 2),
                torch.stack([_one_axis(state, lead, 2) for state in states]),
                None if resets is None else _one_axis(resets, lead, 1),
                None if mask is None else _one_axis(mask, lead, 1),
            )
        outputs = self.out_layer(self.dropout(out.reshape(*lead, *out.shape[-2:])))
        return outputs, [state.reshape(*lead, *state.shape[-2:]) for state in last if return_states]

    def _in_stretches(
        self, inputs: Tensor, state: Tensor, resets: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Inputs (B, L, n_inputs), state (layers, B, 2, D) -> outputs (B, L, D), state.

        A stretch begins where any sequence does, or any one's padding begins or ends: within a stretch
        nothing is forgotten, and a sequence is padding from its beginning to its end, or not at all.
        """
        L = inputs.shape[1]
        begins = {0, L}
        if resets is not None:
            begins |= {t for t, begin in enumerate(resets.any(0).tolist()) if begin}
        if mask is not None:
            changes = (mask[:, 1:] != mask[:, :-1]).any(0)
            begins |= {t for t, change in enumerate(changes.tolist(), start=1) if change}
        outputs = []
        for first, end in pairwise(sorted(begins)):
            if resets is not None:
                state = state.masked_fill(resets[:, first, None, None], 0)
            hidden, cell = state.unbind(-2)
            out, last = self.lstm(inputs[:, first:end], (hidden.contiguous(), cell.contiguous()))
            outputs.append(out)
            following = torch.stack(last, dim=-2)
            state = following if mask is None else torch.where(mask[:, first, None, None], following, state)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state


class TransformerCore(Core):
    """A small causal Transformer, pre-norm, with sinusoidal positions: it reads sequences whole.

    It carries nothing: called with states or resets it raises ValueError. Padding is no position.
    """

    def __init__(self, s: Sizes) -> None:
        super().__init__(s.n_inputs, s.n_outputs or s.d_model)
        if s.d_model % s.n_heads:
            raise ValueError(
                f"build_core: d_model must be a multiple of n_heads = {s.n_heads}, got {s.d_model}; every "
                "head has d_model / n_heads entries"
            )
        self.input_proj = nn.Linear(s.n_inputs, s.d_model)
        sizes = s.d_model, s.n_heads, s.d_ff, s.dropout
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(*sizes, batch_first=True, norm_first=True) for _ in range(s.n_layers)
        )
        self.norm = nn.LayerNorm(s.d_model)
        self.out_layer = _out_layer(s)
        with torch.no_grad():
            self.input_proj.weight.mul_(s.input_gain)

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        del return_states
        if states is not None or resets is not None:
            raise ValueError(
                "core: a transformer carries nothing from one segment to the next: expected states and "
                "resets None; pass each sequence whole, in a row of its own"
            )
        *lead, L, _ = inputs.shape
        h = _one_axis(self.input_proj(inputs), lead, 2)
        order = None
        if mask is not None:
            # The steps of each sequence first, its padding behind them, which causal attention never sees.
            order = (~_one_axis(mask, lead, 1)).argsort(dim=-1, stable=True).unsqueeze(-1)
            h = h.gather(1, order.expand_as(h))
        h = h + sinusoidal_positions(L, h.shape[-1], h.device).to(h.dtype)
        causal = nn.Transformer.generate_square_subsequent_mask(L, h.device, h.dtype)
        for layer in self.layers:
            h = layer(h, src_mask=causal, is_causal=True)
        if order is not None:
            h = h.gather(1, order.argsort(dim=1).expand_as(h))
        return self.out_layer(self.norm(h.reshape(*lead, *h.shape[-2:]))), []


def sinusoidal_positions(L: int, D: int, device: torch.device | None = None) -> Tensor:
    """(L, D): sines, then cosines, of the step by frequencies from 1 down to 1 / 10,000."""
    half = (D + 1) // 2
    frequencies = 10_000 ** (-torch.arange(half, device=device) / half)
    angles = torch.arange(L, device=device).unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :D]


def _out_layer(s: Sizes) -> nn.Module:
    return nn.Identity() if s.n_outputs is None else nn.Linear(s.d_model, s.n_outputs)


def _one_axis(a: Tensor, lead: tuple[int, ...] | list[int], axes: int) -> Tensor:
    """Its leading axes, all but the last `axes`, broadcast to `lead` and made one."""
    rest = a.shape[a.ndim - axes :]
    return a.expand(*lead, *rest).reshape(math.prod(lead), *rest)


def _flags(name: str, flags: Flags, lead: torch.Size) -> Flags:
    """Resets or a mask, with all axes of the inputs but the last one."""
    if flags is None:
        return None
    if flags.dtype != torch.bool:
        raise TypeError(f"core: {name} must be bool, got {flags.dtype}; compare, e.g. {name} != 0")
    if flags.shape[-1:] != lead[-1:] or not _broadcasts(flags.shape, lead):
        raise ValueError(
            f"core: {name} must be (..., L = {lead[-1]}) and broadcast to {tuple(lead)}, the axes of the "
            f"inputs, got {tuple(flags.shape)}"
        )
    return flags.expand(lead)


def _broadcasts(own: torch.Size, lead: torch.Size) -> bool:
    """Whether axes `own` broadcast to `lead` as they are."""
    pairs = zip(reversed(own), reversed(lead), strict=False)
    return len(own) <= len(lead) and all(n in (1, m) for n, m in pairs)


@dataclass(frozen=True)
class _Kind:
    """What a name stands for.

    Attributes
    ----------
    mixer : makes the layer that mixes steps; None where it is no layer of `srwm.nn`.
    options : of `build_core`, which the core takes beside those that all take.
    few_shot, agents : keyword arguments of `mixer` in the published learners, and agents.
    """

    mixer: Callable[..., Any] | None = None
    options: tuple[str, ...] = ()
    few_shot: Mapping[str, Any] = field(default_factory=dict)
    agents: Mapping[str, Any] = field(default_factory=dict)


_REWRITING = ("residual", "input_softmax", "beta_init", "q_scale")
_PLAIN = {"residual": "plain", "input_softmax": True}
_NORM_SKIP = {"residual": "norm_skip", "input_softmax": False}

_KINDS: dict[CoreName, _Kind] = {
    "srwm": _Kind(SRWM, _REWRITING, _NORM_SKIP, _PLAIN),
    # In name, the layer of Automated Continual Learning: updates read a softmax of the input, outputs the
    # input itself.
    "srwm_read": _Kind(
        partial(SRWM, input_softmax=True, read="raw"),
        ("residual", "beta_init", "q_scale"),
        {"residual": "norm_skip"},
        {"residual": "plain"},
    ),
    "sr_delta": _Kind(SRDelta, _REWRITING, _NORM_SKIP, _PLAIN),
    "fake_sr": _Kind(FakeSR, ("residual", "input_softmax"), _NORM_SKIP, {"residual": "plain"}),
    "deltanet": _Kind(DeltaNet, agents={"eps": 1e-5}),
    # With rates up to 2 a step multiplies what a key reads by a number from -1 to 1, not 0 to 1.
    "deltanet_negative": _Kind(partial(DeltaNet, beta_range=2), agents={"eps": 1e-5}),
    "linear": _Kind(LinearAttention, agents={"sum_norm": True, "eps": 1e-5}),
    "recurrent_delta": _Kind(RecurrentDeltaNet),
    "delta_rnn": _Kind(DeltaRNN, agents={"feature_map": "softmax"}),
    "delta_delta": _Kind(DeltaDelta, agents={"eps": 1e-5}),
    "delta_cde": _Kind(DeltaCDE),  # a step for each input
    "self_modifying_titans": _Kind(SelfModifyingTitans),
    "deeper": _Kind(),
    "lstm": _Kind(),
    "transformer": _Kind(),
}


def check_options(core: str, **options: object) -> None:
    """Raise ValueError for options of `build_core` that are not of the core, and not at their defaults. A
    core that `build_core` does not know has sizes alone."""
    defaults = inspect.signature(build_core).parameters
    for option, value in options.items():
        # Sizes have none: they are of all.
        owners = [name for name, kind in _KINDS.items() if option in (*kind.options, "input_gain")]
        if owners and core not in owners and value != defaults[option].default:
            raise ValueError(
                f"build_core: {option} belongs to core {' or '.join(owners)}, got it with core {core!r}; "
                "leave it at its default"
            )


def build_core(
    core: CoreName,
    n_inputs: int,
    n_outputs: int | None = None,
    *,
    n_layers: int = 2,
    n_heads: int = 8,
    d_model: int = 128,
    d_ff: int = 512,
    dropout: float = 0.0,
    residual: Residual | None = None,
    input_softmax: bool | None = None,
    beta_init: float = 0.0,
    q_scale: float = 1.0,
    input_gain: float = 1.0,
    published: Literal["few_shot", "agents"] = "few_shot",
) -> Core:
    """A core by name, with fresh weights.

    Parameters
    ----------
    core : "lstm", `LstmCore`; "transformer", `TransformerCore`; or a `StackCore` with the layer of
        `srwm.nn` that `_KINDS` has, "deeper" with none but the feed-forward blocks.
    n_inputs, n_outputs : entries of an input vector, and of an output vector. None: D, and no last map.
    n_heads : of the layers; "deeper" and "lstm" have none.
    d_model : D, of an LSTM the entries of its hidden state.
    d_ff : width of the feed-forward blocks; an LSTM has none.
    input_gain : factor on the initial weights that the inputs meet first. With weak inputs the queries and
        keys of self-referential matrices start all but equal, their difference, which is what writes, close
        to 0, and training waits long on a plateau.
    residual, input_softmax : of the cores that `_KINDS` says, see `srwm.nn.SRWM`. None: as published.
    beta_init, q_scale : likewise.
    published : whose layers they are, those of the few-shot learners or of the agents.

    Raises
    ------
    ValueError : for an unknown name, an option that the core does not have, or sizes that do not fit.
    """
    if core not in get_args(CoreName):
        raise ValueError(f"build_core: core must be one of {', '.join(get_args(CoreName))}, got {core!r}")
    options: dict[str, Any] = {
        "residual": residual,
        "input_softmax": input_softmax,
        "beta_init": beta_init,
        "q_scale": q_scale,
    }
    check_options(core, **options, input_gain=input_gain)
    sizes = Sizes(n_inputs, n_outputs, n_layers, n_heads, d_model, d_ff, dropout, input_gain)
    if core == "lstm":
        return LstmCore(sizes)
    if core == "transformer":
        return TransformerCore(sizes)
    kind, mixer = _KINDS[core], None
    if kind.mixer is not None:
        given = {name: options[name] for name in kind.options if options[name] is not None}
        usual = kind.few_shot if published == "few_shot" else kind.agents
        mixer = partial(kind.mixer, d_model, n_heads, dropout=dropout, **{**usual, **given})
    return StackCore(sizes, mixer)
