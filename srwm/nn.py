"""torch layers: a self-referential weight matrix per head, three to compare it with, a feed-forward block.

`SRWM`, `DeltaNet`, `SRDelta` and `FakeSR` are called alike, ``out, state = layer(h, state, reset)``, so
that one can stand in another's place. Batch-first. Letters: `srwm._reference`; further H heads of
D = d_model / H entries each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm import autograd, ops

Residual = Literal["norm_skip", "plain", "pre_norm"]


class _Mixer(nn.Module):
    """What the layers share: the heads, the residual forms, the last linear map, the signature."""

    def __init__(
        self, d_model: int, n_heads: int, residual: Residual, dropout: float, factory: dict[str, Any]
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if d_model < 1 or n_heads < 1 or d_model % n_heads:
            raise ValueError(f"{name}: d_model: expected a multiple of n_heads = {n_heads}, got {d_model}")
        if residual not in get_args(Residual):
            raise ValueError(
                f"{name}: residual: expected one of {', '.join(get_args(Residual))}, got {residual!r}"
            )
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.residual = residual
        self.out_linear = nn.Linear(d_model, d_model, bias=False, **factory)
        self.layer_norm = None if residual == "plain" else nn.LayerNorm(d_model, **factory)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self.out_linear.reset_parameters()
        if self.layer_norm is not None:
            self.layer_norm.reset_parameters()

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
        state : Tensor (..., H, D, columns), optional
            What the segment before returned; the class says what it is. None: the sequences begin.
            Its leading axes broadcast with those of h.
        reset : bool Tensor (..., L), optional
            Where true, the layer begins anew before that step (an episode's first), as without a state.
        return_state : bool
            Whether the state is wanted. Without it, single steps of many sequences that all continue
            from one state cost far less memory and time.

        Returns
        -------
        out : Tensor (..., L, d_model)
        state : Tensor (..., H, D, columns) or None
            To carry on; None without `return_state`. Gradients flow through it;
            ``state.detach()`` truncates them.

        Raises
        ------
        TypeError, ValueError
            Shapes or dtypes that do not fit, as `srwm.forward`.
        """
        if h.ndim < 2 or h.shape[-1] != self.d_model:
            raise ValueError(
                f"{type(self).__name__}: h: expected shape (..., L, d_model={self.d_model}), "
                f"got {tuple(h.shape)}"
            )
        normed = h if self.layer_norm is None else self.layer_norm(h)
        x = normed if self.residual == "pre_norm" else h
        y, state = self._mix(x, state, reset, return_state)
        skip = normed if self.residual == "norm_skip" else h
        return skip + self.dropout(self.out_linear(y.flatten(-2))), state

    def _mix(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What a layer does to its input x (..., L, d_model): y (..., L, H, D) and the state."""
        raise NotImplementedError

    def _by_head(self, x: Tensor) -> Tensor:
        """(..., L, H columns) -> (..., H, L, columns): a view, the kernels take any strides."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2)


def _from_state_until_reset(
    run: Callable[[Tensor | None, Tensor | None, Tensor | None], tuple[Tensor, Tensor]],
    state: Tensor,
    reset: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs and last matrices of steps that start from a `state`, and from none after a reset (..., L).

    Two runs share the steps, those before a sequence's first reset and those from it on.
    ``run(state, reset, skipped)`` goes through all steps from a state or, with None, from where a sequence
    begins. Nobody looks at what comes of those at which `skipped` (..., L) is true, but it must be finite:
    a gradient of zero times infinity is not zero.
    """
    if reset.shape[-1] > 0:
        state = state.masked_fill(reset[..., :1, None], 0)
    if reset.shape[-1] <= 1:
        return run(state, None, None)
    is_after = reset.cumsum(-1) > 0
    y_before, W_before = run(state, None, is_after)
    y_after, W_after = run(None, reset, ~is_after)
    is_after = is_after.unsqueeze(-1)
    return torch.where(is_after, y_after, y_before), torch.where(is_after[..., -1:, :], W_after, W_before)


class _SelfReferential(_Mixer):
    """What `SRWM` and `SRDelta` share: matrices W (H, D, Do + 2 D + 4) that sequences depart from."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        residual: Residual,
        input_softmax: bool,
        beta_init: float,
        q_scale: float,
        dropout: float,
        factory: dict[str, Any],
    ) -> None:
        super().__init__(d_model, n_heads, residual, dropout, factory)
        self.input_softmax = input_softmax
        self.beta_init, self.q_scale = beta_init, q_scale
        M = self._outputs_per_head() + 2 * self.d_head + 4
        self.W = nn.Parameter(torch.empty(n_heads, self.d_head, M, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: W from N(0, 1 / D), q's block scaled, the rates' block shifted."""
        super().reset_parameters()
        with torch.no_grad():
            self.W.normal_(std=1 / math.sqrt(self.d_head))
            _, W_q, _, w_beta = ops.unpack(self.W)
            W_q.mul_(self.q_scale)
            w_beta.add_(self.beta_init)

    def _outputs_per_head(self) -> int:
        """Do, what W gives besides queries, keys and rates for itself."""
        raise NotImplementedError

    def _run(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Any]:
        """Inputs x (..., H, L, D) -> y (..., H, L, D) and the next state; a reset leads back to `state`."""
        raise NotImplementedError

    def _mix(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        x = self._by_head(x)
        if self.input_softmax:
            x = x.softmax(-1)

        def run(
            state: Tensor | None, reset: Tensor | None, skipped: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            # A zero input leaves W as it is, q = k, so that Delta = 0; W could grow without bound.
            steps = x if skipped is None else x.masked_fill(skipped.unsqueeze(-1), 0)
            return self._run(steps, state, reset, True)

        if reset is not None:
            reset = reset.unsqueeze(-2)
        if state is not None and reset is not None:
            y, next_state = _from_state_until_reset(run, state, reset)
        else:
            y, next_state = self._run(x, state, reset, return_state)
        return y.transpose(-3, -2), next_state if return_state else None

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


class SRWM(_SelfReferential):
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
        Packed initial matrices, M = 3 D + 4; see `srwm.pack`.

    Notes
    -----
    The state (..., H, D, M) is the shift of each sequence's matrices from the parameter W, so that an
    optimiser step between segments still counts. A reset leads back to W.

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
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(d_model, n_heads, residual, input_softmax, beta_init, q_scale, dropout, factory)

    def _outputs_per_head(self) -> int:
        return self.d_head

    def _run(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Any]:
        W = self.W if state is None else self.W + state
        if not return_state:
            return autograd.forward(x, W, reset=reset), None
        y, W_next = autograd.forward(x, W, reset=reset, return_state=True)
        return y, W_next - self.W


class DeltaNet(_Mixer):
    """Multi-head fast weights under the delta rule, pre-norm (Schlag, Irie, Schmidhuber, ICML 2021).

    A linear map of the normalised input gives each head its query, key, value and rate at every step; the
    weights that these write and read start at zero and are all that one step passes on to the next::

        q, k, v, b = slow_net(layer_norm(h))          per head D + D + D + 1 outputs
        phi(a) = (elu(a) + 1) / (sum(elu(a) + 1) + eps)
        y = delta rule of phi(q), phi(k), v, sigmoid(b); see `srwm.delta_forward`
        out = h + dropout(out_linear(y))

    It is the self-referential weight matrix's predecessor and its rival in Irie et al., ICML 2022: there
    slow_net stays as it was trained, where `SRWM` goes on changing the map itself.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H, each with fast weights of its own, (D, D).
    eps : float
        Addend to the sums that queries and keys are divided by: 0 in the paper's few-shot models, 1e-5 in
        its reinforcement learning.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for every torch layer.

    Attributes
    ----------
    slow_net : Linear
        From d_model to H (3 D + 1) entries, without bias; each head's are next to each other, in the
        order q, k, v, b.

    Notes
    -----
    The state (..., H, D, D) is the fast weights of each sequence, from keys to values, in the precision of
    the parameters, under autocast too. A reset leads back to zeros. Unlike in the published code, gradients
    flow through a carried state. Parameters have the published names.

    Raises
    ------
    ValueError
        `d_model` that is no multiple of `n_heads`.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import DeltaNet
    >>> layer = DeltaNet(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 16]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        eps: float = 0.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(d_model, n_heads, "pre_norm", dropout, factory)
        self.eps = eps
        self.slow_net = nn.Linear(d_model, n_heads * (3 * self.d_head + 1), bias=False, **factory)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as torch's linear maps and layer norms do."""
        super().reset_parameters()
        self.slow_net.reset_parameters()

    def _mix(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        D = self.d_head
        q, k, v, beta = self._by_head(self.slow_net(x)).split([D, D, D, 1], -1)
        q, k, beta = self._positive(q), self._positive(k), beta.squeeze(-1).sigmoid()
        zeros = self.slow_net.weight.new_zeros(()).expand(D, D)

        def run(state: Tensor | None, reset: Tensor | None, _: Tensor | None) -> tuple[Tensor, Tensor]:
            # Skipped steps too: keys no longer than 1 at rates below 1 cannot make the weights grow.
            return autograd.delta_forward(
                *(q, k, v, beta, zeros if state is None else state), reset=reset, return_state=True
            )

        if reset is not None:
            reset = reset.unsqueeze(-2)
        if state is not None and reset is not None:
            y, S_next = _from_state_until_reset(run, state, reset)
        elif return_state:
            y, S_next = run(state, reset, None)
        else:
            y = autograd.delta_forward(q, k, v, beta, zeros if state is None else state, reset=reset)
        return y.transpose(-3, -2), S_next if return_state else None

    def _positive(self, a: Tensor) -> Tensor:
        """elu(a) + 1, all positive, divided by its sum over the last axis."""
        # Not elu(a) + 1 as written: that rounds the small values, all of it below -17, to 0 in float32.
        a = a.clamp(max=0).exp() + a.relu()
        return a / (a.sum(-1, keepdim=True) + self.eps)

    def extra_repr(self) -> str:
        """The options, as torch prints them."""
        return f"{self.d_model}, n_heads={self.n_heads}, eps={self.eps}"


class SRDelta(_SelfReferential):
    """Fast weights under the delta rule, programmed by a matrix that rewrites itself ("SR-Delta").

    A self-referential matrix gives each head, at every step, the query, key, value and rate with which fast
    weights are written and read, as the linear map of `DeltaNet` does, which stays as it was trained::

        q, k, v, b = op(x)                            per head D + D + D + 1 outputs; x, op as in `SRWM`
        y = delta rule of softmax(q), softmax(k), v, sigmoid(b); see `srwm.delta_forward`
        out = h + dropout(out_linear(y))              or another residual form, as in `SRWM`

    Irie et al., ICML 2022, reinforcement learning.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H, each with a matrix of its own, (D, 5 D + 5), and fast weights, (D, D).
    residual : {"plain", "norm_skip", "pre_norm"}
        As for `SRWM`; "plain" in the published layer.
    input_softmax : bool
        Whether each head's input goes through a softmax, as in the published layer.
    beta_init, q_scale : float
        As for `SRWM`: of the self-referential matrix's rates for itself, and its queries to itself.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for every torch layer.

    Attributes
    ----------
    W : Parameter (H, D, 5 D + 5)
        Packed initial matrices; see `srwm.pack`. The first 3 D + 1 columns give q, k, v, b in this order.

    Notes
    -----
    The state (..., H, D, 6 D + 5) is two: the shift of each sequence's matrices from the parameter W, as in
    `SRWM`, and beside it, in the last D columns, the fast weights from keys to values, as in `DeltaNet`.
    A reset leads back to W and to zeros. `load_state_dict` takes the published names too, as `SRWM`.

    Raises
    ------
    ValueError
        `d_model` that is no multiple of `n_heads`, or no such residual.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import SRDelta
    >>> layer = SRDelta(64, n_heads=4)
    >>> out, state = layer(torch.randn(8, 20, 64))          # 8 sequences of 20 steps
    >>> out, state = layer(torch.randn(8, 20, 64), state)   # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 101]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "plain",
        input_softmax: bool = True,
        beta_init: float = 0.0,
        q_scale: float = 1.0,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(d_model, n_heads, residual, input_softmax, beta_init, q_scale, dropout, factory)

    def _outputs_per_head(self) -> int:
        return 3 * self.d_head + 1

    def _run(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, Any]:
        D = self.d_head
        W: Tensor = self.W
        S = W.new_zeros(()).expand(D, D)
        if state is not None:
            W, S = W + state[..., :-D], state[..., -D:]
        # Where x is zero v is zero too: the steps that `_mix` skips leave the fast weights finite.
        if not return_state:
            columns = autograd.forward(x, W, reset=reset)
            return autograd.delta_forward(*self._program(columns), S, reset=reset), None
        columns, W_next = autograd.forward(x, W, reset=reset, return_state=True)
        y, S_next = autograd.delta_forward(*self._program(columns), S, reset=reset, return_state=True)
        return y, torch.cat([W_next - self.W, S_next], -1)

    def _program(self, columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns (..., L, 3 D + 1) -> the delta rule's q, k, v (..., L, D) and beta (..., L)."""
        D = self.d_head
        q, k, v, b = columns.split([D, D, D, 1], -1)
        return q.softmax(-1), k.softmax(-1), v, b.squeeze(-1).sigmoid()


class FakeSR(_Mixer):
    """The ablation "fake SR": `SRWM` without self-modification, ``y = x W_y`` per head.

    What is left is a feed-forward layer, with the parameters of an SRWM but those that write: what an
    SRWM can do beyond it, it does by changing its weights. Irie et al., ICML 2022, reinforcement learning.

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H, each with a weight matrix of its own, (D, D).
    residual : {"plain", "norm_skip", "pre_norm"}
        As for `SRWM`, with which it is to be compared: "plain" in the published reinforcement learning,
        the only place where it is used; "norm_skip" beside the paper's few-shot layer.
    input_softmax : bool
        Whether each head's input goes through a softmax: it does not in the published form, though it
        does in the SRWM beside it.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for every torch layer.

    Attributes
    ----------
    W_y : Parameter (H, D, D)

    Notes
    -----
    Nothing passes from one step to the next, so the state is always None and a reset changes nothing:
    ``out, state = layer(h, state, reset)`` goes through segments as with the other layers.
    Parameters have the published names; published checkpoints hold a layer norm besides that was never
    used, hence ``load_state_dict(..., strict=False)``.

    Raises
    ------
    ValueError
        `d_model` that is no multiple of `n_heads`, no such residual, or, when called, a state.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import FakeSR
    >>> out, state = FakeSR(64, n_heads=4)(torch.randn(8, 20, 64))
    >>> out.shape, state
    (torch.Size([8, 20, 64]), None)
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        residual: Residual = "plain",
        input_softmax: bool = False,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(d_model, n_heads, residual, dropout, factory)
        self.input_softmax = input_softmax
        self.W_y = nn.Parameter(torch.empty(n_heads, self.d_head, self.d_head, **factory))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: W_y from N(0, 1 / D)."""
        super().reset_parameters()
        with torch.no_grad():
            self.W_y.normal_(std=1 / math.sqrt(self.d_head))

    def _mix(
        self, x: Tensor, state: Tensor | None, reset: Tensor | None, return_state: bool
    ) -> tuple[Tensor, None]:
        del reset, return_state
        if state is not None:
            raise ValueError(
                f"FakeSR: state: expected None, as it carries nothing, got shape {tuple(state.shape)}"
            )
        x = x.unflatten(-1, (self.n_heads, self.d_head))
        if self.input_softmax:
            x = x.softmax(-1)
        return torch.einsum("...hd,hde->...he", x, self.W_y), None

    def extra_repr(self) -> str:
        """The options, as torch prints them."""
        return (
            f"{self.d_model}, n_heads={self.n_heads}, residual={self.residual!r}, "
            f"input_softmax={self.input_softmax}"
        )


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
