"""Every transform and tool of torch on every operator, against a plain loop in torch operations.

Rows that compile, export or start processes are slow: one start of each operator runs in `make test`, the
others, marked `slow`, in `make test-all`. Where there is a CUDA device, `pytest -m gpu` runs the same rows
on its tensors: of the eager ones two starts, of the slow ones one, as all of that is to end within minutes.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import srwm
from srwm._torch_operator import torch_operator
from tests.devices import ON_A_DEVICE, each_device
from tests.operators import (
    DELTA,
    EVERYTHING,
    ROWS,
    SRWM,
    STARTS,
    THOROUGH,
    Row,
    each_operator,
    each_operator_and_start,
    plain_loop,
    random_case,
    starts_of,
    tensors_of,
)
from tests.programs import by_another_process, compiled_ahead

# torch's own forward mode is made of its deprecated scripts.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

F = torch.func


RESET, MASK = [False, True, False, True, False], [True, True, False, True, True]


class Problem:
    """Operands, and two functions of them: the operator's, and a plain loop.

    args: the operands that are given, with an axis of three sequences; one: the first sequence of each.
    Both functions take them, and a `reset`, by default the problem's own, which all sequences share; as
    they do a mask.
    """

    def __init__(self, row: Row, start: dict[str, bool], device: str = "cpu") -> None:
        self.row = row
        leads = {"flag": (), "parameter": (3,)}
        self.case = tensors_of(random_case(row, ((3,), (3,), 5, 4, 6), **start, leads=leads), device)
        self.flags = {row.op.flat[i].name: self.case.flat[i] for i in row.op.places("flag")}
        for name, of in {"reset": RESET, "mask": MASK}.items():
            if self.flags.get(name) is not None:
                self.flags[name] = torch.tensor(of, device=device)
        resets = [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
        self.resets = torch.tensor(resets, dtype=torch.bool, device=device)
        self.args = self.case.given
        self.one = tuple(a[0] for a in self.case.given)

    def flag_to(self, device: str) -> None:
        """Move its flags."""
        self.flags = {name: None if a is None else a.to(device) for name, a in self.flags.items()}

    def _flat(self, a: tuple[Any, ...], reset: Any) -> tuple[Any, ...]:
        flags = self.flags if reset is None else {**self.flags, "reset": reset}
        flat = list(self.case.of_given(a))
        for name, flag in flags.items():
            flat[self.row.place(name)] = flag
        return tuple(flat)

    def ours(self, *a: Any, reset: Any = None) -> Any:
        return self.row.forward(self._flat(a, reset))

    def plain(self, *a: Any, reset: Any = None) -> Any:
        return plain_loop(self.row, self._flat(a, reset))


# ---- rows: what must agree between the two functions. (problem, one of its functions) -> values


def free(args):
    return [t.clone().requires_grad_() for t in args]


def loss(f):
    def of(*a, **options):
        y, *states = f(*a, **options)
        return y.pow(2).sum() + sum(state.sin().sum() for state in states)

    return of


def gradient(value, a, **options):
    """Zeros where the value does not depend on an operand, as on W beside a state that no reset leaves."""
    if not value.requires_grad:
        return [torch.zeros_like(t) for t in a]
    return torch.autograd.grad(value, a, materialize_grads=True, **options)


def autograd_of(value_of, args):
    a = free(args)
    return gradient(value_of(*a), a)


def of_each_alone(f, args):
    """The gradient of one operand where the others want none."""
    found = []
    for i in range(len(args)):
        a = [t.clone().requires_grad_(i == j) for j, t in enumerate(args)]
        found += gradient(loss(f)(*a), [a[i]])
    return found


def twice(f, args):
    a = free(args)
    return gradient(gradient(loss(f)(*a), a, create_graph=True)[0].sin().sum(), a)


def three_times(f, args):
    a = free(args)
    second = gradient(gradient(loss(f)(*a), a, create_graph=True)[0].sin().sum(), a, create_graph=True)
    return gradient(second[-1].cos().sum(), a)


def dual_numbers(f, args):
    with forward_ad.dual_level():
        results = f(*(forward_ad.make_dual(t, t * 0.5) for t in args))
        return [forward_ad.unpack_dual(o).tangent for o in results]


def forward_over_reverse(f, args):
    a = free(args)
    with forward_ad.dual_level():
        dual = [forward_ad.make_dual(t, torch.ones_like(t)) for t in a]
        unpacked = [forward_ad.unpack_dual(g) for g in gradient(loss(f)(*dual), dual, create_graph=True)]
        return [torch.zeros_like(u.primal) if u.tangent is None else u.tangent for u in unpacked]


def batched_gradients(f, args):
    """The rows of a Jacobian by torch.autograd's own batching."""
    a = free(args)
    y, *states = f(*a)
    upstream = torch.stack([y.detach(), y.detach().cos(), -y.detach()])
    of_states = [torch.stack([state.detach()] * 3) for state in states]
    gradients = torch.autograd.grad(
        (y, *states), a, (upstream, *of_states), is_grads_batched=True, allow_unused=True
    )
    return [t.new_zeros(3, *t.shape) if g is None else g for g, t in zip(gradients, a, strict=True)]


def checkpointed(f, args, **options):
    a = free(args)
    torch.utils.checkpoint.checkpoint(loss(f), *a, **options).backward()
    return [torch.zeros_like(t) if t.grad is None else t.grad for t in a]


class Cell(torch.nn.Module):
    """A module whose parameter is an operand of an operator."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], place: int) -> None:
        super().__init__()
        self.f, self.place = f, place
        self.weight = torch.nn.Parameter(args[place].clone())

    def forward(self, *a: Any) -> Any:
        return self.f(*a[: self.place], self.weight, *a[self.place :])


def cell_of(p, f, args=None):
    """A module with the initial matrices of one sequence, and the other operands of all."""
    place = p.case.places.index(p.row.place(p.row.initials[0]))
    return Cell(f, p.one if args is None else args, place), (*p.args[:place], *p.args[place + 1 :])


def per_sample_gradients(p, f):
    cell, rest = cell_of(p, f)

    def of(parameters, *a):
        return loss(lambda *b: F.functional_call(cell, parameters, b))(*a)

    parameters = {name: t.detach() for name, t in cell.named_parameters()}
    return F.vmap(F.grad(of), in_dims=(None, *(0,) * len(rest)))(parameters, *rest)["weight"]


def ensemble(p, f):
    """Three modules as one, and the gradients of all their parameters."""
    cells = [cell_of(p, f, tuple(a[i] for a in p.args))[0] for i in range(3)]
    base, rest = cell_of(p, f)
    parameters, buffers = F.stack_module_state(cells)

    def of(parameters, *a):
        return loss(lambda *b: F.functional_call(base, (parameters, buffers), b))(*a)

    value = F.vmap(of)(parameters, *rest).sum()
    return value, gradient(value, [parameters["weight"]])


def shared(p, i):
    """in_dims where all operands but the i-th are mapped, and the operands."""
    dims = [0] * len(p.args)
    dims[i] = None
    args = list(p.args)
    args[i] = p.one[i]
    return tuple(dims), tuple(args)


def vmap_of_one(p, f, i):
    return F.vmap(lambda a: f(*p.one[:i], a, *p.one[i + 1 :]))(p.args[i])


def nested_vmap(p, f):
    return F.vmap(lambda a: F.vmap(lambda b: f(a, *p.one[1:-1], b))(p.args[-1]))(p.args[0])


def every(p):
    return tuple(range(len(p.args)))


EAGER: dict[str, Callable[[Problem, Callable[..., Any]], Any]] = {
    "forward": lambda p, f: f(*p.args),
    "resets of their own": lambda p, f: f(*p.args, reset=p.resets),
    "autograd": lambda p, f: autograd_of(loss(f), p.args),
    "autograd, resets of their own": lambda p, f: autograd_of(
        lambda *a: loss(f)(*a, reset=p.resets), p.args
    ),
    "autograd of the output": lambda p, f: autograd_of(lambda *a: f(*a)[0].sin().sum(), p.args),
    "autograd of the state": lambda p, f: autograd_of(lambda *a: f(*a)[-1].sin().sum(), p.args),
    "autograd of each alone": lambda p, f: of_each_alone(f, p.args),
    "batched gradients": lambda p, f: batched_gradients(f, p.args),
    "func.grad": lambda p, f: F.grad(loss(f), every(p))(*p.one),
    "func.grad of the last": lambda p, f: F.grad(loss(f), every(p)[-1])(*p.one),
    "func.grad_and_value": lambda p, f: F.grad_and_value(loss(f), every(p))(*p.one),
    "func.vjp": lambda p, f: F.vjp(loss(f), *p.one)[1](p.one[0].new_ones(())),
    "jacrev": lambda p, f: F.jacrev(lambda *a: f(*a)[0], every(p))(*p.one),
    "jacrev of the state": lambda p, f: F.jacrev(lambda *a: f(*a)[-1], every(p))(*p.one),
    "jacrev in chunks": lambda p, f: F.jacrev(lambda *a: f(*a)[0], every(p), chunk_size=7)(*p.one),
    "jacobian, vectorized": lambda p, f: torch.autograd.functional.jacobian(f, p.one, vectorize=True),
    "vmap": lambda p, f: F.vmap(f)(*p.args),
    "vmap of axis 1": lambda p, f: F.vmap(f, in_dims=1, out_dims=1)(
        *(t.transpose(0, 1).contiguous() for t in p.args)
    ),
    "vmap of the first": lambda p, f: vmap_of_one(p, f, 0),
    "vmap of the last": lambda p, f: vmap_of_one(p, f, len(p.args) - 1),
    "vmap in chunks": lambda p, f: F.vmap(f, chunk_size=2)(*p.args),
    "vmap, leading axes left": lambda p, f: F.vmap(lambda a: f(a, *p.one[1:]))(
        torch.stack([p.args[0]] * 2)
    ),
    "vmap in vmap": nested_vmap,
    "vmap of resets": lambda p, f: F.vmap(lambda r, *a: f(*a, reset=r))(p.resets, *p.args),
    "vmap of resets alone": lambda p, f: F.vmap(lambda r: f(*p.one, reset=r))(p.resets),
    "vmap(grad) of resets": lambda p, f: F.vmap(
        lambda r, *a: F.grad(lambda *b: loss(f)(*b, reset=r), every(p))(*a)
    )(p.resets, *p.args),
    "vmap(grad)": lambda p, f: F.vmap(F.grad(loss(f), every(p)))(*p.args),
    "vmap(grad), each shared": lambda p, f: [
        F.vmap(F.grad(loss(f), every(p)), in_dims=dims)(*args)
        for dims, args in (shared(p, i) for i in every(p))
    ],
    "grad(vmap)": lambda p, f: F.grad(lambda *a: F.vmap(loss(f))(*a).sum(), every(p))(*p.args),
    "autograd of vmap": lambda p, f: autograd_of(lambda *a: F.vmap(loss(f))(*a).sum(), p.args),
    "autograd of vmap, each shared": lambda p, f: [
        autograd_of(lambda *a, dims=dims: F.vmap(loss(f), in_dims=dims)(*a).sum(), args)
        for dims, args in (shared(p, i) for i in every(p))
    ],
    "autograd of vmap in vmap": lambda p, f: autograd_of(
        lambda *a: F.vmap(lambda b: F.vmap(lambda *c: loss(f)(*c))(*a[:-1], b.expand(3, *b.shape)))(
            a[-1]
        ).sum(),
        p.args,
    ),
    "jacrev over vmap": lambda p, f: F.jacrev(lambda a: F.vmap(loss(f))(a, *p.args[1:]))(p.args[0]),
    "vmap(jacrev)": lambda p, f: F.vmap(F.jacrev(lambda *a: f(*a)[0]))(*p.args),
    "vmap(vjp)": lambda p, f: F.vmap(lambda *a: F.vjp(f, *a)[1](f(*a)))(*p.args),
    "per-sample gradients": per_sample_gradients,
    "ensemble": ensemble,
    "jvp": lambda p, f: F.jvp(f, p.one, tuple(t * 0.3 for t in p.one))[1],
    "jvp of the first": lambda p, f: F.jvp(lambda a: f(a, *p.one[1:]), p.one[:1], p.one[:1])[1],
    "jacfwd": lambda p, f: F.jacfwd(lambda *a: f(*a)[0])(*p.one),
    "linearize": lambda p, f: F.linearize(lambda a: f(a, *p.one[1:])[0], p.one[0])[1](p.one[0]),
    "vmap(jvp)": lambda p, f: F.vmap(lambda *a: F.jvp(lambda *b: f(*b)[0], a, a)[1])(*p.args),
    "dual numbers": lambda p, f: dual_numbers(f, p.one),
    "forward over reverse": lambda p, f: forward_over_reverse(f, p.one),
    "jvp of grad": lambda p, f: F.jvp(F.grad(loss(f)), p.one, tuple(t * 0.3 for t in p.one))[1],
    "hessian": lambda p, f: F.hessian(loss(f))(*p.one),
    "vmap(hessian)": lambda p, f: F.vmap(F.hessian(loss(f)))(*p.args),
    "jacrev of jacrev": lambda p, f: F.jacrev(F.jacrev(loss(f), every(p)), every(p))(*p.one),
    "grad of grad": lambda p, f: F.grad(
        lambda *a: sum(g.pow(2).sum() for g in F.grad(loss(f), every(p))(*a)), every(p)
    )(*p.one),
    "vmap(grad of grad)": lambda p, f: F.vmap(
        F.grad(lambda *a: sum(g.pow(2).sum() for g in F.grad(loss(f), every(p))(*a)), every(p))
    )(*p.args),
    "create_graph": lambda p, f: twice(f, p.args),
    "create_graph, third": lambda p, f: three_times(f, p.one),
    "checkpoint": lambda p, f: checkpointed(f, p.args, use_reentrant=False),
    "checkpoint, reentrant": lambda p, f: checkpointed(f, p.args, use_reentrant=True),
    "functionalize": lambda p, f: F.functionalize(f)(*p.args),
}


def starts_on(device, *starts, rows=ROWS, marks=()):
    """Rows of these starts on a device; a name says which start, and which device if it is not the CPU.

    None: with everything that an operator takes.
    """
    suffix = "" if device == "cpu" else f"-{device}"
    return [
        pytest.param(row, starts_of(row)[s], device, id=f"{row}-{s}{suffix}", marks=marks)
        for row in rows
        for s in (list(starts_of(row))[-1] if s is None else s for s in starts)
        if s in starts_of(row)
    ]


def other_starts_on(device, *starts, marks=()):
    """The rows of these starts that `starts_on(device, None)` has not."""
    every = starts_on(device, *starts, marks=marks)
    return [of for of in every if of.id not in {full.id for full in starts_on(device, None)}]


FEW = (SRWM, DELTA)  # whose every start runs in `make test`
OTHERS = tuple(row for row in ROWS if row not in FEW)

each_start_on_the_cpu = each_operator_and_start
each_start = pytest.mark.parametrize(
    ("row", "start", "device"),
    [
        *starts_on("cpu", None),
        *(of for of in other_starts_on("cpu", *STARTS) if of.values[0] in FEW),
        *(of for of in other_starts_on("cpu", *STARTS, marks=pytest.mark.slow) if of.values[0] in OTHERS),
        *starts_on("cuda", "plain", None, marks=ON_A_DEVICE),
    ],
)
# What is slow runs once in `make test`, and once on a device: with everything an operator takes.
each_start_slowly = pytest.mark.parametrize(
    ("row", "start", "device"),
    [
        *starts_on("cpu", None, rows=THOROUGH),
        *starts_on("cpu", None, rows=[row for row in ROWS if row not in THOROUGH], marks=pytest.mark.slow),
        *other_starts_on("cpu", *STARTS, marks=pytest.mark.slow),
        *starts_on("cuda", None, marks=ON_A_DEVICE),
    ],
)


def leaves(a):
    if isinstance(a, dict):
        return leaves(list(a.values()))
    return [t for b in a for t in leaves(b)] if isinstance(a, (tuple, list)) else [a]


def assert_agree(got, expected):
    got, expected = leaves(got), leaves(expected)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# torch's `linearize` takes ten seconds and more; a row beside the first ones is of no other kind.
@pytest.mark.slow_where(lambda row, transform: transform == "linearize" and row not in FEW)
@pytest.mark.parametrize("transform", EAGER)
@each_start
def test_eager(row, start, device, transform):
    p = Problem(row, start, device)
    assert_agree(EAGER[transform](p, p.ours), EAGER[transform](p, p.plain))


@pytest.mark.parametrize("transform", EAGER)
def test_eager_rows_stay_on_the_device_of_their_operands(transform):
    """One that a row itself made on the CPU would fail beside CUDA tensors, and fails beside meta ones."""
    p = Problem(DELTA, EVERYTHING, "meta")
    for f in (p.ours, p.plain):
        assert {t.device.type for t in leaves(EAGER[transform](p, f))} == {"meta"}


@pytest.mark.slow_where(lambda row: row not in FEW)  # tests/test_torch.py has the same without batches
@each_start
def test_gradcheck(row, start, device):
    p = Problem(row, start, device)
    assert torch.autograd.gradcheck(p.ours, free(p.one), check_batched_grad=True, check_forward_ad=True)


@each_start_slowly
def test_gradgradcheck(row, start, device):
    p = Problem(row, start, device)
    small = tensors_of(random_case(row, ((), (), 2, 2, 1), state="state" in start), device)
    p.case = small
    p.flags = {n: None if a is None else a.new_tensor([n == "mask", True]) for n, a in p.flags.items()}
    assert torch.autograd.gradgradcheck(p.ours, free(small.given), check_batched_grad=True)


# ---- compiled


@pytest.fixture
def compiled():
    """torch.compile of whole graphs; torch's own state is as it was afterwards."""
    torch._dynamo.reset()

    def compiled(f, **options):
        return torch.compile(f, fullgraph=True, **options)

    yield compiled
    torch._dynamo.reset()
    with forward_ad.dual_level():  # nested ones are an error: none was left open
        pass


WAYS = {
    "static": {"backend": "aot_eager", "dynamic": False},
    "dynamic": {"backend": "aot_eager", "dynamic": True},
    "inductor": {"backend": "inductor"},
}


@pytest.mark.slow_where(lambda way: way != "dynamic")  # inductor: the test after this one
@pytest.mark.parametrize("way", WAYS)
@each_start_slowly
def test_compiled_training(row, start, device, way, compiled):
    p = Problem(row, start, device)
    a, b = free(p.args), free(p.args)
    value, expected = compiled(lambda *c: loss(p.ours)(*c), **WAYS[way])(*a), loss(p.plain)(*b)
    assert_agree(value, expected)
    assert_agree(gradient(value, a), gradient(expected, b))
    with torch.no_grad():
        assert_agree(compiled(p.ours, **WAYS[way])(*p.args), p.plain(*p.args))


@each_start_slowly
def test_one_compilation_serves_all_batches_and_lengths(row, start, device, compiled):
    counter = CompileCounterWithBackend("inductor")
    f = compiled(lambda *flat: loss(lambda *a: row.forward(a))(*flat), backend=counter)
    for B, L in ((3, 5), (4, 7), (2, 9)):
        case = tensors_of(
            random_case(row, ((B,), (B,), L, 4, 6), **start, leads={"parameter": (B,)}), device
        )
        a, b = (case.of_given(free(case.given)) for _ in range(2))
        for i, operand in enumerate(row.op.flat):
            if a[i] is not None:
                torch._dynamo.mark_dynamic(a[i], 0)
                if "L" in operand.letters:
                    torch._dynamo.mark_dynamic(a[i], 1 + operand.letters.index("L"))
        value, expected = f(*a), loss(lambda *flat: plain_loop(row, flat))(*b)
        assert_agree(value, expected)
        of_a, of_b = ([flat[i] for i in case.places] for flat in (a, b))
        assert_agree(gradient(value, of_a), gradient(expected, of_b))
    assert counter.frame_count == 1


COMPILED_TRANSFORMS: dict[str, Callable[[Problem, Callable[..., Any]], Any]] = {
    "grad": lambda p, f: (F.grad(loss(f), every(p)), p.one),
    "vjp": lambda p, f: (lambda *a: F.vjp(f, *a)[1](f(*a)), p.one),
    "vmap": lambda p, f: (F.vmap(f), p.args),
    "vmap(grad)": lambda p, f: (F.vmap(F.grad(loss(f), every(p))), p.args),
    "jacrev": lambda p, f: (F.jacrev(lambda *a: f(*a)[0], every(p)), p.one),
    "grad of grad": lambda p, f: (F.grad(lambda *a: F.grad(loss(f))(*a).pow(2).sum()), p.one),
}


@pytest.mark.slow_where(
    lambda row, transform: (
        transform in ("grad", "vjp", "jacrev") or (transform == "grad of grad" and row not in FEW)
    )
)
@pytest.mark.parametrize("transform", COMPILED_TRANSFORMS)
@each_start_slowly
def test_compiled_transforms(row, start, device, transform, compiled):
    p = Problem(row, start, device)
    ours, args = COMPILED_TRANSFORMS[transform](p, p.ours)
    plain, _ = COMPILED_TRANSFORMS[transform](p, p.plain)
    assert_agree(compiled(ours, backend="aot_eager")(*args), plain(*args))


@each_start_slowly
def test_compiled_per_sample_gradients(row, start, device, compiled):
    p = Problem(row, start, device)
    cell, rest = cell_of(p, p.ours)

    def of(weight, *a):
        return loss(lambda *b: F.functional_call(cell, {"weight": weight}, b))(*a)

    per_sample = F.vmap(F.grad(of), in_dims=(None, *(0,) * len(rest)))
    weight = cell.weight.detach()
    assert_agree(compiled(per_sample, backend="aot_eager")(weight, *rest), per_sample_gradients(p, p.plain))


def beside_another_term(f):
    """So that there are tangents without the operator's, which a wrong sum would be made of."""
    return lambda *a: loss(f)(*a) + a[0].pow(3).sum()


FORWARD_MODE = {
    "jvp": lambda p: lambda *a: F.jvp(lambda *b: p.ours(*b)[0], a, a)[1],
    "jvp of a sum": lambda p: lambda *a: F.jvp(beside_another_term(p.ours), a, a)[1],
    "jacfwd": lambda p: F.jacfwd(lambda *a: p.ours(*a)[0]),
    "hessian": lambda p: F.hessian(loss(p.ours)),
    "hessian of a sum": lambda p: F.hessian(beside_another_term(p.ours)),
    "jvp of grad": lambda p: lambda *a: F.jvp(F.grad(beside_another_term(p.ours)), a, a)[1],
}


@pytest.mark.slow_where(lambda row: row not in FEW)
@pytest.mark.parametrize("transform", FORWARD_MODE)
@each_start_slowly
def test_compiled_forward_mode_is_refused_and_no_zero(row, start, device, transform, compiled):
    p = Problem(row, start, device)
    with pytest.raises(Exception, match="where the call is compiled"):  # in Dynamo's own wrapping
        compiled(FORWARD_MODE[transform](p), backend="aot_eager")(*p.one)


@pytest.mark.parametrize(
    # Without a reset, nothing leads from a state to the weight that is trained.
    ("row", "start", "device"),
    [
        *starts_on("cpu", None, rows=THOROUGH),
        *starts_on("cpu", None, rows=[row for row in ROWS if row not in THOROUGH], marks=pytest.mark.slow),
        *starts_on("cpu", "plain", "reset", marks=pytest.mark.slow),
        *starts_on("cuda", None, marks=ON_A_DEVICE),
    ],
)
def test_a_compiled_module_trains_as_it_does_eagerly(row, start, device, compiled):
    p = Problem(row, start, device)
    losses = []
    for f, wrap in ((p.ours, lambda m: compiled(m, backend="inductor")), (p.plain, lambda m: m)):
        cell, rest = cell_of(p, f)
        module, optimizer = wrap(cell), torch.optim.Adam(cell.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss(module)(*rest).backward()
            optimizer.step()
        losses.append(cell.weight.detach())
    assert_agree(*losses)


class Scaled(torch.nn.Module):
    """A module whose number is a setting of an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        return srwm.sum_rule.forward(q, q, q, normalise=self.scale / 2, scale=self.scale)


@pytest.mark.parametrize("dynamic", [None, True, False])
def test_settings_of_a_compiled_module_may_change(dynamic, compiled):
    module, q = Scaled(), torch.rand(5, 3)
    f = compiled(module, backend="aot_eager", dynamic=dynamic)
    for module.scale in (1.0, 0.5, 0.25, 3.0, 2, 5):
        torch.testing.assert_close(f(q), module(q))


@pytest.mark.parametrize("dynamic", [None, True])
def test_whole_numbers_as_settings_of_a_compiled_call(dynamic, compiled):
    z, beta = torch.rand(2, 5, 4), torch.rand(2, 5)

    def rnn(version: int) -> torch.Tensor:
        return srwm.delta_rnn.forward(z, z, z, beta, version=version)

    f = compiled(rnn, backend="aot_eager", dynamic=dynamic)
    for version in (2, 1, 2):
        torch.testing.assert_close(f(version), rnn(version))


# ---- exported


class Forward(torch.nn.Module):
    """An operator as a module of its operands."""

    def __init__(self, p: Problem) -> None:
        super().__init__()
        self.f = p.ours

    def forward(self, *a: Any) -> Any:
        return self.f(*a)


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@each_start_slowly
def test_export(row, start, device, strict):
    p = Problem(row, start, device)
    program = torch.export.export(Forward(p), p.args, strict=strict)
    assert_agree(program.module()(*p.args), p.plain(*p.args))


@pytest.mark.xfail(
    torch.__version__ < "2.10",
    raises=NameError,
    reason="programs that torch 2.9 exports with named sizes do not know these names",
)
@each_start_slowly
def test_export_of_any_batch_and_length(row, start, device):
    p = Problem(row, {k: v for k, v in start.items() if k == "state"}, device)
    B, L = torch.export.Dim("B", min=2, max=64), torch.export.Dim("L", min=2, max=64)
    shapes = tuple(
        {0: B} | ({1 + o.letters.index("L"): L} if "L" in o.letters else {})
        for o in (row.op.flat[i] for i in p.case.places)
    )
    program = torch.export.export(Forward(p), p.args, dynamic_shapes=(shapes,))
    size, leads = ((2,), (2,), 9, 4, 6), {"parameter": (2,)}
    other = tensors_of(random_case(row, size, state="state" in start, leads=leads), device)
    assert_agree(program.module()(*other.given), plain_loop(row, other.flat))


def of_operators(rows, start, device, run, folder):
    """The problems of some operators, and what `run` of tests/programs.py makes of them."""
    problems = [Problem(row, start, device) for row in rows]
    modules, args = [Forward(p) for p in problems], [p.args for p in problems]
    if run is by_another_process:
        modules = [torch.export.export(m, a) for m, a in zip(modules, args, strict=True)]
    return problems, run(modules, args, folder)


def once_for_several_operators(run):
    """A fixture: what `run` makes of them at a start, made when it is first asked for.

    Of those that run in `make test` together, and of the others.
    """

    @pytest.fixture(scope="module")
    def results(tmp_path_factory):
        made: dict[tuple[Any, ...], Any] = {}

        def results(row, start, device):
            rows = [r for r in ROWS if (r in THOROUGH) == (row in THOROUGH)]
            start = EVERYTHING if start is list(starts_of(row).values())[-1] else start
            key = (device, row in THOROUGH, *start)
            if key not in made:
                made[key] = of_operators(rows, start, device, run, tmp_path_factory.mktemp("programs"))
            problems, found = made[key]
            return problems[rows.index(row)], found[rows.index(row)]

        return results

    return results


loaded_elsewhere = once_for_several_operators(by_another_process)
packaged = once_for_several_operators(compiled_ahead)


@each_start_slowly
def test_an_exported_program_is_saved_and_loaded_by_another_process(row, start, device, loaded_elsewhere):
    p, results = loaded_elsewhere(row, start, device)
    assert_agree(results, p.plain(*p.args))


@pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)  # torch's own
@each_start_slowly
def test_compiled_ahead_by_inductor_packaged_and_loaded(row, start, device, packaged):
    if device == "cuda":
        from torch.utils.cpp_extension import CUDA_HOME

        if CUDA_HOME is None:
            pytest.skip("a package for a device is compiled with the CUDA toolkit; set CUDA_HOME to it")
    p, results = packaged(row, start, device)
    assert_agree(results, p.plain(*p.args))


@each_start
def test_make_fx(row, start, device):
    p = Problem(row, start, device)
    of_grad = F.grad(loss(p.ours), every(p))
    assert_agree(make_fx(of_grad)(*p.one)(*p.one), F.grad(loss(p.plain), every(p))(*p.one))
    graph = make_fx(p.ours, pre_dispatch=True)(*p.one).graph
    name = torch_operator(row.op).forward.name().replace("::", ".")
    assert name in {str(node.target).removesuffix(".default") for node in graph.nodes}


# ---- shapes alone


@each_start
def test_fake_tensors(row, start, device):
    p = Problem(row, start, device)
    expected = p.plain(*p.args)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        a = [mode.from_tensor(t).requires_grad_() for t in p.args]
        results = p.ours(*a)
        assert [(t.shape, t.dtype) for t in results] == [(t.shape, t.dtype) for t in expected]
        gradients = torch.autograd.grad(sum(t.sum() for t in results), a)
    assert [g.shape for g in gradients] == [t.shape for t in p.args]


@each_start_on_the_cpu
def test_meta_tensors_with_gradients(row, start):
    p = Problem(row, start)
    p.flag_to("meta")
    a = [t.to("meta").requires_grad_() for t in p.args]
    results = p.ours(*a)
    assert [(t.shape, t.device.type) for t in results] == [(g.shape, "meta") for g in p.case.incoming]
    gradients = torch.autograd.grad(sum(t.sum() for t in results), a)
    assert [(g.shape, g.device.type) for g in gradients] == [(t.shape, "meta") for t in a]


@each_start_on_the_cpu
def test_meta_tensors_are_checked(row, start):
    p = Problem(row, start)
    a = [t.to("meta") for t in p.args]
    p.flag_to("meta")
    a[-1] = a[-1][..., :3]
    with pytest.raises(ValueError, match=r"^srwm\S*\.forward: .*: expected"):
        p.ours(*a)


@each_start_slowly
def test_registration_is_what_torch_expects(row, start, device):
    p = Problem(row, start, device)
    operator, flat = torch_operator(row.op), p._flat(p.args, None)
    for save in (None, "it"):
        for return_state in (False, True):
            arguments = (*flat, save, return_state, *row.op.values, None, None)
            torch.library.opcheck(operator.forward, arguments)
    wanting = (*p._flat(tuple(free(p.args)), None), None, True, *row.op.values, None, None)
    torch.library.opcheck(operator.forward, wanting)
    *results, saved = operator.forward(*flat, "it", True, *row.op.values, None, None)
    some = [[t if i == j else None for j, t in enumerate(results)] for i, _ in enumerate(results)]
    for incoming in (results, *some):
        torch.library.opcheck(operator.backward, (*flat, saved, *incoming, *row.op.values, None, None))


# ---- modules and precision


@each_start
def test_autocast_computes_in_the_dtype_of_the_initial_matrices(row, start, device):
    """Of all precisions that meet under autocast, that of what grows decides."""
    case = tensors_of(random_case(row, **start).astype("float32"), device)
    data = row.op.places("data")
    halves = tuple(t.bfloat16() if i in data else t for i, t in enumerate(case.flat))
    rounded = tuple(t.bfloat16().float() if i in data else t for i, t in enumerate(case.flat))
    given = [halves[i].requires_grad_() for i in case.places]
    with torch.autocast(device, dtype=torch.bfloat16):
        results = row.forward(halves)
    assert {t.dtype for t in results} == {torch.float32}
    gradients = torch.autograd.grad(sum(t.sum() for t in results), given)
    assert [g.dtype for g in gradients] == [t.dtype for t in given]
    for got, expected in zip(results, row.forward(rounded), strict=True):
        torch.testing.assert_close(got, expected)
    with (
        torch.autocast(device, dtype=torch.bfloat16, enabled=False),
        pytest.raises(TypeError, match="dtype of"),
    ):
        row.forward(halves)


@pytest.mark.parametrize("transform", ["forward", "func.grad", "create_graph", "jvp", "jvp of the first"])
@pytest.mark.parametrize("backend", [None, "reference"])
@each_device
@each_operator
def test_autocast_has_no_part_in_what_is_computed(row, device, backend, transform):
    """Every road through torch's own operations computes in the precision of the operands."""
    p = Problem(row, EVERYTHING, device)
    case = p.case.map(lambda t: t.float() if t.is_floating_point() else t)
    p.args, p.one = case.given, tuple(a[0] for a in case.given)

    def ours(*a):
        return row.forward(p._flat(a, None), backend=backend)

    expected = EAGER[transform](p, ours)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = EAGER[transform](p, ours)
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    """The smallest module with an operator: it can be copied and pickled, which closures cannot."""

    def __init__(self, name: str, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.name = name
        self.weights = torch.nn.ParameterDict(weights)

    def forward(self, *data: torch.Tensor) -> Any:
        row = next(row for row in ROWS if row.name == self.name)
        given = dict(zip((row.op.flat[i].name for i in row.op.places("data")), data, strict=True))
        return row.forward(tuple((given | dict(self.weights)).get(name) for name in row.op.names))


def layer_and_data(row, device):
    case = tensors_of(random_case(row, ((3,), (), 5, 4, 6)), device)
    weights = {row.op.flat[i].name: case.flat[i] for i in row.op.places("parameter", "initial")}
    return Layer(row.name, weights), [case.flat[i] for i in row.op.places("data")]


@each_device
@each_operator
def test_modules_are_copied_and_pickled(row, device):
    layer, data = layer_and_data(row, device)
    expected = layer(*data)
    sum(t.sum() for t in expected).backward()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    others = (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
    )
    for other in others:
        assert_agree(other(*data), expected)
        other.zero_grad()
        sum(t.sum() for t in other(*data)).backward()
        assert_agree([p.grad for p in other.parameters()], [p.grad for p in layer.parameters()])
