"""The layer of self-referential weight matrices."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

from srwm.nn import _checks
from srwm.nn._mixer import Residual
from srwm.nn._self_referential import Init, Reader, SelfReferential


class SRWM(SelfReferential):
    """Multi-head self-referential weight matrix layer (Irie et al., ICML 2022, section 3).

    op is the operator, applied for each head; out_linear is a linear map without bias::

        norm_skip   out = layer_norm(h) + dropout(out_linear(op(h)))     the paper's few-shot layer
        plain       out = h + dropout(out_linear(op(h)))                 its reinforcement-learning layer
        pre_norm    out = h + dropout(out_linear(op(layer_norm(h))))
        none        out = dropout(out_linear(op(h)))                     outputs may have another size

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has a weight matrix (D, M).
    residual : {"norm_skip", "plain", "pre_norm", "none"}
        See above. "plain" and "none" have no layer_norm.
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    input_softmax : bool
        Whether each head's input goes through a softmax (the paper's reinforcement-learning layer).
    read : {"x", "raw", "softmax"}
        The input of W_y, the block of W that gives the outputs. "x": the input of all other blocks, too.
        "raw" and "softmax": the head's input without and with a softmax, whatever `input_softmax` is.
    head_norm : bool
        Whether each head's outputs go through a layer norm, the same for all heads, before out_linear.
    init : {"normal", "uniform"}
        Initial weights: from N(0, init_scale^2 / D), or from U(-init_scale, init_scale).
    init_scale : float
        Factor on the initial W_y, W_k and w_beta, at least 0.
    beta_init : float
        Mean of the initial weights of the four rates; 0 with ``init="uniform"``.
    q_scale : float
        Factor on the initial W_q, in the place of `init_scale`: 1 in the paper, 0.01 in follow-up work.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    W : Parameter (H, D, M)
        Packed initial matrices, M = 3 D + 4; see `srwm.pack`.
    y_lnorm : LayerNorm or None
        Of D entries, with `head_norm`.

    Notes
    -----
    The state (..., H, D, M) is the shift of each sequence's matrices from the parameter W, so that an
    optimiser step between segments has its effect. It is float32 also with halves. A reset returns to W.

    ``load_state_dict`` also takes the published names: W_y, W_q, W_k and w_b, each (1, H, D, columns).

    The layer of Irie, Csordás, Schmidhuber, Automating Continual Learning (arXiv 2312.00276), is
    ``SRWM(..., input_softmax=True, q_scale=0.01)``. Its option "no softmax on y" is `head_norm`, and
    ``read="raw"`` in name. In the published code the outputs read the softmax all the same, and with the
    axes of batch, heads and steps confused, which no option here repeats.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, the residual is unknown, `d_out` differs from `d_model`
        without ``residual="none"``, a number is out of range, or torch cannot use the device here.

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
        d_out: int | None = None,
        input_softmax: bool = False,
        read: Reader = "x",
        head_norm: bool = False,
        init: Init = "normal",
        init_scale: float = 1.0,
        beta_init: float = 0.0,
        q_scale: float = 1.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        read = _checks.one_of(name, "read", read, get_args(Reader))
        head_norm = _checks.boolean(name, "head_norm", head_norm)
        super().__init__(
            *(d_model, n_heads, residual, d_out, input_softmax, beta_init, q_scale, dropout, factory),
            init=init,
            init_scale=init_scale,
        )
        self.read = read
        self.y_lnorm = nn.LayerNorm(self.d_head, **factory) if head_norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters again: W as the options say."""
        super().reset_parameters()
        if self.y_lnorm is not None:
            self.y_lnorm.reset_parameters()

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, M), the last axes of a state."""
        return self.n_heads, self.d_head, 3 * self.d_head + 4

    def _outputs_per_head(self) -> int:
        return self.d_head

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        y, state = self._rewrite(x, state, reset, padding, return_state, self.read)
        return y if self.y_lnorm is None else self.y_lnorm(y), state

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if self.read != "x":
            options["read"] = self.read
        return options | ({} if self.y_lnorm is None else {"head_norm": True})
