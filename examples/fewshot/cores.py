"""The sequence models between the encoder and the answer: features and labels in, logits out.

Letters in the shapes: L positions, N classes to choose from, D the width.

A core is called ``logits, states = core(inputs, states, return_states=True)``, inputs (..., L, n_inputs),
logits (..., L, N). States hold what it carries from one segment to the next, one tensor a layer, whose
leading axes broadcast against those of the inputs: many queries can continue from one reading of their
support. No states: a sequence begins. Gradients flow through them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

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
    SelfModifyingTitans,
)

CoreName = Literal[
    "srwm",
    "deltanet",
    "lstm",
    "fake_sr",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
    "self_modifying_titans",
]


class LayerStack(nn.Module):
    """A linear map, layers of a mixer and a feed-forward block each, and a linear map to the logits.

    Parameters
    ----------
    n_inputs : entries of an input vector.
    n_outputs : N.
    mixer : makes a layer that mixes positions, called like `srwm.nn.SRWM`; D entries wide.
    n_layers : how many of them.
    d_model : D.
    ff_factor : width of the feed-forward blocks, in units of D.
    dropout : probability, in the feed-forward blocks.
    input_gain : factor on the initial weights of ``input_proj``. With weak inputs queries and keys
        start all but uniform, their difference, which is what writes, close to 0, and training
        waits long on the plateau at chance.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        mixer: Callable[[], nn.Module],
        *,
        n_layers: int,
        d_model: int,
        ff_factor: int = 4,
        dropout: float = 0.0,
        input_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_proj = nn.Linear(n_inputs, d_model)
        self.mixers = nn.ModuleList(mixer() for _ in range(n_layers))
        self.feed_forwards = nn.ModuleList(
            FeedForward(d_model, ff_factor * d_model, dropout=dropout) for _ in range(n_layers)
        )
        self.out_layer = nn.Linear(d_model, n_outputs)
        with torch.no_grad():
            self.input_proj.weight.mul_(input_gain)

    def forward(
        self, inputs: Tensor, states: list[Tensor] | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Inputs (..., L, n_inputs) -> logits (..., L, N), and what to continue with.

        A state is that of the layer's mixer: (..., H, D / H, columns), or none at all where the mixer
        carries nothing. Without ``return_states`` they are not computed.
        """
        h = self.input_proj(inputs)
        carried: list[Tensor | None] = [*states] if states else [None] * len(self.mixers)
        final: list[Tensor] = []
        for mixer, feed_forward, state in zip(self.mixers, self.feed_forwards, carried, strict=True):
            h, state = mixer(h, state, return_state=return_states)
            h, _ = feed_forward(h)
            if state is not None:
                final.append(state)
        return self.out_layer(h), final


class Lstm(nn.Module):
    """An LSTM on the inputs themselves and a linear map to the logits.

    Parameters
    ----------
    n_inputs : entries of an input vector.
    n_outputs : N.
    d_model : D, entries of the hidden state.
    n_layers : of the LSTM.
    dropout : probability, between the layers and before the linear map. (The published LSTM takes the
        option and ignores it.)
    input_gain : factor on the initial weights that the inputs meet first.
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        d_model: int,
        n_layers: int = 1,
        dropout: float = 0.0,
        input_gain: float = 1.0,
    ) -> None:
        super().__init__()
        between = dropout if n_layers > 1 else 0.0  # torch warns of dropout with nothing in between
        self.lstm = nn.LSTM(n_inputs, d_model, n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)
        self.out_layer = nn.Linear(d_model, n_outputs)
        with torch.no_grad():
            self.lstm.get_parameter("weight_ih_l0").mul_(input_gain)

    def forward(
        self, inputs: Tensor, states: list[Tensor] | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Inputs (..., L, n_inputs), L >= 1 -> logits (..., L, N), and what to continue with.

        A layer's state (..., 2, D) is its hidden state and its cell.
        """
        if torch.is_autocast_enabled(inputs.device.type):
            # In the parameters' precision: what is carried keeps it in the other cores too, and on many
            # CPUs there is no other LSTM.
            inputs = inputs.to(self.out_layer.weight.dtype)
        with torch.autocast(inputs.device.type, enabled=False):
            out, final = self._run(inputs, states)
        return self.out_layer(self.dropout(out)), final if return_states else []

    def _run(self, inputs: Tensor, states: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Inputs (..., L, n_inputs) -> hidden states (..., L, D), and what to continue with."""
        lead = inputs.shape[:-2]
        carried = None
        if states:
            lead = torch.broadcast_shapes(lead, states[0].shape[:-2])
            hidden, cell = torch.stack([_one_axis(state, lead) for state in states]).unbind(-2)
            carried = (hidden.contiguous(), cell.contiguous())  # (layers, B, D) each
        out, last = self.lstm(_one_axis(inputs, lead), carried)
        out = out.reshape(*lead, *out.shape[-2:])
        return out, [state.reshape(*lead, *state.shape[-2:]) for state in torch.stack(last, dim=-2)]


def _one_axis(a: Tensor, lead: tuple[int, ...]) -> Tensor:
    """(..., i, j), its leading axes broadcast to `lead` and made one."""
    return a.expand(*lead, *a.shape[-2:]).reshape(math.prod(lead), *a.shape[-2:])


Core = LayerStack | Lstm


def build_core(
    core: CoreName,
    n_inputs: int,
    n_outputs: int,
    *,
    n_layers: int = 2,
    n_heads: int = 16,
    d_model: int = 256,
    ff_factor: int = 4,
    dropout: float = 0.0,
    beta_init: float = 0.0,
    q_scale: float = 1.0,
    input_softmax: bool = False,
    input_gain: float = 1.0,
) -> Core:
    """A core by name, with the layers of the paper's few-shot experiments.

    Parameters
    ----------
    core : "srwm", `srwm.nn.SRWM`; "deltanet", `srwm.nn.DeltaNet`; "fake_sr", `srwm.nn.FakeSR` in the SRWM
        layer's residual form; "lstm", `Lstm`; "linear", `srwm.nn.LinearAttention`; "recurrent_delta",
        `srwm.nn.RecurrentDeltaNet`; "delta_rnn", `srwm.nn.DeltaRNN`; "delta_delta", `srwm.nn.DeltaDelta`;
        "delta_cde", `srwm.nn.DeltaCDE`, a step for each input; "self_modifying_titans",
        `srwm.nn.SelfModifyingTitans`.
    n_inputs, n_outputs, n_layers, d_model, dropout, input_gain : see `LayerStack` and `Lstm`.
    n_heads, ff_factor : of the layers; an LSTM has neither heads nor feed-forward blocks.
    beta_init, q_scale : see `srwm.nn.SRWM`; for "srwm" alone.
    input_softmax : see `srwm.nn.SRWM`; for "srwm" and "fake_sr" alone.

    Raises
    ------
    ValueError : for an unknown name, an option that the core does not have, or sizes that do not fit.
    """
    if core not in get_args(CoreName):
        raise ValueError(f"build_core: core must be one of {', '.join(get_args(CoreName))}, got {core!r}")
    for option, changed, cores in (
        ("beta_init", beta_init != 0, ("srwm",)),
        ("q_scale", q_scale != 1, ("srwm",)),
        ("input_softmax", input_softmax, ("srwm", "fake_sr")),
    ):
        if changed and core not in cores:
            raise ValueError(
                f"build_core: {option} belongs to core {' or '.join(cores)}, got it with core {core!r}; "
                "leave it at its default"
            )
    if core == "lstm":
        return Lstm(
            n_inputs,
            n_outputs,
            d_model=d_model,
            n_layers=n_layers,
            dropout=dropout,
            input_gain=input_gain,
        )
    mixers: dict[str, Callable[[], nn.Module]] = {
        "srwm": partial(
            SRWM,
            *(d_model, n_heads),
            input_softmax=input_softmax,
            beta_init=beta_init,
            q_scale=q_scale,
            dropout=dropout,
        ),
        "deltanet": partial(DeltaNet, d_model, n_heads, dropout=dropout),
        "linear": partial(LinearAttention, d_model, n_heads, dropout=dropout),
        "recurrent_delta": partial(RecurrentDeltaNet, d_model, n_heads, dropout=dropout),
        "delta_rnn": partial(DeltaRNN, d_model, n_heads, dropout=dropout),
        "delta_delta": partial(DeltaDelta, d_model, n_heads, dropout=dropout),
        "delta_cde": partial(DeltaCDE, d_model, n_heads, dropout=dropout),
        "self_modifying_titans": partial(SelfModifyingTitans, d_model, n_heads, dropout=dropout),
        "fake_sr": partial(
            FakeSR,
            *(d_model, n_heads),
            residual="norm_skip",
            input_softmax=input_softmax,
            dropout=dropout,
        ),
    }
    return LayerStack(
        n_inputs,
        n_outputs,
        mixers[core],
        n_layers=n_layers,
        d_model=d_model,
        ff_factor=ff_factor,
        dropout=dropout,
        input_gain=input_gain,
    )
