"""The table that every suite walks: each operator, how its random operands are drawn, and one step of it.

A row is an operator's description, its public functions, and what only its tests need. From these follow
cases of any size, with and without a state, resets and optional operands, on every backend and in every
dtype.
"""

from __future__ import annotations

import ctypes
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import srwm
from srwm import _dispatch
from srwm.operators.spec import Operand, Operator
from srwm.operators.table import OPERATORS

_dispatch.BACKENDS["cuda-on-host"] = "tests.cuda_host.backend"

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def over_root_of_rows(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Entries of a matrix with which a product keeps the size of its vector."""
    return rng.standard_normal(shape) / np.sqrt(shape[-2])


def memory(has_query: bool) -> Draw:
    """Packed matrices of a memory, which an input with a first entry of 1 keeps for a while."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        W = over_root_of_rows(rng, shape) / 2
        W[..., 0, -1 if has_query else -1 - shape[-2]] += 8  # the column alpha
        return W

    return draw


def with_one(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors whose first entry is 1."""
    a = rng.standard_normal(shape)
    a[..., 0] = 1
    return a


def about_as_long_as_1(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors."""
    return rng.standard_normal(shape) / np.sqrt(shape[-1])


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers whose sums of products do not come near to zero."""
    return 0.1 + rng.random(shape)


def distributions(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors of positive entries whose sum is 1."""
    e = np.exp(rng.standard_normal(shape))
    return e / e.sum(-1, keepdims=True)


def low_or_not(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors of numbers of which exp is about as small as what is added in a denominator, or not.

    One number alone is: else the gradient would be only what is added, of which autograd loses the digits.
    """
    is_low = rng.integers(0, 2, (*shape[:-1], 1)) if shape[-1] > 1 else 1
    return rng.standard_normal(shape) - 10 * is_low


def rates(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between 0 and 1."""
    return rng.random(shape)


VERBS = ("forward", "vjp", "backward")


@dataclass(frozen=True, eq=False)
class Row:
    """An operator in the table.

    Attributes
    ----------
    op : Operator
        With the values of its settings that the row runs it with.
    functions : object
        What has its public `forward`, `vjp` and `backward`. Another operator may have them too, as
        `srwm.forward` with `read`.
    torch_step : callable
        One step in torch operations, written without the package: the entries of the data operands at a
        step, then the parameters, then the matrices before it -> the output, and the matrices after it.
    draws : mapping of str to callable
        How the entries of some operands are drawn; of others, normally distributed. A state is drawn as the
        matrix that it stands for.
    letters : callable
        The sizes of letters that L, D and Do do not name, from these.
    name : str
        By default that of the operator.
    """

    op: Operator
    functions: Any
    torch_step: Callable[..., Any]
    draws: Mapping[str, Draw] = field(default_factory=dict)
    letters: Callable[[Mapping[str, int]], dict[str, int]] = lambda sizes: {}
    name: str = ""
    places_of: Mapping[str, tuple[str, ...]] = field(init=False)  # arguments with a place, by function

    def __post_init__(self) -> None:
        """Read the signatures once: torch's compiler cannot."""
        object.__setattr__(self, "name", self.name or self.op.name)
        places = {}
        for verb in VERBS:
            parameters = inspect.signature(getattr(self.functions, verb)).parameters.values()
            with_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            places[verb] = tuple(name for name in with_place if not name.startswith("grad_"))
        object.__setattr__(self, "places_of", places)

    def __repr__(self) -> str:
        return self.name

    def place(self, name: str) -> int:
        """The place of an operand in the flat order."""
        return self.op.names.index(name)

    @property
    def initials(self) -> tuple[str, ...]:
        """The names of the matrices with which sequences begin."""
        return tuple(operand.name for operand in self.op.initials)

    @property
    def states(self) -> tuple[str, ...]:
        """The names of the matrices that replace these at the start."""
        return tuple(operand.name for operand in self.op.states)

    @property
    def next_states(self) -> tuple[str, ...]:
        """The names of the matrices after the last step."""
        return tuple(operand.name for operand in self.op.next_states)

    @property
    def result_names(self) -> tuple[str, ...]:
        """The names of the output and of the matrices after the last step."""
        return tuple(result.name for result in self.op.results)

    @property
    def has_mask(self) -> bool:
        """Whether it skips padding."""
        return self.op.place("mask") is not None

    def forward(self, flat: Sequence[Any], *, return_state: bool = True, **options: Any) -> Any:
        """The public `forward` on operands in the flat order; None for those that are not given.

        The output and the matrices in one tuple; the output alone without `return_state`.
        """
        arguments = self.split("forward", flat, options)
        results = self.functions.forward(*arguments, return_state=return_state, **options)
        return self._flattened(results) if return_state else results

    def vjp(self, flat: Sequence[Any], **options: Any) -> Any:
        """The public `vjp`: the results, and a function of their gradients, as those of `forward`."""
        results, pullback = self.functions.vjp(*self.split("vjp", flat, options), **options)

        def pull_back(grad_y: Any, *of_states: Any) -> tuple[Any, ...]:
            return self._of_operands(pullback(grad_y, _joined(of_states)))

        return self._flattened(results), pull_back

    def backward(self, flat: Sequence[Any], grad_y: Any, *of_states: Any, **options: Any) -> Any:
        """The public `backward`."""
        arguments = self.split("backward", flat, options)
        found = self.functions.backward(*arguments, grad_y, _joined(of_states), **options)
        return self._of_operands(found)

    def split(self, verb: str, flat: Sequence[Any], options: dict[str, Any]) -> list[Any]:
        """The arguments that have a place; the others are put into the options, with the settings."""
        given = dict(zip(self.op.names, flat, strict=False))
        given["state"] = _joined([given.pop(name, None) for name in self.states])
        arguments = [given.pop(name, None) for name in self.places_of[verb]]
        options |= given
        options |= self.op.by_setting
        return arguments

    def _flattened(self, results: Any) -> tuple[Any, ...]:
        y, matrices = results
        return (y, matrices) if len(self.states) == 1 else (y, *matrices)

    def _of_operands(self, gradients: Sequence[Any]) -> tuple[Any, ...]:
        """The gradients without those of arguments that another operator of the module takes: None."""
        names = self.places_of["backward"]
        foreign = [i for i, name in enumerate(names) if name not in self.op.names]
        assert all(gradients[i] is None for i in foreign)
        return tuple(g for i, g in enumerate(gradients) if i not in foreign)


def _joined(matrices: Sequence[Any]) -> Any:
    """One array or None for each state, as the public functions take them."""
    if all(a is None for a in matrices):
        return None
    return matrices[0] if len(matrices) == 1 else tuple(matrices)


# ---- the rows: each step is written from the papers' equations (docs), not from the package


def _torch() -> Any:
    return pytest.importorskip("torch")


def _times(v: Any, A: Any) -> Any:
    return _torch().einsum("...d,...dm->...m", v, A)


def _outer(a: Any, b: Any) -> Any:
    return _torch().einsum("...d,...m->...dm", a, b)


def srwm_step(x_t: Any, W: Any, read_t: Any = None) -> Any:
    """Of the self-referential weight matrix: x_t, read_t (..., D), W (..., D, M)."""
    D, torch = x_t.shape[-1], _torch()
    y, q, k, b = _times(x_t, W).tensor_split((-2 * D - 4, -D - 4, -4), -1)
    q, k, b = q.softmax(-1), k.softmax(-1), b.sigmoid()
    change = _times(q, W) - _times(k, W)
    blocks = zip(change.tensor_split((-2 * D - 4, -D - 4, -4), -1), range(4), strict=True)
    u = torch.cat([b[..., j : j + 1] * block for block, j in blocks], -1)
    if read_t is not None:
        y = _times(read_t, W[..., : y.shape[-1]])
    return y, W + _outer(k, u)


def srwm_read_step(x_t: Any, read_t: Any, W: Any) -> Any:
    """The same with an input of its own for the output."""
    return srwm_step(x_t, W, read_t)


def delta_step(q_t: Any, k_t: Any, v_t: Any, beta_t: Any, S: Any) -> Any:
    """Of the delta rule: q_t, k_t (..., D), v_t (..., Do), beta_t (...), S (..., D, Do)."""
    u = beta_t[..., None] * (v_t - _times(k_t, S))
    S = S + _outer(k_t, u)
    return _times(q_t, S), S


def sum_step(q_t: Any, k_t: Any, v_t: Any, S: Any) -> Any:
    """Of the sum rule with scale 1/2: q_t, k_t (..., D), v_t (..., Do), S (..., D, Do)."""
    S = S + _outer(k_t, v_t)
    return _times(q_t, S) / 2, S


def normalised_sum_step(q_t: Any, k_t: Any, v_t: Any, S: Any, z: Any) -> Any:
    """The same with a denominator, with 0.1 in it: z (..., D)."""
    S, z = S + _outer(k_t, v_t), z + k_t
    return _times(q_t, S) / 2 / ((q_t * z).sum(-1, keepdim=True) + 0.1), S, z


def recurrent_delta_step(
    q_t: Any, k_t: Any, v_t: Any, b_t: Any, R_q: Any, R_k: Any, R_v: Any, r_b: Any, S: Any, y: Any
) -> Any:
    """Of the Recurrent Delta Net: vectors (..., D), b_t (...), matrices (..., D, D)."""
    r = y.tanh()
    q, k = (q_t + _times(r, R_q)).softmax(-1), (k_t + _times(r, R_k)).softmax(-1)
    v, beta = v_t + _times(r, R_v), (b_t + (r * r_b).sum(-1)).sigmoid()
    S = S + _outer(k, beta[..., None] * (v - _times(k, S)))
    y = _times(q, S)
    return y, S, y


def delta_rnn_step_2(z_t: Any, k_t: Any, v_t: Any, beta_t: Any, R: Any, h: Any) -> Any:
    """Of the Delta RNN, version 2: vectors (..., D), beta_t (...), R (..., D, D)."""
    R = R + _outer(k_t, beta_t[..., None] * (v_t - _times(k_t, R)))
    s = h.exp() / (h.exp().sum(-1, keepdim=True) + 1e-6)
    h = z_t + _times(s, R)
    return h, R, h


def delta_rnn_step_1(z_t: Any, k_t: Any, v_t: Any, beta_t: Any, R: Any, h: Any) -> Any:
    """Of version 1."""
    R = R + _outer(k_t, beta_t[..., None] * (v_t - _times(k_t, R)))
    h = (z_t + _times(h, R)).softmax(-1)
    return h, R, h


def self_modifying_step(
    x_t: Any, W: Any, query_t: Any, a: float, c: float, keys: str, rate: str, scale: float
) -> Any:
    """Of the memory that modifies itself: x_t, query_t (..., D), W (..., D, M)."""
    torch, D = _torch(), x_t.shape[-1]
    ends = (-2 * D - 2, -D - 2, -2, -1) if query_t is not None else (-3 * D - 2, -2 * D - 2, -D - 2, -D - 1)
    W_y, W_k, W_v, W_eta, W_last = W.tensor_split(ends, -1)
    W_alpha, W_q = W_last[..., :1], W_last[..., 1:]
    k, v, eta, alpha = _times(x_t, W_k), _times(x_t, W_v), _times(x_t, W_eta), _times(x_t, W_alpha)
    k = k / k.norm(dim=-1, keepdim=True).clamp_min(1e-6) if keys == "l2" else k.softmax(-1)
    eta = scale * (torch.nn.functional.softplus(eta) if rate == "softplus" else eta.sigmoid())
    y = _times(_times(x_t, W_q) if query_t is None else query_t, W_y)
    change = eta * _times(a * v - c * k, W)
    return y, alpha.sigmoid()[..., None] * W + _outer(k, change)


def self_modifying_l2(x_t: Any, W: Any) -> Any:
    """With the objective of equation 93."""
    return self_modifying_step(x_t, W, None, 1, 2, "l2", "softplus", 0.3)


def self_modifying_printed(x_t: Any, W: Any) -> Any:
    """With that of equation 92, as it is printed."""
    return self_modifying_step(x_t, W, None, -1, 1, "softmax", "sigmoid", 0.4)


def self_modifying_query(x_t: Any, query_t: Any, W: Any) -> Any:
    """With the squared distance, and queries from outside."""
    return self_modifying_step(x_t, W, query_t, 2, 3, "l2", "softplus", 0.1)


def _srwm_letters(sizes: Mapping[str, int]) -> dict[str, int]:
    return {"M": sizes["Do"] + 2 * sizes["D"] + 4}


def _with(name: str, **settings: Any) -> Operator:
    """The operator with some settings of these values, and the others of their default ones."""
    op = OPERATORS[name]
    return op.at(tuple({**op.by_setting, **settings}.values()))


def _memory(name: str, step: Any, blocks: int, of: str = "", **settings: Any) -> Row:
    """A row of a memory that modifies itself, with this many blocks of D columns."""
    return Row(
        _with(of or name, **settings),
        srwm.self_modifying,
        step,
        {"x": with_one, "W": memory(has_query=blocks == 2)},
        lambda sizes: {"M": sizes["Do"] + blocks * sizes["D"] + 2},
        name,
    )


_OF_DELTA_RNN = {"k": distributions, "beta": rates, "R": over_root_of_rows}

SRWM = Row(OPERATORS["srwm"], srwm, srwm_step, {"W": over_root_of_rows}, _srwm_letters)
SRWM_READ = Row(OPERATORS["srwm_read"], srwm, srwm_read_step, {"W": over_root_of_rows}, _srwm_letters)
DELTA = Row(OPERATORS["delta"], srwm.delta, delta_step, {"k": about_as_long_as_1, "beta": rates})
SUM_RULE = Row(_with("sum_rule", scale=0.5), srwm.sum_rule, sum_step)
NORMALISED_SUM_RULE = Row(
    _with("normalised_sum_rule", normalise=0.1, scale=0.5),
    srwm.sum_rule,
    normalised_sum_step,
    {"q": positive, "k": positive, "z": positive},
)
RECURRENT_DELTA = Row(
    OPERATORS["recurrent_delta"],
    srwm.recurrent_delta,
    recurrent_delta_step,
    {**dict.fromkeys(("R_q", "R_k", "R_v"), over_root_of_rows), "r_b": about_as_long_as_1},
)
DELTA_RNN = Row(
    OPERATORS["delta_rnn"],
    srwm.delta_rnn,
    delta_rnn_step_2,
    {**_OF_DELTA_RNN, "z": low_or_not, "h": low_or_not},
)
DELTA_RNN_1 = Row(
    _with("delta_rnn", version=1), srwm.delta_rnn, delta_rnn_step_1, _OF_DELTA_RNN, name="delta_rnn_1"
)
SELF_MODIFYING = _memory("self_modifying", self_modifying_l2, 3, c=2.0, rate_scale=0.3)
SELF_MODIFYING_PRINTED = _memory(
    *("self_modifying_printed", self_modifying_printed, 3, "self_modifying"),
    **{"a": -1.0, "keys": "softmax", "rate": "sigmoid", "rate_scale": 0.4},
)
SELF_MODIFYING_QUERY = _memory(
    "self_modifying_query", self_modifying_query, 2, a=2.0, c=3.0, rate_scale=0.1
)

ROWS = (
    SRWM,
    SRWM_READ,
    DELTA,
    SUM_RULE,
    NORMALISED_SUM_RULE,
    RECURRENT_DELTA,
    DELTA_RNN,
    DELTA_RNN_1,
    SELF_MODIFYING,
    SELF_MODIFYING_PRINTED,
    SELF_MODIFYING_QUERY,
)
# Those that run what is costly in `make test`: what an operator can be made of is in one of them.
THOROUGH = (SRWM, DELTA, RECURRENT_DELTA, SELF_MODIFYING)
# Those whose CUDA kernels have a layout for each size. In `make test` they alone run all that wants many
# kernels of emulated CUDA.
ON_CUDA = (SRWM, DELTA)
each_operator = pytest.mark.parametrize("row", ROWS, ids=repr)
each_operator_with_a_mask = pytest.mark.parametrize("row", [r for r in ROWS if r.has_mask], ids=repr)
each_operator_on_cuda = pytest.mark.parametrize("row", ON_CUDA, ids=repr)


# ---- sizes


# (leading axes of the data operands, of the initial ones, L, D, Do): every size at which a loop, a vector
# or a segment can end.
SIZES = [
    ((), (), 1, 1, 1),
    ((2,), (2,), 2, 2, 3),
    ((2, 3), (3,), 63, 3, 5),
    ((3,), (1,), 33, 8, 8),
    ((1, 2), (4, 1), 65, 16, 16),
    ((2,), (), 31, 27, 16),
    ((2,), (2,), 100, 28, 28),
    ((2,), (2,), 200, 32, 32),
    ((1,), (2,), 40, 40, 7),
    ((2,), (), 64, 48, 49),
    ((1, 2), (2,), 70, 64, 64),
    ((), (), 17, 100, 1),
    ((1,), (1,), 34, 128, 64),
]
# Those at which the published backward is wrong (heads of 32 and 64, more than a segment of steps), heads
# wider than a warp, outputs wider than heads and narrower.
LONG_OR_WIDE = [
    ((2,), (), 300, 16, 16),
    ((1,), (1,), 600, 32, 32),
    ((1,), (1,), 200, 64, 64),
    ((1,), (1,), 200, 128, 128),
    ((2,), (2,), 200, 40, 40),
    ((1,), (1,), 37, 16, 300),
    ((1,), (1,), 5, 256, 3),
    ((1,), (1,), 5, 70, 1024),
    ((1500,), (), 2, 2, 1),  # more sequences of one weight than chunks in which its gradient is summed
]


def size_id(size: Any) -> str:
    """A size in the name of a test."""
    return "-".join(map(str, size)).replace(" ", "")


# Where sequences start and begin anew, and whether some steps are padding: which of the optional operands a
# case has. Rows whose operator has no mask have no starts with one.
STARTS = {
    "plain": {},
    "reset": {"reset": True},
    "state": {"state": True},
    "state-reset": {"state": True, "reset": True},
    "mask": {"mask": True},
    "state-reset-mask": {"state": True, "reset": True, "mask": True},
}
EVERYTHING = STARTS["state-reset-mask"]  # of those without a mask, all but that


def starts_of(row: Row) -> dict[str, dict[str, bool]]:
    """The starts of a row."""
    return {name: start for name, start in STARTS.items() if row.has_mask or "mask" not in start}


def _with_starts(rows: Sequence[Row]) -> Any:
    every = [(row, name, start) for row in rows for name, start in starts_of(row).items()]
    several = [pytest.param(row, start, id=f"{row}-{name}") for row, name, start in every]
    return pytest.mark.parametrize(("row", "start"), several)


each_operator_and_start = _with_starts(ROWS)


# ---- cases


@dataclass(frozen=True, eq=False)
class Case:
    """Operands in the flat order, and the gradients of the results; None for what is not given."""

    row: Row
    flat: tuple[Any, ...]
    incoming: tuple[Any, ...]

    def map(self, change: Callable[[Any], Any]) -> Case:
        """The case with every array changed."""
        return replace(
            self,
            flat=tuple(None if a is None else change(a) for a in self.flat),
            incoming=tuple(None if a is None else change(a) for a in self.incoming),
        )

    def astype(self, dtype: Any, state_dtype: Any = None) -> Case:
        """The case rounded to `dtype`; the state and its gradient to `state_dtype`, if that is given."""
        wide = self.map(lambda a: a if a.dtype == bool else a.astype(state_dtype or dtype))
        case = self.map(lambda a: a if a.dtype == bool else a.astype(dtype))
        places = self.row.op.places("state")
        flat = tuple(
            w if i in places else a for i, (a, w) in enumerate(zip(case.flat, wide.flat, strict=True))
        )
        with_state = any(self.flat[i] is not None for i in places)
        return replace(
            case, flat=flat, incoming=(case.incoming[0], *(wide if with_state else case).incoming[1:])
        )

    def with_(self, **operands: Any) -> Case:
        """The case with other operands, or None, under these names."""
        names = self.row.op.names
        assert operands.keys() <= set(names)
        return replace(self, flat=tuple(operands.get(n, a) for n, a in zip(names, self.flat, strict=True)))

    def with_incoming(self, *incoming: Any) -> Case:
        """The case with other gradients of the results."""
        return replace(self, incoming=incoming)

    def with_states(self, states: Sequence[Any] | None) -> Case:
        """The case with other states, or with none."""
        names = self.row.states
        return self.with_(**dict(zip(names, states or (None,) * len(names), strict=True)))

    @property
    def states(self) -> tuple[Any, ...]:
        """Its states."""
        return tuple(self[name] for name in self.row.states)

    @property
    def initials(self) -> tuple[Any, ...]:
        """The matrices with which its sequences begin."""
        return tuple(self[name] for name in self.row.initials)

    def __getitem__(self, name: str) -> Any:
        return self.flat[self.row.place(name)]

    def steps(self, first: int, last: int | None) -> Case:
        """The part of its steps from `first` on, before `last`."""

        def part(operand: Operand, a: Any) -> Any:
            if a is None or "L" not in operand.letters:
                return a
            own = tuple(slice(first, last) if letter == "L" else slice(None) for letter in operand.letters)
            return a[(..., *own)]

        op = self.row.op
        incoming = (part(op.output, self.incoming[0]), *self.incoming[1:])
        flat = tuple(part(operand, a) for operand, a in zip(op.flat, self.flat, strict=True))
        return replace(self, flat=flat, incoming=incoming)

    @property
    def given(self) -> tuple[Any, ...]:
        """The operands that have a gradient and are given."""
        return tuple(self.flat[i] for i in self.places)

    @property
    def places(self) -> tuple[int, ...]:
        """Their places."""
        return tuple(i for i in self.row.op.differentiable if self.flat[i] is not None)

    def of_given(self, given: Sequence[Any]) -> tuple[Any, ...]:
        """The flat order with other arrays for those."""
        flat = list(self.flat)
        for i, a in zip(self.places, given, strict=True):
            flat[i] = a
        return tuple(flat)

    def named(self, results: Sequence[Any], gradients: Sequence[Any]) -> dict[str, Any]:
        """Results and gradients, one for each operand that is given or could be, by name."""
        flat = self.row.op.flat
        names = [flat[i].name for i in self.row.op.differentiable]
        if len(gradients) < len(names):  # states have gradients only where they are given
            names = [n for n in names if n not in self.row.states or self[n] is not None]
        given = {f"g{n}": g for n, g in zip(names, gradients, strict=True) if g is not None}
        return dict(zip(self.row.result_names, results, strict=True)) | given


def random_case(
    row: Row,
    size: tuple[Any, ...] = ((2, 1), (3,), 7, 4, 5),
    *,
    state: bool = False,
    initial: bool = True,
    reset: bool = False,
    mask: bool = False,
    leads: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> Case:
    """A random case of a size of the table, in float64; with resets at a tenth of the steps.

    `state`, `reset` and `mask`: whether these are given, the last of an operator that has one, with a
    quarter of the steps as padding; `initial`: whether optional initial matrices are. `leads` are leading
    axes of some operands, or of all of a role; others have those that the size names, or their broadcast.
    Operators whose matrices are square have no size Do.
    """
    rng = np.random.default_rng(seed)
    op, leads = row.op, dict(leads or {})
    data_lead, initial_lead, L, D, Do = size
    sizes = {"L": L, "D": D, "Do": Do}
    sizes |= row.letters(sizes)
    lead = np.broadcast_shapes(data_lead, initial_lead, *leads.values())
    of_role = {"data": data_lead, "parameter": (), "initial": initial_lead, "state": lead, "flag": lead}
    is_given = {"data": True, "parameter": True, "initial": initial, "state": state}
    is_given |= {"reset": reset, "mask": mask}
    like = dict(zip(row.states, row.initials, strict=True))

    def draw(operand: Operand) -> Any:
        kind = operand.name if operand.role == "flag" else operand.role
        if operand.optional and not is_given[kind]:
            return None
        of = leads.get(operand.name, leads.get(operand.role, of_role[operand.role]))
        shape = operand.shape(of, sizes)
        if operand.role == "flag":
            return rng.random(shape) < {"reset": 0.1, "mask": 0.75}[kind]
        how = row.draws.get(like.get(operand.name, operand.name))
        return how(rng, shape) if how else rng.standard_normal(shape)

    flat = tuple(draw(operand) for operand in op.flat)
    of_given = [
        a.shape[: a.ndim - operand.core] for operand, a in zip(op.flat, flat, strict=True) if a is not None
    ]
    lead = np.broadcast_shapes(*of_given)
    return Case(row, flat, tuple(rng.standard_normal(result.shape(lead, sizes)) for result in op.results))


def long_keys_case(
    length: float, size: tuple[Any, ...] = ((20,), (), 32, 4, 4), *, initial: bool = False, **options: Any
) -> Case:
    """The delta rule with queries and keys of this length, at rate 1: S grows by |1 - length^2| a step."""
    case = random_case(DELTA, size, initial=initial, **options)
    k = case["k"] * (length / np.linalg.norm(case["k"], axis=-1, keepdims=True))
    return case.with_(q=k, k=k, beta=np.ones_like(case["beta"]))


def growth_case(
    size: tuple[Any, ...] = ((), (), 512, 16, 16), growth: float = 1e6 ** (1 / 512), **options: Any
) -> Case:
    """W_y grows by this factor at every step: what comes back by undoing updates is hardest here.

    x stays on entry 0, and only W_y is written: q is all on entry 0, k half there and half on the rest, so
    that every step multiplies (q - k) W_y by 1 + beta_0 (q - k) . k. A state is W, but with another W_y.
    """
    case = random_case(SRWM, size, **options)
    _, _, _, D, Do = size
    along = 1 / 4 - 1 / (4 * (D - 1))  # (q - k) . k
    beta_0 = (growth - 1) / along
    assert 0 < beta_0 < 1
    never = -60.0
    W_q, W_k, w_beta = np.zeros((D, D)), np.zeros((D, D)), np.zeros((D, 4))
    W_q[0] = [0.0] + [never] * (D - 1)
    W_k[0] = [np.log(D - 1)] + [0.0] * (D - 1)
    w_beta[0] = [np.log(beta_0 / (1 - beta_0)), never, never, never]
    x = np.zeros_like(case["x"])
    x[..., 0] = 1

    def growing(W: np.ndarray) -> np.ndarray:
        W_y = np.random.default_rng(0).standard_normal((*W.shape[:-1], Do))
        rest = np.concatenate([W_q, W_k, w_beta], axis=-1)
        return np.concatenate([W_y, np.broadcast_to(rest, (*W.shape[:-1], 2 * D + 4))], axis=-1)

    state = case["state"]
    return case.with_(x=x, W=growing(case["W"]), state=None if state is None else -growing(state))


# ---- results, by name, and how near they are


# Greatest difference from the float64 truth, relative to the truth's greatest entry. Of halves only the
# rounding of the result is allowed for: they are computed in float32.
TOLERANCE = {"float64": 1e-11, "float32": 1e-4, "float16": 1e-3, "bfloat16": 8e-3}

NOTHING = 1e-30  # what is smaller has no digits in float32


def relative_error(a: Any, truth: Any) -> float:
    """Greatest difference relative to the truth's greatest entry; inf where shapes or NaNs differ."""
    a, truth = np.asarray(a, np.float64), np.asarray(truth, np.float64)
    if a.shape != truth.shape or np.isnan(a).any():
        return np.inf
    if truth.size == 0:
        return 0.0
    return float(np.abs(a - truth).max() / max(np.abs(truth).max(), NOTHING))


def assert_close(got: dict[str, Any], truth: dict[str, Any], tolerance: float, where: object = "") -> None:
    """Every named result within the tolerance of the truth; all of those that are not are named."""
    assert got.keys() == truth.keys()
    errors = {name: relative_error(got[name], truth[name]) for name in truth}
    worst = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not worst, f"{where}: relative errors {worst} above {tolerance}"


def assert_same(got: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every named result is the expected one, bit for bit; NaN is NaN."""
    assert got.keys() == expected.keys()
    for name, a in expected.items():
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(a), name)


def tensors_of(
    case: Case, device: str = "cpu", dtype: str | None = None, *, requires_grad: bool = False
) -> Case:
    """The case as tensors on a device, all but flags in one dtype."""
    torch = pytest.importorskip("torch")

    def tensor(a: Any) -> Any:
        t = torch.tensor(a, device=device)
        return t if dtype is None or t.dtype == torch.bool else t.to(getattr(torch, dtype))

    case = case.map(tensor)
    for t in case.given if requires_grad else ():
        t.requires_grad_()
    return case


def truth_of_tensors(case: Case) -> dict[str, Any]:
    """All results by the reference in float64, of what the tensors of a case hold."""
    return truth_of(case.map(lambda t: (t.detach().double() if t.is_floating_point() else t).cpu().numpy()))


def trained(case: Case, forward: Callable[..., Any] | None = None) -> dict[str, Any]:
    """All results of a case of tensors, the gradients by autograd; in the dtypes of the operands.

    `forward` takes the operands in the flat order, by default those of the operator's public function.
    """
    torch = pytest.importorskip("torch")

    results = (forward or case.row.forward)(case.flat)
    gradients = torch.autograd.grad(results, case.given, case.incoming, materialize_grads=True)
    for t, like in zip((*results, *gradients), (*case.incoming, *case.given), strict=True):
        assert (t.dtype, t.device) == (like.dtype, like.device)
    named = {f"g{case.row.op.flat[i].name}": g for i, g in zip(case.places, gradients, strict=True)}
    named |= dict(zip(case.row.result_names, results, strict=True))
    return {name: t.detach().double().cpu().numpy() for name, t in named.items()}


def by_autograd(case: Case, dtype: Any = None) -> dict[str, Any]:
    """All results by torch's autograd through a plain loop, which shares nothing with the package."""
    torch = pytest.importorskip("torch")

    def tensor(a: Any) -> Any:
        t = torch.tensor(a)
        return t if t.dtype == torch.bool or dtype is None else t.to(dtype)

    tensors = case.map(tensor)
    given = [t.requires_grad_() for t in tensors.given]
    results = plain_loop(case.row, tensors.flat)
    wanted = [(r, g) for r, g in zip(results, tensors.incoming, strict=True) if g is not None]
    gradients = torch.autograd.grad(
        [r for r, _ in wanted], given, [g for _, g in wanted], materialize_grads=True
    )
    named = {case.row.op.flat[i].name: g for i, g in zip(case.places, gradients, strict=True)}
    found = dict(zip(case.row.result_names, results, strict=True)) | {f"g{n}": g for n, g in named.items()}
    return {name: t.detach().numpy() for name, t in found.items()}


def plain_loop(row: Row, flat: Sequence[Any]) -> tuple[Any, ...]:
    """The operator on tensors as a loop over `torch_step`, with resets, states and a mask: L >= 1."""
    torch = pytest.importorskip("torch")

    op = row.op
    flat = (*flat, *(None,) * (len(op.flat) - len(flat)))
    given = dict(zip(op.names, flat, strict=True))
    data = [(op.flat[i], flat[i]) for i in op.places("data")]
    parameters = [flat[i] for i in op.places("parameter")]
    sizes = {
        letter: n for o, a in data for letter, n in zip(o.letters, a.shape[a.ndim - o.core :], strict=True)
    }
    initials = [
        data[0][1].new_zeros(o.shape((), sizes)) if given[o.name] is None else given[o.name]
        for o in op.initials
    ]
    matrices = [
        a if given[o.name] is None else given[o.name] for o, a in zip(op.states, initials, strict=True)
    ]
    reset, mask = given.get("reset"), given.get("mask")

    def where(flag: Any, core: int, there: Any, elsewhere: Any) -> Any:
        return torch.where(flag[(..., *(None,) * core)], there, elsewhere)

    outputs = []
    for t in range(sizes["L"]):
        if reset is not None:
            now = reset[..., t] if mask is None else reset[..., t] & mask[..., t]
            several = zip(op.initials, initials, matrices, strict=True)
            matrices = [where(now, o.core, a, b) for o, a, b in several]
        y, *after = row.torch_step(*(a.select(-o.core, t) for o, a in data), *parameters, *matrices)
        if mask is not None:
            y = where(mask[..., t], op.output.core - 1, y, torch.zeros_like(y))
            several = zip(op.initials, after, matrices, strict=True)
            after = [where(mask[..., t], o.core, a, b) for o, a, b in several]
        matrices = after
        outputs.append(y)
    lead = torch.broadcast_shapes(
        *(tuple(a.shape)[: a.ndim - o.core] for o, a in zip(op.flat, flat, strict=True) if a is not None)
    )
    y = torch.stack([y.expand(*lead, *y.shape[-1:]) for y in outputs], -2)
    ends = zip(op.initials, matrices, strict=True)
    return y, *(a.expand(*lead, *a.shape[a.ndim - o.core :]) for o, a in ends)


# ---- backends


class Backend:
    """A backend on NumPy arrays; skips the test, saying why, where it cannot run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def require(self, op: Operator) -> None:
        """Skip where it cannot run: a machine without a device, or without a compiler, runs the other rows.

        In CI a backend of the CPU that lacks a compiler or an operator fails.
        """
        reason = (
            _dispatch.states()[self.name] if self.name in _dispatch.BACKENDS else "it is not in the table"
        )
        if reason == "usable":
            taken = _dispatch.module(self.name).takes(op)
            reason = "usable" if taken else f"{self.name} has no kernels of {op.label}"
        elif self.name == "cuda":
            pytest.skip(reason)
        if reason != "usable":
            if "CI" in os.environ:
                pytest.fail(f"CI is to run every operator on {self.name}: {reason}")
            pytest.skip(reason)

    def run(self, case: Case, **options: Any) -> dict[str, Any]:
        """All results of a case by name."""
        self.require(case.row.op)
        return run(case, backend=self.name, **options)

    def vjp(self, case: Case, **options: Any) -> Any:
        """The results, and the pullback from gradients to the gradients of all operands."""
        self.require(case.row.op)
        return vjp(case, backend=self.name, **options)


def vjp(case: Case, *, backend: str | None = None, **options: Any) -> Any:
    """The public `vjp` on NumPy arrays, on a device's where the backend is "cuda"."""
    results, pullback = case.row.vjp(placed(case, backend).flat, backend=backend, **options)

    def pull_back(*gradients: Any) -> Any:
        return from_device(pullback(*placed(replace(case, incoming=gradients), backend).incoming))

    return from_device(results), pull_back


def placed(case: Case, backend: str | None) -> Case:
    """The case where the backend takes it: on a device for "cuda"."""
    return case.map(to_device) if backend == "cuda" else case


def to_device(a: np.ndarray) -> Any:
    """A CuPy array with the entries and the strides of a NumPy array."""
    import cupy

    if a.size == 0:
        return cupy.asarray(a)
    low, high = np.lib.array_utils.byte_bounds(a)
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
    start = cupy.asarray(memory).data + (a.ctypes.data - low)
    return cupy.ndarray(a.shape, a.dtype, start, a.strides)


def from_device(arrays: Iterable[Any]) -> tuple[Any, ...]:
    """CuPy arrays as NumPy's; others, and None, as they are."""
    return tuple(a.get() if hasattr(a, "get") else a for a in arrays)


def run(case: Case, *, backend: str | None = None, **options: Any) -> dict[str, Any]:
    """All results of a case by name, from `vjp`."""
    results, pullback = vjp(case, backend=backend, **options)
    return case.named(results, pullback(*case.incoming))


def truth_of(case: Case) -> dict[str, Any]:
    """All results by the reference in float64, of the case as it is rounded."""
    return run(case.astype(np.float64), backend="reference")


REFERENCE, CYTHON, CUDA_ON_HOST, CUDA = map(Backend, ("reference", "cython", "cuda-on-host", "cuda"))
each_backend = pytest.mark.parametrize(
    "backend",
    [REFERENCE, CYTHON, CUDA_ON_HOST, pytest.param(CUDA, marks=pytest.mark.gpu)],
    ids=repr,
)
