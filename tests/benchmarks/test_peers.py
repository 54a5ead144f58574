"""Every peer computes the operator; one that does not is refused."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest

from benchmarks import measure, oracle
from benchmarks.cases import Size, random_case
from benchmarks.peers import table
from benchmarks.peers.family import FAMILY
from benchmarks.peers.interface import Peer, Ready
from benchmarks.plan import Measurement

SIZE = (2, 3, 34, 6)  # two segments of kept states; rows that are no multiple of four
SHORT = (2, 3, 2, 6)
COMPILED = tuple(name for name in table.ALL if name.startswith("torch.compile"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """numba's loops are compiled for one thread: for several it takes three times as long."""
    numba.set_num_threads(1)


def check(name: str, mode: str, size: Size) -> None:
    case = random_case(size)
    ready: Ready = getattr(table.load(name), mode)(case)
    results = ready.arrays(ready.run())
    assert len(results) == (1 if mode == "forward" else 3)
    assert all(type(a) is np.ndarray and a.dtype == np.float32 for a in results)
    assert oracle.worst_error(name, results, oracle.truth(case)) < 1e-5


@pytest.mark.slow_where(lambda mode, name: mode == "forward" and not name.startswith("srwm"))
@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("name", [name for name in (*table.ALL, table.ONE_THREAD) if name not in COMPILED])
def test_results_and_gradients(name: str, mode: str) -> None:
    check(name, mode, SIZE)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at it itself
@pytest.mark.slow_where(lambda name: name != "torch.compile, loop")
@pytest.mark.parametrize("name", COMPILED)
def test_results_and_gradients_of_what_torch_compiles(name: str) -> None:
    check(name, "training", (2, 3, 1, 6))  # each further step of the loop takes seconds


def check_member(member: str, names: tuple[str, ...]) -> None:
    """Each twice: a peer that kept adding to its gradients would be right only once."""
    case = FAMILY[member].case(SIZE)
    truths = FAMILY[member].truth(case)
    assert len(truths) == 1 + len(case.operands)
    for name in names:
        for mode in ("forward", "training"):
            ready = getattr(table.load(name), mode)(case)
            for _ in range(2):
                results = ready.arrays(ready.run())
                assert len(results) == (1 if mode == "forward" else len(truths))
                assert all(type(a) is np.ndarray and a.dtype == np.float32 for a in results)
                assert oracle.worst_error(name, results, truths) < 1e-5


@pytest.mark.parametrize("member", table.FAMILY)
def test_other_operators_beside_their_loops(member: str) -> None:
    assert tuple(FAMILY) == table.FAMILY
    check_member(member, table.pairs(member)[0])


@pytest.mark.slow_where(lambda member: member != "Recurrent Delta Net")
@pytest.mark.parametrize("member", table.WITH_NUMBA)
def test_other_operators_beside_numba_by_hand(member: str) -> None:
    check_member(member, table.pairs(member)[1])


def test_calls_can_be_repeated() -> None:
    """A peer that kept adding to its gradients would be right only once."""
    for name in ("numba by hand", "NumPy loop", "PyTorch loop", "srwm, NumPy"):
        ready = table.load(name).training(random_case(SIZE))
        for first, second in zip(ready.arrays(ready.run()), ready.arrays(ready.run()), strict=True):
            np.testing.assert_array_equal(first, second, name)


def off_by(factors: tuple[float, ...]) -> Peer:
    """NumPy's loop, each of its results multiplied by a factor."""
    right = table.load("NumPy loop")

    def wrong(ready: Ready) -> Ready:
        return replace(
            ready,
            arrays=lambda results: tuple(
                a * np.float32(factor) for a, factor in zip(results, factors, strict=False)
            ),
        )

    return Peer(
        "planted", lambda case: wrong(right.forward(case)), lambda case: wrong(right.training(case))
    )


@pytest.mark.parametrize(
    ("mode", "factors"),
    [
        ("forward", (1.001, 1, 1)),
        ("training", (1.001, 1, 1)),
        ("training", (1, 1.001, 1)),
        ("training", (1, 1, 1.001)),
        ("training", (1, 1, float("nan"))),
    ],
)
def test_a_wrong_peer_is_refused(
    mode: str, factors: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "load", lambda name: off_by(factors))
    measurement = Measurement("sizes", mode, SHORT, ("planted",))
    with pytest.raises(ArithmeticError, match="planted"):
        measure.time_peers(measurement, rounds=1)
    monkeypatch.setattr(measure, "load", lambda name: off_by((1, 1, 1)))
    assert measure.time_peers(measurement, rounds=1)["peers"]["planted"]["seconds"] > 0


def test_a_result_of_another_shape_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="shape"):
        oracle.worst_error("planted", [np.ones((2, 3))], [np.ones((3, 2))])


def test_a_peer_says_why_it_does_not_run() -> None:
    loop = table.load("torch.compile, loop")
    assert loop.why_not(26) is None
    assert "compile" in str(loop.why_not(27))
    row = measure.time_peers(Measurement("sizes", "forward", (1, 1, 27, 2), (loop.name,)), rounds=1)
    assert row == {"peers": {}, "not_run": {loop.name: loop.because}}
