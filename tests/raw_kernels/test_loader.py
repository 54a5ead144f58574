"""Which headers of the half types the compiler gets, from folders that are made for a test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from srwm._raw_kernels import loader

# The lines of CUDA's own header, in every version since 12.0.
TEXT = "#define CUDART_VERSION  {}\n# define __CUDART_API_VERSION CUDART_VERSION\n"


@pytest.fixture
def headers(tmp_path, monkeypatch):
    """`headers(nvrtc, versions, toolkit)`: the folder that is chosen, by its name below `tmp_path`.

    `versions` are those of the folders that there are, None for one without headers.
    """

    def chosen(nvrtc, versions, toolkit=None):
        for name, version in versions.items():
            folder = tmp_path / name / "include"
            folder.mkdir(parents=True)
            if version is not None:
                (folder / "cuda_runtime_api.h").write_text(TEXT.format(version), encoding="utf-8")
        of_toolkit = None if toolkit is None else str(tmp_path / toolkit)
        cuda = SimpleNamespace(
            nvrtc=SimpleNamespace(getVersion=lambda: nvrtc), get_cuda_path=lambda: of_toolkit
        )
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
        places = [str(tmp_path / "user"), str(tmp_path / "site")]
        wheels = SimpleNamespace(submodule_search_locations=places)
        monkeypatch.setattr(loader, "find_spec", lambda name: wheels if name == "nvidia" else None)
        options = loader.headers.__wrapped__()
        return [str(Path(option.removeprefix("-I")).parent.relative_to(tmp_path)) for option in options]

    return chosen


WHEEL_12, WHEEL_13, TOOLKIT = "site/cuda_runtime", "site/cu13", "toolkit"


def test_those_of_the_wheel_of_nvrtcs_major_version(headers):
    """PyTorch may bring the wheels of CUDA 13, and CuPy be the one for CUDA 12."""
    versions = {WHEEL_12: 12090, WHEEL_13: 13000}
    assert headers((12, 9), versions) == [WHEEL_12]


def test_those_of_cuda_13_for_its_nvrtc(headers):
    versions = {WHEEL_12: 12090, WHEEL_13: 13050, TOOLKIT: 13000}
    assert headers((13, 5), versions, TOOLKIT) == [WHEEL_13]


def test_those_of_the_toolkit_if_nvrtc_is_the_toolkits(headers):
    versions = {WHEEL_12: 12090, TOOLKIT: 12040}
    assert headers((12, 4), versions, TOOLKIT) == [TOOLKIT]


def test_those_of_the_wheel_if_the_toolkit_is_another(headers):
    """As where CUDA_PATH names a toolkit and NVRTC comes from a wheel."""
    versions = {WHEEL_12: 12090, TOOLKIT: 13000}
    assert headers((12, 9), versions, TOOLKIT) == [WHEEL_12]


def test_the_same_wheel_in_two_places(headers):
    versions = {"user/cuda_runtime": 12020, WHEEL_12: 12090}
    assert headers((12, 9), versions) == [WHEEL_12]


def test_the_nearest_if_none_is_of_its_version(headers):
    versions = {"user/cuda_runtime": 12020, WHEEL_12: 12080, TOOLKIT: 13000}
    assert headers((12, 9), versions, TOOLKIT) == [WHEEL_12]


def test_no_option_if_there_are_none(headers):
    """CuPy then looks further."""
    assert headers((12, 9), {WHEEL_12: None, TOOLKIT: None}, TOOLKIT) == []


def test_no_option_without_any_wheel(headers, monkeypatch):
    assert headers((12, 9), {}) == []
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    assert loader.headers.__wrapped__() == ()
