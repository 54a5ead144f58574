"""The layer of fast weights that follow a differential equation along the path of the inputs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from srwm._torch_private import is_plain
from srwm.nn import _checks
from srwm.nn._fast_weights import fast_weights
from srwm.nn._mixer import Mixer, Residual, kind_of

Method = Literal["euler", "rk4"]
Drive = Literal["v1", "v2", "dx"]


class DeltaCDE(Mixer):
    """Multi-head fast weights that a path through the inputs drives by the delta rule, in continuous time.

    The path X goes in straight lines from each input to the next. Keys, values and rates are read from the
    path and its slope X', and change the fast weights S by a controlled differential equation, which is
    solved in one step for each input (after Irie, Faccio, Schmidhuber, NeurIPS 2022)::

        X(times[t]) = layer_norm(h[t])                or another residual form, as in `SRWM`
        q, k, b; v  = slope_net(X'); path_net(X)      "v2"; see `drive`
        dS / dtime  = softmax(k)^T sigmoid(b) (tanh(v) - softmax(k) S)
        y[t]        = softmax(q) S(times[t])
        out = h + dropout(out_linear(y))

    Parameters
    ----------
    d_model : int
        Entries of an input vector; a multiple of `n_heads`.
    n_heads : int
        Heads H; each has fast weights (D, D).
    method : {"euler", "rk4"}
        "euler": one step of the delta rule, ``S <- S + dt dS/dtime``, with X and X' at the end of the step,
        where the input is. "rk4": one step of the classical Runge-Kutta method of order 4, with X at the
        beginning, in the middle and at the end.
    drive : {"v2", "v1", "dx"}
        What the slope gives. "v2": queries, keys and rates, while the path gives values, as published for
        the delta rule. "v1": values, while the path gives the others. "dx": all.
    residual : {"pre_norm", "norm_skip", "plain", "none"}
        As for `SRWM`.
    d_out : int, optional
        Entries of an output vector, by default `d_model`; only with ``residual="none"`` may it differ.
    dropout : float
        Probability of dropout on the output of out_linear.
    device, dtype
        As for other torch layers.

    Attributes
    ----------
    slope_net, path_net : Linear
        From d_model to H (2 D + 1) entries for q, k, b and to H D for v, as `drive` says, without bias. The
        entries of each head are contiguous. With "dx" slope_net gives q, k, b, v and path_net is None.

    Notes
    -----
    The state (..., H, D, D + 3) has the fast weights of each sequence, from keys to values, and behind them
    three columns for the slope of the next step: the last point of the path, its entries by head; its time;
    and 1, or 0 where a sequence begins, the same in all entries. It is float32 also with halves.

    A sequence begins with S = 0 at X = 0, one unit of time before its first input; so does a reset. The
    first step is always one unit long, whatever its time.

    With "euler", steps longer than 1 / (sigmoid(b) |k|^2) overshoot, as rates above 1 do. "rk4" does not,
    up to 2.8 times this length. With "v2" and "dx" keys do not move within a step, and "rk4" is the delta
    rule, too, with another rate and value: for z = dt sigmoid(b) |k|^2 the rate is
    (z - z^2 / 2 + z^3 / 6 - z^4 / 24) / |k|^2, while the exact flow has (1 - exp(-z)) / |k|^2. With "v1"
    keys move, and "rk4" is a loop over steps in torch: slow, and compiled for each length anew.

    In the published model, which is read at the end of a sequence alone, keys and rates come from two maps
    with a norm between, and S begins with one step without S.

    Raises
    ------
    TypeError
        Sizes that are not integers, options of other types, a dtype other than float16, bfloat16,
        float32, float64.
    ValueError
        `d_model` is not a multiple of `n_heads`, a choice is unknown, `d_out` differs from `d_model`
        without ``residual="none"``, a number is out of range, or torch cannot use the device here.

    Examples
    --------
    >>> import torch
    >>> from srwm.nn import DeltaCDE
    >>> layer = DeltaCDE(64, n_heads=4, method="rk4")
    >>> times = torch.rand(8, 40).cumsum(-1)                       # of 8 sequences of 40 steps
    >>> h = torch.randn(8, 40, 64)
    >>> out, state = layer(h[:, :20], times=times[:, :20])
    >>> out, state = layer(h[:, 20:], state, times=times[:, 20:])  # the 20 steps after those
    >>> out.shape, state.shape
    (torch.Size([8, 20, 64]), torch.Size([8, 4, 16, 19]))
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        method: Method = "euler",
        drive: Drive = "v2",
        residual: Residual = "pre_norm",
        d_out: int | None = None,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = type(self).__name__
        factory = _checks.factory(name, device, dtype)
        method = _checks.one_of(name, "method", method, get_args(Method))
        drive = _checks.one_of(name, "drive", drive, get_args(Drive))
        super().__init__(d_model, n_heads, residual, d_out, dropout, factory)
        self.method, self.drive = method, drive
        H, D = self.n_heads, self.d_head
        of_slope = {"v2": 2 * D + 1, "v1": D, "dx": 3 * D + 1}[drive]
        of_path = 3 * D + 1 - of_slope
        self.slope_net = nn.Linear(self.d_model, H * of_slope, bias=False, **factory)
        self.path_net = nn.Linear(self.d_model, H * of_path, bias=False, **factory) if of_path else None

    def reset_parameters(self) -> None:
        """Initialise all parameters again, as torch's linear maps and layer norms do."""
        super().reset_parameters()
        self.slope_net.reset_parameters()
        if self.path_net is not None:
            self.path_net.reset_parameters()

    def forward(
        self,
        h: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the layer over a segment of steps.

        Parameters
        ----------
        h, state, reset, mask, return_state
            As for all layers, see `SRWM`.
        times : Tensor (..., L), optional
            The times of the inputs, strictly increasing, also from one segment to the next; not over a
            reset, nor at padding. Without it every step is one unit long. Its leading axes broadcast to
            those of h. Times are read in the precision of the state: count them from a beginning nearby.

        Returns
        -------
        out : Tensor (..., L, d_out)
        state : Tensor (..., H, D, D + 3) or None

        Raises
        ------
        TypeError, ValueError
            As all layers; also for times of another shape or dtype, and for times that do not increase.
            Times on a GPU, and those under transforms and compilers, are not looked at: where they do not
            increase, outputs and state are NaN.

        Examples
        --------
        >>> import torch
        >>> from srwm.nn import DeltaCDE
        >>> out, state = DeltaCDE(12, n_heads=3)(torch.randn(5, 12), times=torch.tensor([0.0, 1, 3, 4, 9]))
        >>> state[0, 0, -2:].detach()  # the last time, and a one
        tensor([9., 1.])
        """
        return self._call(h, state, reset, mask, return_state, times=times)

    def step(
        self,
        h: Tensor,
        state: Any = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Tensor, Any]:
        """Run the layer over one step, for agents. The tensors have no axis of steps.

        Parameters
        ----------
        h, state, reset, mask, times, return_state
            As in a call of the layer, without the axis of steps: h (..., d_model), the others (...).

        Returns
        -------
        out : Tensor (..., d_out)
        state : Tensor (..., H, D, D + 3) or None

        Raises
        ------
        TypeError, ValueError
            As a call of the layer.

        Examples
        --------
        >>> import torch
        >>> from srwm.nn import DeltaCDE
        >>> layer, state = DeltaCDE(12, n_heads=3), None
        >>> for time in (0.0, 0.5, 2.0):
        ...     out, state = layer.step(torch.randn(12), state, times=torch.tensor(time))
        >>> out.shape
        torch.Size([12])
        """
        return self._step(h, state, reset, mask, return_state, times=times)

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """(H, D, D + 3), the last axes of a state."""
        return self.n_heads, self.d_head, self.d_head + 3

    def _kind(self) -> tuple[torch.dtype, torch.device]:
        weight = self.slope_net.weight
        if isinstance(weight, Tensor):
            return kind_of(weight)
        return torch.float32, torch.device("cpu")  # quantised: then weight is a method

    def _check(
        self,
        call: str,
        h: Any,
        state: Any,
        reset: Any,
        mask: Any,
        return_state: Any,
        *,
        has_steps: bool,
        times: Any = None,
    ) -> None:
        super()._check(call, h, state, reset, mask, return_state, has_steps=has_steps)
        if times is None:
            return
        _checks.times(call, "times", times, h, has_steps=has_steps)
        given = tuple(a for a in (times, state, reset, mask) if a is not None)
        if torch.compiler.is_compiling() or times.device.type != "cpu" or not is_plain(given):
            return
        lead, flags = h.shape[:-1], [reset, mask]
        if not has_steps:
            lead, times = (*lead, 1), times.unsqueeze(-1)
            flags = [None if a is None else a.unsqueeze(-1) for a in flags]
        reset, padding = flags[0], None if flags[1] is None else ~flags[1]
        last = times.new_zeros(2) if state is None else state[..., 0, 0, -2:]
        times = times.to(_checks.state_dtype(self._kind()[0]))
        before, _ = _neighbours(last.to(times.dtype), _points(times.expand(lead)), padding)
        if not (_intervals(times, before, reset, padding) > 0).all():
            raise _checks.not_increasing(call, "times", times)

    def _mix(
        self,
        x: Tensor,
        state: Tensor | None,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
        times: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        H, D = self.n_heads, self.d_head
        lead = x.shape[:-1]
        x = x.to(_checks.state_dtype(self._kind()[0]))
        if state is None:
            state = x.new_zeros(self.state_shape)
        S, point, time_and_one = state[..., :D], state[..., D].flatten(-2), state[..., 0, 0, D + 1 :]
        flags = (
            None if reset is None else reset.squeeze(-2),
            None if padding is None else padding.squeeze(-2),
        )
        if times is None:
            at = _unit_times(x.new_ones(lead), time_and_one[..., :1], *flags)
        else:
            at = times.to(x.dtype).expand(lead)
        first = torch.cat([point, time_and_one], -1)
        before, last = _neighbours(first, torch.cat([x, _points(at)], -1), flags[1])
        fresh = _fresh(before, flags[0])
        origin = before[..., : self.d_model].masked_fill(fresh.unsqueeze(-1), 0)
        if times is None:
            dt = x.new_ones(lead)
        else:
            dt = _intervals(at, before, *flags)
            dt = torch.where(dt > 0, dt, torch.nan)
        slope = (x - origin) / dt.unsqueeze(-1)
        y, S_next = self._solve(origin, x, slope, dt.unsqueeze(-2), S, reset, padding, return_state)
        if S_next is None:
            return y, None
        columns = last[..., : self.d_model].unflatten(-1, (H, D)).unsqueeze(-1)
        others = last[..., None, None, self.d_model :].expand(*columns.shape[:-1], 2)
        return y, torch.cat([S_next, columns, others], -1)

    def _solve(
        self,
        origin: Tensor,
        x: Tensor,
        slope: Tensor,
        dt: Tensor,
        S: Tensor,
        reset: Tensor | None,
        padding: Tensor | None,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """The outputs and the fast weights after steps from `origin` to `x` (..., L, d_model) in dt."""
        of_slope, of_end = self._columns(self.slope_net, slope), self._columns(self.path_net, x)
        q, k, beta, v = self._blocks(of_end, of_slope)
        if self.method == "euler":
            rate, value = beta * dt, v
        else:
            of_origin = self._columns(self.path_net, origin)
            of_middle = None if of_origin is None or of_end is None else (of_origin + of_end) / 2
            stages = [self._blocks(of_path, of_slope)[1:] for of_path in (of_origin, of_middle, of_end)]
            if self.drive == "v1":
                y, S = _runge_kutta(q, stages, dt, S, reset, padding)
                return y.to(v.dtype), S if return_state else None
            rate, value = _rk4_as_delta_rule(k, beta * dt, [v for _, _, v in stages])
        if padding is not None:
            rate = rate.masked_fill(padding, 0)
        return fast_weights(q, k, value.to(v.dtype), rate.to(v.dtype), S, reset, return_state)

    def _columns(self, net: nn.Module | None, a: Tensor) -> Tensor | None:
        """What a map gives each head (..., H, L, columns), in the precision of the parameters."""
        dtype = self._kind()[0]
        return None if net is None else self._by_head(net(a.to(dtype))).to(dtype)

    def _blocks(
        self, of_path: Tensor | None, of_slope: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys, rates and values."""
        D = self.d_head
        assert of_slope is not None
        if of_path is None:
            q, k, b, v = of_slope.split([D, D, 1, D], -1)
        else:
            programming, v = (of_slope, of_path) if self.drive == "v2" else (of_path, of_slope)
            q, k, b = programming.split([D, D, 1], -1)
        return q.softmax(-1), k.softmax(-1), b.squeeze(-1).sigmoid(), v.tanh()

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"method": self.method, "drive": self.drive}


def _points(times: Tensor) -> Tensor:
    """Times (..., L) -> (..., L, 2): each with a one behind it, for a point that is there."""
    return torch.stack([times, torch.ones_like(times)], -1)


def _unit_times(ones: Tensor, begin: Tensor, reset: Tensor | None, padding: Tensor | None) -> Tensor:
    """The times of unit steps (..., L) after `begin` (..., 1), and after 0 from a reset on."""
    times = (ones if padding is None else ones.masked_fill(padding, 0)).cumsum(-1)
    if reset is None:
        return begin + times
    times = times - (times - 1).masked_fill(~reset, 0).cummax(-1).values
    return times + begin.masked_fill(reset.cumsum(-1) > 0, 0)


def _neighbours(first: Tensor, points: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """For each of the points (..., L, n) the one before it, skipping padding, and the last one (..., n).

    `first` (..., n) is before all of them.
    """
    *lead, L, n = points.shape
    rows = torch.cat([first.unsqueeze(-2).expand(*lead, 1, n), points], -2)
    if padding is None:
        return rows[..., :-1, :], rows[..., -1, :]
    places = torch.arange(1, L + 1, device=points.device).expand(*lead, L).masked_fill(padding, 0)
    begin = places.new_zeros(()).expand(*lead, 1)
    seen = torch.cat([begin, places], -1).cummax(-1).values.unsqueeze(-1).expand(*lead, L + 1, n)
    rows = rows.gather(-2, seen)
    return rows[..., :-1, :], rows[..., -1, :]


def _fresh(before: Tensor, reset: Tensor | None) -> Tensor:
    """(..., L): whether nothing is before a step, where `before` ends with a one or a zero."""
    fresh = before[..., -1] == 0
    return fresh if reset is None else fresh | reset


def _intervals(times: Tensor, before: Tensor, reset: Tensor | None, padding: Tensor | None) -> Tensor:
    """Lengths of steps (..., L); `before` (..., L, n) ends with the times before and ones or zeros."""
    unit = _fresh(before, reset)
    if padding is not None:
        unit = unit | padding
    return (times - before[..., -2]).masked_fill(unit, 1)


def _rk4_as_delta_rule(k: Tensor, rate: Tensor, values: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The rate and the value with which the delta rule is a Runge-Kutta step with this key.

    With r = k S the step is one of r' = rate |k|^2 (v - r) in a time of 1, with `values` at its beginning,
    in its middle and at its end. Its result is linear in r and in them, with these coefficients.
    """
    z = rate * k.to(rate.dtype).square().sum(-1)
    shares = 1 - z + z**2 / 2 - z**3 / 4, 4 - 2 * z + z**2 / 2, torch.ones_like(z)  # their sum is 6 p
    p = 1 - z / 2 + z**2 / 6 - z**3 / 24
    value = sum(share.unsqueeze(-1) * v for share, v in zip(shares, values, strict=True))
    return rate * p, value / (6 * p).unsqueeze(-1)


def _runge_kutta(
    q: Tensor,
    stages: list[tuple[Tensor, Tensor, Tensor]],
    dt: Tensor,
    S: Tensor,
    reset: Tensor | None,
    padding: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The outputs (..., H, L, D) and the last S, step by step.

    Stages are keys (..., H, L, D), rates (..., H, L) and values (..., H, L, D) at the beginning, in the
    middle and at the end of each step.
    """
    if padding is not None:
        dt = dt.masked_fill(padding, 0)
    q, stages = q.to(S.dtype), [(k.to(S.dtype), beta.to(S.dtype), v.to(S.dtype)) for k, beta, v in stages]
    S, outputs = S.expand(*q.shape[:-2], *S.shape[-2:]), [q[..., :0, :]]
    for t in range(q.shape[-2]):
        if reset is not None:
            S = S.masked_fill(reset[..., t, None, None], 0)

        def change(stage: int, S: Tensor, t: int = t) -> Tensor:
            k, beta, v = stages[stage]
            row = k[..., t : t + 1, :]
            return row.mT @ (beta[..., t, None, None] * (v[..., t : t + 1, :] - row @ S))

        step = dt[..., t, None, None]
        first = change(0, S)
        second = change(1, S + step / 2 * first)
        third = change(1, S + step / 2 * second)
        last = change(2, S + step * third)
        S = S + step / 6 * (first + 2 * second + 2 * third + last)
        outputs.append(q[..., t : t + 1, :] @ S)
    return torch.cat(outputs, -2), S
