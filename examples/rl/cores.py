"""What lies between the features of a step and the heads that act on them, by name.

Beside the cores of `examples.training.cores`, and called as they are: none at all, and one that carries
nothing.
"""

from typing import Any, Literal, get_args

from torch import Tensor

from ..training import cores
from ..training.core import Core, Flags, States

CoreName = Literal[
    "feedforward", "lstm", "deeper", "deltanet", "srwm", "srwm_no_carry", "fake_sr", "sr_delta", "linear",
    "recurrent_delta", "delta_rnn", "delta_delta", "delta_cde", "self_modifying_titans",
]  # fmt: skip


class Direct(Core):
    """No core: the heads see the inputs themselves."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__(n_inputs, n_inputs)

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        return inputs, []


class NoCarry(Core):
    """The ablation "no carry": a core of `srwm.nn.SRWM` whose every step starts from the learned matrices.

    What a step writes is forgotten before the next one, so that keys, queries and rates change nothing and
    never learn (their gradients are exactly zero): its layers are feed-forward ones,
    ``h + out_linear(softmax(h) W_y)``, from which "fake SR" differs by the softmax alone. So it is in the
    published experiments too, though the name speaks of a state that is reset.
    """

    def __init__(self, core: Core) -> None:
        super().__init__(core.n_inputs, core.n_outputs)
        self.core = core

    def _run(
        self, inputs: Tensor, states: States | None, resets: Flags, mask: Flags, return_states: bool
    ) -> tuple[Tensor, States]:
        outputs, _ = self.core(inputs.unsqueeze(-2), return_states=False)  # each step a sequence
        return outputs.squeeze(-2), []


def build_core(core: CoreName, n_inputs: int, *, lstm_size: int = 256, **options: Any) -> Core:
    """A core by name, by default as in the paper's reinforcement learning.

    "feedforward" is `Direct`, "srwm_no_carry" `NoCarry` of "srwm"; the others are those of
    `examples.training.cores.build_core`, which has the options, as published for agents. The "lstm" has one
    layer, with ``lstm_size`` entries in its hidden state.
    """
    if core not in get_args(CoreName):
        raise ValueError(f"build_core: core must be one of {', '.join(get_args(CoreName))}, got {core!r}")
    if core == "feedforward":
        cores.check_options(core, **options)
        return Direct(n_inputs)
    if core == "lstm":
        options |= {"n_layers": 1, "d_model": lstm_size}
    name = "srwm" if core == "srwm_no_carry" else core
    built = cores.build_core(name, n_inputs, **options, published="agents")
    return NoCarry(built) if core == "srwm_no_carry" else built
