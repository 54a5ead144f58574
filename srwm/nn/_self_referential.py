"""The base class of `SRWM` and `SRDelta`: sequences begin with the matrices W (H, D, Do + 2 D + 4)."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._mixer import Mixer, Residual, kind_of
from srwm.operators import srwm as operator

Init = Literal["normal", "uniform"]
Reader = Literal["x", "raw", "softmax"]


class SelfReferential(Mixer):
    """A layer with a self-referential weight matrix in each head.

    Attributes
    ----------
    W : Parameter (H, D, M)
        Packed matrices with which sequences begin.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        residual: Residual,
        d_out: int | None,
        input_softmax: bool,
        beta_init: float,
        q_scale: float,
        dropout: float,
        factory: dict[str, Any],
        init: Init = "normal",
        init_scale: float = 1.0,
    ) -> None:
        name = type(self).__name__
        input_softmax = _checks.boolean(name, "input_softmax", input_softmax)
        beta_init = _checks.number(name, "beta_init", beta_init)
        q_scale = _checks.number(name, "q_scale", q_scale)
        init = _checks.one_of(name, "init", init, get_args(Init))
        init_scale = _checks.number(name, "init_scale", init_scale, least=0)
        if init == "uniform" and beta_init != 0:
            raise ValueError(
                f"{name}: beta_init: expected 0 with init 'uniform', whose weights have mean 0, got "
                f"{beta_init}; leave it at its default, or pass init='normal'"
            )
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.input_softmax = input_softmax
        self.beta_init, self.q_scale = beta_init, q_scale
        self.init, self.init_scale = init, init_scale
        M = self._outputs_per_head() + 2 * self.d_head + 4
        self.W = nn.Parameter(torch.empty(self.n_heads, self.d_head, M, **factory))

    def reset_parameters(self) -> None:
        """Initialise all parameters again: W from N(0, 1 / D) or U(-1, 1), scaled; the rates' shifted."""
        super().reset_parameters()
        with torch.no_grad():
            if self.init == "normal":
                self.W.normal_(std=1 / math.sqrt(self.d_head))
            else:
                self.W.uniform_(-1, 1)
            W_y, W_q, W_k, w_beta = operator.unpack(self.W)
            W_q.mul_(self.q_scale)
            for block in (W_y, W_k, w_beta):
                block.mul_(self.init_scale)
            w_beta.add_(self.beta_init)

    def _outputs_per_head(self) -> int:
        """Do: the outputs of W for each head, besides the queries, keys and rates of its own updates."""
        raise NotImplementedError

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        return kind_of(self.W)

    def _rewrite(
        self,
        x: Tensor,
        shift: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
        reader: Reader = "x",
    ) -> tuple[Tensor, Tensor | None]:
        """Run the operator for each head: (..., L, d_model) -> outputs (..., H, L, Do) and the next shift.

        The shift of the matrices from W is computed and returned in the precision of states.
        """
        raw = self._by_head(x).to(self.W.dtype)  # under autocast x has another dtype
        x = raw.softmax(-1) if self.input_softmax else raw
        read = None
        if reader != "x" and (reader == "softmax") != self.input_softmax:
            read = raw.softmax(-1) if reader == "softmax" else raw
        if padding is not None:  # with a zero input, query and key are equal, and W does not change
            x = x.masked_fill(padding.unsqueeze(-1), 0)
            read = None if read is None else read.masked_fill(padding.unsqueeze(-1), 0)
        W = self.W.to(_checks.state_dtype(self.W.dtype))
        start = None
        if shift is not None:
            start = W + shift
        elif return_state and W.dtype != self.W.dtype:
            start = W  # so that the matrices are returned in its precision
        if not return_state:
            return operator.forward(x, self.W, start, read=read, reset=reset), None
        y, W_next = operator.forward(x, self.W, start, read=read, reset=reset, return_state=True)
        return y, W_next - W

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Also takes the published names W_y, W_q, W_k, w_b, each (1, H, D, .) or (H, D, .)."""
        names = [prefix + name for name in ("W_y", "W_q", "W_k", "w_b")]
        packed = prefix + "W"
        found = {name: state_dict.pop(name) for name in names if name in state_dict}
        if packed in state_dict:  # W is there: published names are then unexpected keys
            state_dict |= found
            found = {}
        absent = [name for name in names if name not in found] if found else []
        errors = self._misfits(found, prefix)
        if found and not absent and not errors:
            blocks = [found[name].reshape(self.n_heads, self.d_head, -1) for name in names]
            state_dict[packed] = torch.cat(blocks, -1)
        if found and self.layer_norm is None:  # it is in published weights, but was never used
            for name in ("weight", "bias"):
                state_dict.pop(f"{prefix}layer_norm.{name}", None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if absent or errors:  # these messages replace that of the missing W
            missing_keys[:] = [*(key for key in missing_keys if key != packed), *absent]
            error_msgs.extend(errors)

    def _misfits(self, published: dict[str, Any], prefix: str) -> list[str]:
        """Error messages for published weights that do not fit; keys are names in the state dict."""
        H, D = self.n_heads, self.d_head
        columns = {"W_y": self._outputs_per_head(), "w_b": 4}
        errors = []
        for name, block in published.items():
            shape = (H, D, columns.get(name.removeprefix(prefix), D))
            if not isinstance(block, Tensor):
                got = f"type {type(block).__name__}"
            elif tuple(block.shape) not in (shape, (1, *shape)):
                got = f"{tuple(block.shape)}"
            else:
                continue
            errors.append(
                f"{type(self).__name__}: {name}: expected a Tensor of shape {shape} or {(1, *shape)}, got "
                f"{got}; make the layer with the sizes of the published one"
            )
        return errors

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"input_softmax": self.input_softmax}
