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


# Parameters that say what a test is of. They stand in the report of a run: tests/counts.py.
SAY_WHAT = ("row", "op", "operator", "kernel", "backend", "name", "kind")
SAY_WHAT += ("instruction_set", "layout", "arrangement", "mode")


def label(value: object) -> str:
    """The name of a value, if it has one."""
    names = (getattr(value, attribute, None) for attribute in ("name", "__name__"))
    return next((name for name in names if isinstance(name, str)), str(value))


@pytest.hookimpl(tryfirst=True)  # before pytest deselects what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rows of a table are slow where the condition of its `slow_where` holds for their parameters.

    Of a whole module's, tests without these parameters are not.
    """
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        item.user_properties += [(name, label(parameters[name])) for name in SAY_WHAT if name in parameters]
        for mark in item.iter_markers("slow_where"):
            (condition,) = mark.args
            names = inspect.signature(condition).parameters
            if names.keys() <= parameters.keys() and condition(*(parameters[name] for name in names)):
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
