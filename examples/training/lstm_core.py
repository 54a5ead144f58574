"""A core that is an LSTM."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .core import Core, Flags, Sizes, States, broadcasts, one_axis, out_layer


class LstmCore(Core):
    """An LSTM on the inputs themselves, and a linear map to the outputs.

    A state (..., 2, D) is a layer's hidden state and its cell. L is at least 1. Dropout is between the
    layers and before the last map. (The published few-shot LSTM takes the option and ignores it.)
    """

    packs = False  # each reset cuts all rows

    def __init__(self, s: Sizes) -> None:
        super().__init__(s.n_inputs, s.n_outputs or s.d_model, s.n_layers)
        between = s.dropout if s.n_layers > 1 else 0.0  # torch warns of dropout with nothing in between
        self.lstm = nn.LSTM(s.n_inputs, s.d_model, s.n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(s.dropout)
        self.out_layer = out_layer(s)
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
            if state.shape[-2:] != (2, self.lstm.hidden_size) or not broadcasts(state.shape[:-2], lead):
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
                one_axis(inputs, lead, 2),
                torch.stack([one_axis(state, lead, 2) for state in states]),
                None if resets is None else one_axis(resets, lead, 1),
                None if mask is None else one_axis(mask, lead, 1),
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
