"""Feature maps of fast weight programmers: what becomes of queries and keys before they meet fast weights.

Each is a function of torch tensors a (..., D), over the last axis, and can be differentiated any number of
times, in both modes, under every transform of torch. Results have a's dtype; halves are computed in float32
and rounded once, at the end. `FeatureMap` is a module that holds one of them with its options, for layers.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm._torch_private import is_plain
from srwm.nn import _checks

Name = Literal["identity", "elu", "softmax", "l2", "dpfp", "favor"]


def elu_plus_one(a: Tensor) -> Tensor:
    """elu(a) + 1: exp(a) up to 0 and 1 + a above, which is positive.

    Very negative entries keep their digits: the sum as written, (exp(a) - 1) + 1, would be 0 in float32
    for a < -17.

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64.

    Returns
    -------
    Tensor (..., D)
        In a's dtype.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes.
    ValueError
        `a` has no last axis, or it is empty.

    Notes
    -----
    The map of Katharopoulos et al., ICML 2020, equation 7.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.elu_plus_one(torch.tensor([-50.0, 0.0, 2.0]))
    tensor([1.9287e-22, 1.0000e+00, 3.0000e+00])
    """
    _checks.vectors("srwm.nn.maps.elu_plus_one", "a", a)
    wide = _wide(a)
    return (_exp_below_zero(wide).exp() + wide.relu()).to(a.dtype)


def sum_norm(a: Tensor, eps: float = 0.0) -> Tensor:
    """a / (sum(a) + eps) over the last axis, for entries that are not negative.

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite, and not negative, which is not checked.
    eps : float
        At least 0. With 0 the result sums to 1.

    Returns
    -------
    Tensor (..., D)
        In a's dtype. With ``eps=0`` a vector of zeros stays one, and its gradients are zero.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes, or `eps` not a number.
    ValueError
        `a` has no last axis, or it is empty; `eps` is negative or not finite.

    Notes
    -----
    The sum normalisation of Schlag, Irie, Schmidhuber, ICML 2021. The sum itself may be too large for the
    dtype.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.sum_norm(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    tensor([[0.2500, 0.7500],
            [0.0000, 0.0000]])
    """
    call = "srwm.nn.maps.sum_norm"
    _checks.vectors(call, "a", a)
    eps = _checks.number(call, "eps", eps, least=0)
    wide = _wide(a)
    # Detached: the quotient does not depend on it. Not below 1, where sums do not overflow.
    scale = wide.detach().amax(-1, keepdim=True).clamp(min=1)
    shares = wide / scale
    total = shares.sum(-1, keepdim=True)
    if eps:
        return (shares / (total + eps / scale)).to(a.dtype)
    # DPFP gives zeros, see there. Both are masked, so that gradients are zero as well, instead of NaN.
    nothing = total == 0
    return (shares.masked_fill(nothing, 0) / total.masked_fill(nothing, 1)).to(a.dtype)


def positive(a: Tensor, eps: float = 0.0) -> Tensor:
    """elu(a) + 1, which is positive, divided by (its sum over the last axis + eps).

    This is ``sum_norm(elu_plus_one(a), eps)`` for vectors of any length: neither 0 / 0, where all
    exponentials underflow, nor inf / inf, where the sum overflows.

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite.
    eps : float
        At least 0. With 0 the result sums to 1.

    Returns
    -------
    Tensor (..., D)
        In a's dtype.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes, or `eps` not a number.
    ValueError
        `a` has no last axis, or it is empty; `eps` is negative or not finite.

    Notes
    -----
    The map of the delta rule's queries and keys in Irie et al., NeurIPS 2021 and ICML 2022: that of
    Katharopoulos et al., ICML 2020, normalised as in Schlag, Irie, Schmidhuber, ICML 2021.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.positive(torch.tensor([[0.0, 2.0], [-200.0, -200.0]]))
    tensor([[0.2500, 0.7500],
            [0.5000, 0.5000]])
    """
    call = "srwm.nn.maps.positive"
    _checks.vectors(call, "a", a)
    eps = _checks.number(call, "eps", eps, least=0)
    wide = _wide(a)
    # Everything is first divided by the greatest entry of elu(a) + 1: against underflow and overflow.
    greatest = wide.detach().amax(-1, keepdim=True)  # detached: the quotient does not depend on it
    exponent, scale = greatest.clamp(max=0), 1 + greatest.relu()
    shares = ((_exp_below_zero(wide) - exponent).exp() + wide.relu()) / scale
    total = shares.sum(-1, keepdim=True)
    if eps:
        total = total + eps / (exponent.exp() * scale)
    return (shares / total).to(a.dtype)


def softmax(a: Tensor) -> Tensor:
    """exp(a) / sum(exp(a)) over the last axis.

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite.

    Returns
    -------
    Tensor (..., D)
        In a's dtype; sums to 1.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes.
    ValueError
        `a` has no last axis, or it is empty.

    Notes
    -----
    The map of queries and keys in the self-referential weight matrix (Irie et al., ICML 2022) and in the
    Recurrent Delta Net (Irie et al., NeurIPS 2021).

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.softmax(torch.tensor([1000.0, 1000.0, 0.0]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    _checks.vectors("srwm.nn.maps.softmax", "a", a)
    return _wide(a).softmax(-1).to(a.dtype)


def l2_norm(a: Tensor, eps: float = 1e-6) -> Tensor:
    """a / max(|a|, eps), where |a| is the Euclidean length over the last axis.

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite.
    eps : float
        At least 0. Below the dtype's smallest normal number (1e-38 in float32) that one takes its place.

    Returns
    -------
    Tensor (..., D)
        In a's dtype, of length 1 where a is not shorter than `eps`. At zero the gradient is that of
        a / eps.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes, or `eps` not a number.
    ValueError
        `a` has no last axis, or it is empty; `eps` is negative or not finite.

    Notes
    -----
    Peng et al., ICLR 2021, normalise queries and keys so, in front of random features; Yang et al., NeurIPS
    2024, those of the delta rule.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.l2_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    call = "srwm.nn.maps.l2_norm"
    _checks.vectors(call, "a", a)
    eps = _checks.number(call, "eps", eps, least=0)
    wide = _wide(a)
    # Squares of entries between -1 and 1, one of which is ±1 unless a is short, do not overflow. Detached:
    # where the scale is not eps, the quotient does not depend on it.
    scale = wide.detach().abs().amax(-1, keepdim=True).clamp(min=max(eps, torch.finfo(wide.dtype).tiny))
    shares = wide / scale
    squares = shares.square().sum(-1, keepdim=True)
    # Below 1 only where a is shorter than eps. Masked before the root, whose slope at 0 is infinite.
    return (shares / squares.masked_fill(squares < 1, 1).sqrt()).to(a.dtype)


def dpfp(a: Tensor, nu: int = 1) -> Tensor:
    """Deterministic parameter-free projection: products of entries, sparse and of 2 nu D entries.

    ::

        z = [relu(a) | relu(-a)]
        phi = [z * roll(z, 1) | ... | z * roll(z, nu)]          roll(z, i)[j] = z[j - i]

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite, and so must be the products of entries.
    nu : int
        At least 1; from 2 D on products repeat.

    Returns
    -------
    Tensor (..., 2 nu D)
        In a's dtype; not negative. With ``nu=1`` and odd D it is zero for vectors of alternating signs:
        no two entries of z that are not zero are neighbours. `sum_norm` leaves it zero.

    Raises
    ------
    TypeError
        `a` is not a dense tensor of one of these dtypes, or `nu` not an int.
    ValueError
        `a` has no last axis, or it is empty; `nu` is below 1.

    Notes
    -----
    Schlag, Irie, Schmidhuber, ICML 2021, section 5.3, there followed by `sum_norm`.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> maps.dpfp(torch.tensor([1.0, -2.0, 3.0]), nu=2)
    tensor([0., 0., 0., 0., 0., 0., 2., 0., 3., 0., 6., 0.])
    """
    call = "srwm.nn.maps.dpfp"
    _checks.vectors(call, "a", a)
    nu = _checks.size(call, "nu", nu)
    wide = _wide(a)
    z = torch.cat([wide.relu(), (-wide).relu()], -1)
    return torch.cat([z * z.roll(i, -1) for i in range(1, nu + 1)], -1).to(a.dtype)


def favor(a: Tensor, projection: Tensor, eps: float = 1e-4) -> Tensor:
    """Positive random features of the softmax kernel, FAVOR+: phi(q)·phi(k) is about exp(q·k).

    ::

        phi = ([exp(a P - |a|²/2) | exp(-a P - |a|²/2)] + eps) / sqrt(2 m)

    Parameters
    ----------
    a : Tensor (..., D)
        float16, bfloat16, float32 or float64; finite, and so must be |a|² and a P.
    projection : Tensor (D, m)
        P, e.g. from `orthogonal_projection`, the same for queries and keys. In a's dtype, or float32 beside
        halves; on a's device.
    eps : float
        At least 0. 1e-4 as in Irie et al., NeurIPS 2021; in Schlag, Irie, Schmidhuber, ICML 2021, 0.

    Returns
    -------
    Tensor (..., 2 m)
        In a's dtype; not negative. See the notes for long vectors.

    Raises
    ------
    TypeError
        `a` or `projection` is not a dense tensor of one of these dtypes, their dtypes do not go together,
        or `eps` is not a number.
    ValueError
        `a` has no last axis, or it is empty; `projection` is not (D, m); tensors are on two devices; `eps`
        is negative or not finite.

    Notes
    -----
    Choromanski et al., ICLR 2021, lemma 1, in the form with both signs. With ``eps=0`` the mean of
    phi(q)·phi(k) over P is exp(q·k); its variance grows exponentially in |q + k|².

    The exponents are at most |P_j|²/2, where P_j is a column and a = P_j. For D above about 170, such
    vectors have features that are infinite in float32; for D above about 20, in float16. Almost all other
    long vectors have small exponents: where |a|² exceeds 2 |a P| by 210, only eps is left in float32. For
    attention weights exp(q·k / sqrt(D)), scale queries and keys by D ** -0.25 beforehand.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> P = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> maps.favor(torch.tensor([1.0, 0.5]), P, eps=0.0)
    tensor([0.7275, 0.7275, 0.0985, 0.0985])
    """
    call = "srwm.nn.maps.favor"
    _checks.vectors(call, "a", a)
    _checks.projection(call, "projection", projection, a)
    eps = _checks.number(call, "eps", eps, least=0)
    wide = _wide(a)
    # Under autocast the product would have the digits of halves, and so the exponents.
    if _checks.autocasts(a.device.type):
        with torch.autocast(a.device.type, enabled=False):
            x = wide @ projection.to(wide.dtype)
    else:
        x = wide @ projection.to(wide.dtype)
    half_square = wide.square().sum(-1, keepdim=True) / 2
    exponentials = torch.cat([x - half_square, -x - half_square], -1).exp()
    return ((exponentials + eps) / math.sqrt(exponentials.shape[-1])).to(a.dtype)


def orthogonal_projection(
    D: int,
    m: int,
    *,
    generator: torch.Generator | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw the projection of `favor`: columns from N(0, I), orthogonal in blocks of D.

    Parameters
    ----------
    D : int
        Entries of the vectors that it projects.
    m : int
        Columns; `favor` has twice as many features.
    generator : torch.Generator, optional
        Where the draws come from; by default torch's global generator of the device.
    device, dtype
        As for torch's layers.

    Returns
    -------
    Tensor (D, m)
        Columns 0 to D - 1 are orthogonal, so are D to 2 D - 1, and so on; the last block may be shorter.
        Directions are uniform and lengths those of independent Gaussian vectors, so that each column by
        itself is drawn from N(0, I).

    Raises
    ------
    TypeError
        `D` or `m` is not an int, `generator` not a torch.Generator, or the dtype not one of float16,
        bfloat16, float32, float64.
    ValueError
        `D` or `m` is below 1, torch cannot use the device here, or the generator is for another one.

    Notes
    -----
    Choromanski et al., ICLR 2021. Orthogonal columns make the error of `favor` smaller.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> P = maps.orthogonal_projection(4, 6, dtype=torch.float64)
    >>> P.shape
    torch.Size([4, 6])
    >>> block = P[:, :4].T @ P[:, :4]
    >>> torch.allclose(block, block.diagonal().diag(), atol=1e-12)
    True
    """
    call = "srwm.nn.maps.orthogonal_projection"
    D, m = _checks.size(call, "D", D), _checks.size(call, "m", m)
    like = torch.empty(0, **_checks.factory(call, device, dtype))
    _checks.generator(call, "generator", generator, like.device)
    return _drawn(D, m, like.dtype, like.device, generator)


class FeatureMap(nn.Module):
    """One of the maps with its options, for layers: ``phi(a)``, or ``phi(q, k)`` with the same projection.

    Parameters
    ----------
    name : {"identity", "elu", "softmax", "l2", "dpfp", "favor"}
        The map: a itself, `elu_plus_one`, `softmax`, `l2_norm`, `dpfp`, `favor`.
    D : int
        Entries of an input vector.
    nu : int
        Products per entry, of "dpfp" alone.
    n_features : int, optional
        Columns m of the projection, of "favor" alone, which needs it.
    sum_norm : bool
        Whether `sum_norm` follows; with "elu" both together are `positive`. Not with "identity" and "l2",
        whose features may be negative.
    eps : float
        That of `sum_norm`.
    device, dtype
        Of the projection of "favor", as for other torch layers.

    Attributes
    ----------
    d_out : int
        Entries of an output vector: D; 2 nu D of "dpfp", 2 m of "favor".
    projection : Tensor (D, m) or None
        That of "favor", a buffer that is not saved.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        An unknown name, a number out of range, an option of another map, or a device that torch cannot use
        here.

    Notes
    -----
    As published, "favor" draws a projection at each call in training mode; evaluation continues with the
    last one, and begins with one that is drawn with the layer. Draws come from torch's global generator.
    Under compilers and transforms, where a module may not change, a draw serves its call and is not kept.
    `torch.func.vmap` asks for ``randomness="same"`` or ``"different"``, as for dropout.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import maps
    >>> phi = maps.FeatureMap("dpfp", 4, nu=2, sum_norm=True)
    >>> phi(torch.randn(8, 20, 4)).shape, phi.d_out
    (torch.Size([8, 20, 16]), 16)
    >>> phi = maps.FeatureMap("favor", 4, n_features=10)
    >>> q, k = phi(torch.randn(8, 20, 4), torch.randn(8, 20, 4))
    >>> q.shape, phi.d_out
    (torch.Size([8, 20, 20]), 20)
    """

    projection: Tensor | None

    def __init__(
        self,
        name: Name,
        D: int,
        *,
        nu: int = 1,
        n_features: int | None = None,
        sum_norm: bool = False,
        eps: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        call = type(self).__name__
        factory = _checks.factory(call, device, dtype)
        self.D = _checks.size(call, "D", D)
        _checks.feature_map(call, "name", name, get_args(Name), nu, n_features, sum_norm, eps)
        self.name, self.nu, self.sum_norm, self.eps = name, int(nu), sum_norm, float(eps)
        self.n_features = None if n_features is None else int(n_features)
        self.d_out = {"dpfp": 2 * self.nu * self.D, "favor": 2 * (self.n_features or 0)}.get(name, self.D)
        empty = None if self.n_features is None else torch.empty(self.D, self.n_features, **factory)
        self.register_buffer("projection", empty, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projection of "favor" again. The other maps have nothing to initialise."""
        self._draw(keep=True)

    def forward(self, a: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map vectors, all with the same projection.

        Parameters
        ----------
        a, *more : Tensor (..., D)
            float16, bfloat16, float32 or float64. With "favor": in the dtype of the projection, or in
            halves beside one in float32, and on its device.

        Returns
        -------
        Tensor (..., d_out), or a tuple of them
            One for each argument, in its dtype; of one argument no tuple. Halves are rounded once.

        Raises
        ------
        TypeError
            An argument is not a dense tensor of such a dtype.
        ValueError
            The last axis of an argument has not D entries, or it is on another device than the projection.
        """
        vectors = (a, *more)
        call = type(self).__name__
        for argument in vectors:
            _checks.vectors(call, "a", argument, self.D)
            if self.projection is not None:
                _checks.projection(call, "projection", self.projection, argument)
        projection = self.projection
        if self.training:
            projection = self._draw(keep=not torch.compiler.is_compiling() and is_plain(vectors))
        features = tuple(self._features(_wide(v), projection).to(v.dtype) for v in vectors)
        return features if more else features[0]

    def _draw(self, *, keep: bool) -> Tensor | None:
        """A new projection, in float32 beside halves, which also replaces the module's with `keep`."""
        if self.projection is None or self.n_features is None:
            return None
        dtype = _checks.state_dtype(self.projection.dtype)
        drawn = _drawn(self.D, self.n_features, dtype, self.projection.device)
        if keep:
            # In place, for those who hold the buffer, e.g. DDP. The call itself takes what was drawn: the
            # next draw would spoil what is saved for backward.
            self.projection.copy_(drawn)
        return drawn

    def _features(self, a: Tensor, projection: Tensor | None) -> Tensor:
        """The features of `a`, which is no half."""
        if self.name == "elu" and self.sum_norm:
            return positive(a, self.eps)
        if self.name == "dpfp":
            features = dpfp(a, self.nu)
        elif projection is not None:
            features = favor(a, projection.to(a.dtype))
        else:
            features = _WITHOUT_OPTIONS[self.name](a)
        return sum_norm(features, self.eps) if self.sum_norm else features

    def extra_repr(self) -> str:
        """The options, for torch's repr."""
        defaults = {"nu": 1, "n_features": None, "sum_norm": False, "eps": 0}
        options = ((option, getattr(self, option)) for option in defaults)
        changed = "".join(f", {option}={a!r}" for option, a in options if a != defaults[option])
        return f"{self.name!r}, {self.D}{changed}"


# The maps of `FeatureMap` that have no options of their own there.
_WITHOUT_OPTIONS = {"identity": lambda a: a, "elu": elu_plus_one, "softmax": softmax, "l2": l2_norm}


def _wide(a: Tensor) -> Tensor:
    """`a`, in float32 if it is in halves."""
    return a.to(_checks.state_dtype(a.dtype))


def _exp_below_zero(a: Tensor) -> Tensor:
    """The exponents of elu(a) + 1: `a` up to 0, and 0 above, where the rest of it is relu(a).

    Not elu(a) + 1 as written: in float32 that rounds small values, and is 0 for a < -17.
    Not clamp either: at 0 versions of torch differ in its gradient, and relu has none there.
    """
    return a.masked_fill(a > 0, 0)


def _drawn(
    D: int,
    m: int,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None = None,
) -> Tensor:
    """See `orthogonal_projection`."""
    options: dict[str, Any] = {
        "dtype": _checks.state_dtype(dtype),
        "device": device,
        "generator": generator,
    }
    blocks = -(-m // D)
    Q, _ = torch.linalg.qr(torch.randn(blocks, D, D, **options))
    directions = Q.transpose(0, 1).flatten(1)[:, :m]
    gaussian = torch.randn(D, m, **options)
    lengths = gaussian.square().sum(0).sqrt()
    # The decomposition gives columns signs that depend on the draws. With random ones, which lengths say
    # nothing of, directions are uniform.
    # Contiguous, so that products have the same bits as those with the copy that evaluation continues with.
    return (directions * torch.where(gaussian[0] < 0, -lengths, lengths)).to(dtype).contiguous()
