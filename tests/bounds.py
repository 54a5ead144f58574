"""Tests the package with the lowest versions that it promises, and with the newest there are.

    python tests/bounds.py [lowest|newest ...] [pytest's options]

Run by `make test-bounds`. Each has an environment of its own below .bounds/, gigabytes of it: pip's builds
of PyTorch for Linux bring the libraries of a GPU along. An environment that is complete is used again;
remove its folder to have it made anew, as for newer versions than it has. The lowest versions are read
from pyproject.toml. Not named test_*.py: it starts pytest itself, and needs a compiler, the network and
many minutes.

First everything that pyproject.toml names is imported. Then run the tests of the two front ends, of torch's
transforms and of the layers, without the rows marked `slow`. Warnings are no errors here: what old versions
warn of is not ours to mend.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".bounds"

# What a user may have installed beside the package, and what the tests need. Not cuda12 and cuda13: CuPy
# asks for NumPy 2, more than the package does, and without a GPU it could only be imported.
EXTRAS = ("torch", "examples", "bench", "test")

TESTS = (
    "tests/test_numpy.py",
    "tests/test_torch.py",
    "tests/test_transforms.py",
    "tests/test_distributed.py",
    "tests/nn",
)
OPTIONS = ("-m", "not slow and not gpu", "-o", "filterwarnings=", "-p", "no:cacheprovider")

# What a build leaves in a checkout, and what has no part in one.
NOT_SOURCES = (".*", "*.c", "*.egg-info", "*.pyd", "*.so", "__pycache__", "build", "dist", "runs")

# Run by an environment's own Python, with the names of distributions as arguments: their modules, imported.
IMPORT = """
import importlib, importlib.metadata as metadata, re, sys
def plain(name): return re.sub("[-_.]+", "-", name).lower()
modules = {}
for module, distributions in metadata.packages_distributions().items():
    for distribution in distributions:
        modules.setdefault(plain(distribution), set()).add(module)
bad = []
for name in map(plain, sys.argv[1:]):
    version = metadata.version(name)
    found = sorted(m for m in modules.get(name, ()) if m.isidentifier() and not m.startswith("_"))
    print(f"  {name:20} {version}", flush=True)
    if not found:
        bad.append(f"{name} {version} holds no module")
    for module in found:
        try:
            importlib.import_module(module)
        except Exception as error:
            bad.append(f"import {module} ({name} {version}): {type(error).__name__}: {error}")
sys.exit("\\n".join(bad) or 0)
"""


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for on this machine: to build, to run, and for the extras."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    extras = project["optional-dependencies"]
    texts = [*settings["build-system"]["requires"], *project["dependencies"]]
    texts += [text for extra in EXTRAS for text in extras[extra]]
    found = {}
    for requirement in map(Requirement, texts):
        if requirement.name != "srwm" and (requirement.marker is None or requirement.marker.evaluate()):
            found[str(requirement)] = requirement
    return list(found.values())


def lowest(requirement: Requirement) -> str:
    """The requirement with its lower bound as the only version; as it is where it has none."""
    bounds = [s.version for s in requirement.specifier if s.operator == ">="]
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}" + (f"=={bounds[0]}" if bounds else "")


def newest(requirement: Requirement) -> str:
    """The requirement as it is: pip takes the newest version that goes with the others."""
    return str(requirement)


WHICH = {"lowest": lowest, "newest": newest}


def run(*command: str | Path, cwd: Path) -> int:
    """The status of a command, whose output is shown."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, check=False).returncode


def must(*command: str | Path, cwd: Path) -> None:
    """Run a command; exit with its status if it fails."""
    status = run(*command, cwd=cwd)
    if status != 0:
        sys.exit(status)


def environment(which: str) -> Path:
    """The interpreter of an environment that is made unless it is there."""
    folder = FOLDER / which
    python = folder / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"
    wanted = "\n".join([f"# Python {sys.version.split()[0]}", *map(WHICH[which], requirements()), ""])
    listed = folder / "requirements.txt"  # written last, so that half an environment is not used
    if listed.is_file() and listed.read_text(encoding="utf-8") == wanted:
        print(f"{which}: the environment in {folder} is there", flush=True)
        return python
    print(f"{which}: making an environment in {folder}, gigabytes and minutes", flush=True)
    listed.unlink(missing_ok=True)
    shutil.rmtree(folder / "environment", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "requirements.unfinished.txt"
    unfinished.write_text(wanted, encoding="utf-8")
    must(sys.executable, "-m", "venv", "--without-pip", folder / "environment", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    must(*pip, "--disable-pip-version-check", "--progress-bar", "off", "-r", unfinished, cwd=folder)
    unfinished.rename(listed)
    return python


def sources(which: str, python: Path) -> Path:
    """A copy of the checkout with kernels built by the environment, for what has changed since the last."""
    copy = FOLDER / which / "sources"
    shutil.copytree(ROOT, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    for path in sorted(copy.rglob("*"), reverse=True):  # what is no longer in the checkout
        relative = path.relative_to(copy)
        made = any(fnmatch.fnmatch(part, pattern) for part in relative.parts for pattern in NOT_SOURCES)
        if path.is_file() and not made and not (ROOT / relative).exists():
            path.unlink()
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", copy)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    must(*pip, *install, cwd=copy)
    return copy


def tested(which: str, options: list[str]) -> tuple[int, str]:
    """The status of the tests in an environment, and their last line."""
    python = environment(which)
    names = [requirement.name for requirement in requirements()]
    print(f"{which}: its versions, imported", flush=True)
    status = run(python, "-c", IMPORT, *names, cwd=FOLDER / which)
    copy = sources(which, python)
    print(f"{which}: {' '.join(TESTS)}", flush=True)
    command = (python, "-m", "pytest", *OPTIONS, *options, *TESTS)
    with subprocess.Popen(command, cwd=copy, stdout=subprocess.PIPE, text=True, encoding="utf-8") as tests:
        assert tests.stdout is not None
        last = ""
        for line in tests.stdout:
            print(line, end="", flush=True)
            last = line.strip(" =\n") or last
    imports = "; imports failed" if status else ""
    return status or tests.returncode, last + imports


def main() -> None:
    """Both environments, or those that are named, one after the other; a line for each at the end."""
    arguments = sys.argv[1:]
    named = [name for name in arguments if name in WHICH] or list(WHICH)
    options = [option for option in arguments if option not in WHICH]
    missing = [path for path in TESTS if not (ROOT / path).exists()]
    if missing:
        sys.exit(f"tests/bounds.py: expected the tests {', '.join(missing)}, which are not there")
    results = {which: tested(which, options) for which in named}
    for which, (_, line) in results.items():
        print(f"{which}: {line}")
    sys.exit(max(status for status, _ in results.values()))


if __name__ == "__main__":
    main()
