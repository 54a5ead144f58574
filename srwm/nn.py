"""torch layers: a self-referential weight matrix per head, and the feed-forward block beside it.

Batch-first. Letters: `srwm._reference`; further H heads of D = d_model / H entries each, and
M = 3 D + 4 columns (Do = D).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor, nn

from srwm import autograd, ops

Residual = Literal["norm_skip", "plain", "pre_norm"]


class SRWM(nn.Module):
    """Multi-head self-referential weight matrix layer (Irie et al., ICML 2022, section 3).

    With op the operator applied per head and out_linear a linear map without bias::

        norm_skip   out = layer_norm(h) + dropout(out_linear(op(h)))     the paper's few-shot layer
        plain       out = h + dropout(out_linear(op(h)))                 its reinforcement-learning layer
        pre_norm    out = h + dropout(out_linear(op(layer_norm(h))))

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H, each with a weight matrix of its own, (D, M).
    residual : {"norm_skip", "plain", "pre_norm"}
        See above. "plain" has no layer_norm.
    input_softmax : bool
        Whether each head's input goes through a softmax (the paper's reinforcement-learning layer).
    beta_init : float
        Mean of the initial weights that make the four rates.
    q_scale : float
        Factor on the initial W_q: 1 in the paper, 0.01 in follow-up work.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for every torch layer.

    Attributes
    ----------
    W : Parameter (H, D, M)
        Packed initial matrices; see `srwm.pack`.

    Raises
    ------
    ValueError
        `d_model` that is no multiple of `n_heads`, or no such residual.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import SRWM
    >>> layer = SRWM(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 52]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "norm_skip",
        input_softmax: bool = False,
        beta_init: float = 0.0,
        q_scale: float = 1.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if d_model < 1 or n_heads < 1 or d_model % n_heads:
            raise ValueError(f"SRWM: d_model: expected a multiple of n_heads = {n_heads}, got {d_model}")
        if residual not in get_args(Residual):
            raise ValueError(
                f"SRWM: residual: expected one of {', '.join(get_args(Residual))}, got {residual!r}"
            )
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.residual, self.input_softmax = residual, input_softmax
        self.beta_init, self.q_scale = beta_init, q_scale
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.W = nn.Parameter(torch.empty(n_heads, self.d_head, 3 * self.d_head + 4, **factory))
        self.out_linear = nn.Linear(d_model, d_model, bias=False, **factory)
        self.layer_norm = None if residual == "plain" else nn.LayerNorm(d_model, **factory)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: W from N(0, 1 / D), q's block scaled, the rates' block shifted."""
        self.out_linear.reset_parameters()
        if self.layer_norm is not None:
            self.layer_norm.reset_parameters()
        with torch.no_grad():
            self.W.normal_(std=1 / math.sqrt(self.d_head))
            _, W_q, _, w_beta = ops.unpack(self.W)
            W_q.mul_(self.q_scale)
            w_beta.add_(self.beta_init)

    @overload
    def forward(
        self, h: Tensor, state: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self,
        h: Tensor,
        state: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]: ...

    def forward(
        self,
        h: Tensor,
        state: Tensor | None = None,
        reset: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer over a segment of steps.

        Parameters
        ----------
        h : Tensor (..., L, d_model)
            Inputs.
        state : Tensor (..., H, D, M), optional
            What the segment before returned: the shift of each sequence's matrices from the
            parameter W, so that an optimiser step between segments still counts. None is no shift.
            Its leading axes broadcast with those of h.
        reset : bool Tensor (..., L), optional
            Where true, the matrices return to the parameter W before that step (an episode's
            first).
        return_state : bool
            Whether the state is wanted. Without it, single steps of many sequences that all continue
            from one state cost far less memory and time.

        Returns
        -------
        out : Tensor (..., L, d_model)
        state : Tensor (..., H, D, M) or None
            To carry on; None without `return_state`. Gradients flow through it;
            ``state.detach()`` truncates them.

        Raises
        ------
        TypeError, ValueError
            Shapes or dtypes that do not fit, as `srwm.forward`.
        """
        if h.ndim < 2 or h.shape[-1] != self.d_model:
            raise ValueError(
                f"SRWM: h: expected shape (..., L, d_model={self.d_model}), got {tuple(h.shape)}"
            )
        normed = h if self.layer_norm is None else self.layer_norm(h)
        op_input = normed if self.residual == "pre_norm" else h
        # (..., L, H D) -> (..., H, L, D): a view, the kernels take any strides
        x = op_input.unflatten(-1, (self.n_heads, self.d_head)).transpose(-3, -2)
        if self.input_softmax:
            x = x.softmax(-1)
        y, W_next = self._run(x, state, reset, return_state)
        mixed = self.dropout(self.out_linear(y.transpose(-3, -2).flatten(-2)))
        skip = normed if self.residual == "norm_skip" else h
        return skip + mixed, None if W_next is None else W_next - self.W

    def _run(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x (..., H, L, D) through the operator, from W + state; a reset leads back to W alone."""
        if reset is not None:
            reset = reset.unsqueeze(-2)
        if state is not None and reset is not None:
            y, W_next = _from_shifted_until_reset(x, self.W, state, reset)
            return y, W_next if return_state else None
        W = self.W if state is None else self.W + state
        if return_state:
            return autograd.forward(x, W, reset=reset, return_state=True)
        return autograd.forward(x, W, reset=reset), None

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Also takes the published names W_y, W_q, W_k, w_b, each (1, H, D, .) or (H, D, .)."""
        names = [prefix + name for name in ("W_y", "W_q", "W_k", "w_b")]
        if all(name in state_dict for name in names) and isinstance(state_dict, dict):
            blocks = [state_dict.pop(name).reshape(self.n_heads, self.d_head, -1) for name in names]
            state_dict[prefix + "W"] = ops.pack(*blocks)
            if self.layer_norm is None:  # published, but never used there
                for name in ("weight", "bias"):
                    state_dict.pop(f"{prefix}layer_norm.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The options, as torch prints them."""
        return (
            f"{self.d_model}, n_heads={self.n_heads}, residual={self.residual!r}, "
            f"input_softmax={self.input_softmax}"
        )


def _from_shifted_until_reset(x: Tensor, W: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """The operator from W + state (..., D, M), whose resets (..., L) lead back to W, not to W + state.

    Two calls share the steps, those before a sequence's first reset and those from it on. Each gets
    zeros for the other's steps, which leave W as it is: q = k there, so that Delta = 0.
    """
    if x.shape[-2] > 0:
        state = state.masked_fill(reset[..., :1, None], 0)
    if x.shape[-2] <= 1:
        return autograd.forward(x, W + state, return_state=True)
    is_after = (reset.cumsum(-1) > 0).unsqueeze(-1)
    y_before, W_before = autograd.forward(x.masked_fill(is_after, 0), W + state, return_state=True)
    y_after, W_after = autograd.forward(x.masked_fill(~is_after, 0), W, reset=reset, return_state=True)
    any_reset = is_after[..., -1:, :]
    return torch.where(is_after, y_after, y_before), torch.where(any_reset, W_after, W_before)


class FeedForward(nn.Module):
    """Pre-norm feed-forward block: ``h + FF(layer_norm(h))``, FF two linear maps with a ReLU between.

    Parameters
    ----------
    d_model, d_ff : int
        Entries of an input vector, and of the hidden layer.
    dropout : float
        Probability of dropout after the ReLU and after the second map.
    device, dtype
        As for every torch layer.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import FeedForward
    >>> FeedForward(64, 256)(torch.randn(8, 20, 64)).shape
    torch.Size([8, 20, 64])
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.layer_norm = nn.LayerNorm(d_model, **factory)
        self.ff_layers = nn.Sequential(
            nn.Linear(d_model, d_ff, **factory),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(d_ff, d_model, **factory),
            nn.Dropout(dropout),
        )

    def forward(self, h: Tensor) -> Tensor:
        """h (..., d_model) -> (..., d_model)."""
        return h + self.ff_layers(self.layer_norm(h))
