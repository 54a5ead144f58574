"""Settings that every test runs under."""

import importlib.util
import inspect
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No deadline: no test times anything, and a busy machine is no failure. In CI the same examples are
# drawn every time, so that a red run can be repeated.
settings.register_profile("srwm", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("srwm")

if os.environ.get("SRWM_TEST_CUDA") == "host":  # before anything imports CuPy
    from tests.cuda_host import under_cupy

    under_cupy.install()


@pytest.hookimpl(tryfirst=True)  # before pytest deselects what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows of a table are slow where the condition of its `slow_where` holds for their parameters.

    Of a whole module's, tests without these parameters are not.
    """
    for item in items:
        for mark in item.iter_markers("slow_where"):
            (condition,) = mark.args
            row = item.callspec.params if hasattr(item, "callspec") else {}
            names = inspect.signature(condition).parameters
            if names.keys() <= row.keys() and condition(*(row[name] for name in names)):
                item.add_marker("slow")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Tensors this small only wait for a second thread of PyTorch's."""
    if importlib.util.find_spec("torch") is None:  # as where the installed wheel is tested
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
