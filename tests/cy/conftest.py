"""What the tests of the CPU kernels share: how sequences are laid out, and memory that nobody wrote to."""

from __future__ import annotations

import pytest

from srwm._cy import cpu
from tests.cy.calls import forget, poison


@pytest.fixture(params=["one", "many", "shared"])
def arrangement(request, monkeypatch):
    """Sequences one at a time, side by side, and each shared by three threads; on memory full of NaN.

    The value is the number of threads to ask for.
    """
    most = 1 << 30 if request.param == "many" else 0
    monkeypatch.setattr(cpu, "most_bytes", lambda layout, save: most)
    monkeypatch.setattr(cpu, "SIDE_BY_SIDE_STEPS", 0)
    monkeypatch.setattr(cpu, "WORK_PER_THREAD", 1)
    monkeypatch.setattr(cpu, "WORK_PER_MEMBER", 1)
    poison(monkeypatch)
    forget()
    yield 3 if request.param == "shared" else 1
    monkeypatch.undo()
    forget()


@pytest.fixture
def lead(arrangement):
    """Leading axes of enough sequences for the arrangement: of two for threads that share one."""
    return (2,) if arrangement > 1 else (19,)
