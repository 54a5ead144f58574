"""What holds for the tests of all training programs."""

from collections.abc import Iterator

import pytest
from matplotlib.figure import Figure

import srwm


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu() -> Iterator[None]:
    """Where numbers are the same to the bit, whatever else the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(autouse=True)
def _no_threads_of_another_run() -> Iterator[None]:
    """Programs set them for the whole process."""
    yield
    srwm.set_num_threads(None)


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    figures, save = [], Figure.savefig

    def saving(figure, *given, **options):
        figures.append(figure)
        save(figure, *given, **options)

    monkeypatch.setattr(Figure, "savefig", saving)
    return figures
