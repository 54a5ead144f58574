"""Sequence models by name, each a `Core`: stacks of layers of `srwm.nn`, an LSTM and a Transformer.

One table says which layer a name stands for, which options it takes, and in what the published few-shot
learners and the published agents differ.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from srwm.nn import (
    SRWM,
    DeltaCDE,
    DeltaDelta,
    DeltaNet,
    DeltaRNN,
    FakeSR,
    LinearAttention,
    RecurrentDeltaNet,
    Residual,
    SelfModifyingTitans,
    SRDelta,
)

from .core import Core, Sizes
from .lstm_core import LstmCore
from .stack_core import StackCore
from .transformer_core import TransformerCore

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


@dataclass(frozen=True)
class _Kind:
    """What a name stands for."""

    mixer: Callable[..., Any] | None = None  # makes the layer of `srwm.nn` that mixes steps
    options: tuple[str, ...] = ()  # of `build_core`, which the core takes beside those that all take
    few_shot: Mapping[str, Any] = field(default_factory=dict)  # of `mixer` in the published learners
    agents: Mapping[str, Any] = field(default_factory=dict)  # and in the published agents


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
