"""What lies between the features of a step and the heads that act on them, by name.

Letters in the shapes: B sequences, L steps, D the width.

A core is called ``outputs, states = core(inputs, dones, states, return_states=True)``, inputs
(B, L, n_inputs), dones (B, L) bool, outputs (B, L, n_outputs). Where `dones` is true a new episode begins,
and whatever is carried is forgotten before that step. States are what a core carries from one call to the
next, `n_states` tensors (B, ...), one a layer; those of sequences that begin are ``core.initial_state(B)``,
or none at all. Gradients flow through them. All parameters start from torch's defaults, as published, but
for the matrices of the layers in `srwm.nn` that rewrite themselves, and of "fake SR".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast, get_args

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
)

CoreName = Literal[
    "feedforward",
    "lstm",
    "deeper",
    "deltanet",
    "srwm",
    "srwm_no_carry",
    "fake_sr",
    "sr_delta",
    "linear",
    "recurrent_delta",
    "delta_rnn",
    "delta_delta",
    "delta_cde",
    "self_modifying_titans",
]

State = list[Tensor]  # what a core carries, one tensor a layer


class Direct(nn.Module):
    """No core: the heads see the inputs themselves."""

    n_states = 0

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.n_inputs = self.n_outputs = n_inputs

    def forward(
        self, inputs: Tensor, dones: Tensor, states: State | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, State]:
        """Inputs (B, L, n_inputs) -> the same, and no states."""
        del dones, states, return_states
        return inputs, []

    def initial_state(self, count: int) -> State:
        """None."""
        del count
        return []


class LayerStack(nn.Module):
    """A linear map to D entries, and layers of a mixer and a feed-forward block each.

    Parameters
    ----------
    n_inputs : entries of an input vector.
    mixer : makes a layer that mixes steps, called like `srwm.nn.SRWM`; D entries wide. None: there are
        only feed-forward blocks.
    n_layers : how many layers.
    d_model : D, also `n_outputs`.
    d_ff : width of the feed-forward blocks.
    input_gain : factor on the initial weights of ``input_proj``: where self-referential matrices see weak
        inputs, their queries and keys start all but equal, and their difference is what writes.
    """

    def __init__(
        self,
        n_inputs: int,
        mixer: Callable[[], nn.Module] | None,
        *,
        n_layers: int = 2,
        d_model: int = 128,
        d_ff: int = 512,
        input_gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_inputs, self.n_outputs = n_inputs, d_model
        self.input_proj = nn.Linear(n_inputs, d_model)
        self.mixers = nn.ModuleList(mixer() for _ in range(n_layers) if mixer is not None)
        self.feed_forwards = nn.ModuleList(FeedForward(d_model, d_ff) for _ in range(n_layers))
        with torch.no_grad():
            self.input_proj.weight.mul_(input_gain)
        self.n_states = len(self.initial_state(1))

    def forward(
        self, inputs: Tensor, dones: Tensor, states: State | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, State]:
        """Inputs (B, L, n_inputs) -> outputs (B, L, D), and what to continue with.

        A state is that of the layer's mixer, (B, H, D / H, columns), or there is none where the mixer
        carries nothing. Without `return_states` they are not computed.
        """
        h = self.input_proj(inputs)
        carried: list[Tensor | None] = [*states] if states else [None] * len(self.mixers)
        final: State = []
        for layer, feed_forward in enumerate(self.feed_forwards):
            if self.mixers:
                h, state = self.mixers[layer](h, carried[layer], dones, return_state=return_states)
                if state is not None:
                    final.append(state)
            h, _ = feed_forward(h)
        return h, final

    def initial_state(self, count: int) -> State:
        """Zeros: what is carried after no steps at all."""
        states: list[Tensor | None] = [
            cast("DeltaNet | NoCarry", mixer).initial_state(count)  # or another layer, all called alike
            for mixer in self.mixers
        ]
        return [state for state in states if state is not None]


class NoCarry(nn.Module):
    """The ablation "no carry": an `SRWM` whose every step starts from the learned matrices.

    What a step writes is forgotten before the next one, so that keys, queries and rates change nothing and
    never learn (their gradients are exactly zero): the layer is a feed-forward one,
    ``h + out_linear(softmax(h) W_y)``, from which "fake SR" differs by the softmax alone. So it is in the
    published experiments too, though the name speaks of a state that is reset.

    Parameters
    ----------
    layer : whose every step this is.
    """

    def __init__(self, layer: SRWM) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self,
        h: Tensor,
        state: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, None]:
        """As `srwm.nn.SRWM`: h (..., L, D) -> (..., L, D), and None in a state's place."""
        del state, reset, return_state
        out, _ = self.layer.step(h, return_state=False)  # each step a sequence
        return out, None

    def initial_state(self, count: int) -> None:
        """None."""
        del count


class Lstm(nn.Module):
    """One layer of LSTM on the inputs themselves.

    Parameters
    ----------
    n_inputs : entries of an input vector.
    size : D, entries of the hidden state; also `n_outputs`.
    """

    n_states = 1

    def __init__(self, n_inputs: int, size: int = 256) -> None:
        super().__init__()
        self.n_inputs, self.n_outputs = n_inputs, size
        self.lstm = nn.LSTM(n_inputs, size, batch_first=True)

    def forward(
        self, inputs: Tensor, dones: Tensor, states: State | None = None, *, return_states: bool = True
    ) -> tuple[Tensor, State]:
        """Inputs (B, L, n_inputs), L >= 1 -> outputs (B, L, D), and what to continue with.

        The state (B, 2, D) is the hidden state and the cell.
        """
        with torch.autocast(inputs.device.type, enabled=False):
            # In the parameters' precision: what is carried keeps it in the other cores too, and on many
            # CPUs there is no other LSTM.
            out, state = self._run(
                inputs.to(self.lstm.get_parameter("weight_ih_l0").dtype),
                dones,
                states[0] if states else self.initial_state(len(inputs))[0],
            )
        return out, [state] if return_states else []

    def _run(self, inputs: Tensor, dones: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """In stretches that begin where any sequence's episode does: without such, in one."""
        length = inputs.shape[1]
        begins = [0, *(t for t, done in enumerate(dones.any(0).tolist()) if done and t > 0), length]
        outputs = []
        for first, end in pairwise(begins):
            state = state.masked_fill(dones[:, first, None, None], 0)
            hidden, cell = state.unsqueeze(0).unbind(-2)
            out, last = self.lstm(inputs[:, first:end], (hidden.contiguous(), cell.contiguous()))
            outputs.append(out)
            state = torch.stack(last, dim=-2).squeeze(0)
        return torch.cat(outputs, dim=1), state

    def initial_state(self, count: int) -> State:
        """Zeros."""
        return [self.lstm.get_parameter("weight_ih_l0").new_zeros(count, 2, self.n_outputs)]


Core = Direct | LayerStack | Lstm


def build_core(
    core: CoreName,
    n_inputs: int,
    *,
    n_layers: int = 2,
    n_heads: int = 8,
    d_model: int = 128,
    d_ff: int = 512,
    lstm_size: int = 256,
    residual: Residual = "plain",
    input_softmax: bool | None = None,
    beta_init: float = 0.0,
    q_scale: float = 1.0,
    input_gain: float = 1.0,
) -> Core:
    """A core by name, by default as in the paper's reinforcement learning.

    Parameters
    ----------
    core : "feedforward", `Direct`, or "lstm", `Lstm`, or `LayerStack` with the layer

        * "deeper", none but the feed-forward blocks,
        * "deltanet", `srwm.nn.DeltaNet` with 1e-5 beside its sums,
        * "srwm", `srwm.nn.SRWM`, with the input's softmax,
        * "srwm_no_carry", `NoCarry` of that,
        * "fake_sr", `srwm.nn.FakeSR`, without the input's softmax,
        * "sr_delta", `srwm.nn.SRDelta`, with the input's softmax,
        * "linear", `srwm.nn.LinearAttention` with keys and queries divided by their sums and 1e-5,
        * "recurrent_delta", `srwm.nn.RecurrentDeltaNet`,
        * "delta_rnn", `srwm.nn.DeltaRNN`, with softmax of queries and keys,
        * "delta_delta", `srwm.nn.DeltaDelta` with 1e-5 beside its sums,
        * "delta_cde", `srwm.nn.DeltaCDE`, a step for each input,
        * "self_modifying_titans", `srwm.nn.SelfModifyingTitans`.
    n_inputs : see `LayerStack`.
    n_layers, d_model, d_ff, input_gain : see `LayerStack`, of which alone they are.
    n_heads : of the layers.
    lstm_size : `size` of an `Lstm`.
    residual, input_softmax : of the layers "srwm", "srwm_no_carry", "fake_sr" and "sr_delta", see
        `srwm.nn.SRWM`. None: whether there is a softmax is as said above.
    beta_init, q_scale : see `srwm.nn.SRWM`; "fake_sr" has neither.

    Raises
    ------
    ValueError : for an unknown name, an option that the core does not have, or sizes that do not fit.
    """
    if core not in get_args(CoreName):
        raise ValueError(f"build_core: core must be one of {', '.join(get_args(CoreName))}, got {core!r}")
    rewriting = ("srwm", "srwm_no_carry", "sr_delta")
    programmed = ("deltanet", "linear", "recurrent_delta", "delta_rnn", "delta_delta", "delta_cde")
    for option, changed, cores in (
        ("residual", residual != "plain", (*rewriting, "fake_sr")),
        ("input_softmax", input_softmax is not None, (*rewriting, "fake_sr")),
        ("beta_init", beta_init != 0, rewriting),
        ("q_scale", q_scale != 1, rewriting),
        (
            "input_gain",
            input_gain != 1,
            ("deeper", *programmed, *rewriting, "fake_sr", "self_modifying_titans"),
        ),
    ):
        if changed and core not in cores:
            raise ValueError(
                f"build_core: {option} belongs to core {' or '.join(cores)}, got it with core {core!r}; "
                "leave it at its default"
            )
    if core == "feedforward":
        return Direct(n_inputs)
    if core == "lstm":
        return Lstm(n_inputs, lstm_size)
    options: dict[str, Any] = {
        "residual": residual,
        "input_softmax": input_softmax is not False,
        "beta_init": beta_init,
        "q_scale": q_scale,
    }
    srwm = partial(SRWM, d_model, n_heads, **options)
    mixers: dict[str, Callable[[], nn.Module] | None] = {
        "deeper": None,
        "deltanet": partial(DeltaNet, d_model, n_heads, eps=1e-5),
        "srwm": srwm,
        "srwm_no_carry": lambda: NoCarry(srwm()),
        "fake_sr": partial(FakeSR, d_model, n_heads, residual=residual, input_softmax=bool(input_softmax)),
        "sr_delta": partial(SRDelta, d_model, n_heads, **options),
        "linear": partial(LinearAttention, d_model, n_heads, sum_norm=True, eps=1e-5),
        "recurrent_delta": partial(RecurrentDeltaNet, d_model, n_heads),
        "delta_rnn": partial(DeltaRNN, d_model, n_heads, feature_map="softmax"),
        "delta_delta": partial(DeltaDelta, d_model, n_heads, eps=1e-5),
        "delta_cde": partial(DeltaCDE, d_model, n_heads),
        "self_modifying_titans": partial(SelfModifyingTitans, d_model, n_heads),
    }
    return LayerStack(
        n_inputs,
        mixers[core],
        n_layers=n_layers,
        d_model=d_model,
        d_ff=d_ff,
        input_gain=input_gain,
    )
