# Every target makes what it needs: `make demo` or `make test` on a fresh machine with Python (and
# its venv module), a C compiler and make is enough.

# What .venv is made with. `make PYTHON=python3.13 test` takes another one.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The build environment is .venv itself (--no-build-isolation), so that a changed kernel costs its
# compilation and neither the network nor a second environment; that the isolated build of
# pyproject.toml works as well is part of `make test`.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# pytest's: the tests of a file stay together, as they share what is costly to make.
ON_ALL_CORES := --numprocesses logical --maxprocesses 8 --dist loadfile

# What a run's tests were, and of which operators: `make test-counts` reads it.
REPORT := build/tests.xml

# Fails where Procgen cannot be played, and says what to install.
PROCGEN := $(BIN)/python -c 'import sys; from examples.rl.environments.procgen import unusable; sys.exit(unusable())'

# Whatever changes the extension modules or the dependencies.
INSTALL_SOURCES := setup.py pyproject.toml constraints.txt \
    srwm/_version.py $(wildcard srwm/_cy/*.pyx srwm/_cy/*.pxd srwm/_cy/*.pxi srwm/_cy/*.h)

.PHONY: help demo test test-all test-counts test-bounds lint procgen bench bench-quick compile compile-matrix gpu-check
.PHONY: sanitize mingw clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## six minutes: parity by a matrix that rewrites itself, then letters of unseen scripts
	rm -rf runs/demo-parity
	$(BIN)/python -m examples.languages.experiments languages-demo --seeds 0 --runs runs/demo-parity --output runs/demo-parity
	$(BIN)/python -m examples.fewshot.train --preset glyphs-1shot-srwm --name demo --max-minutes 4.2 --overwrite \
		--encoder-warmup-steps 1000

test: $(INSTALLED) ## run the tests, but for rows of a table of which another one is run
	$(BIN)/python -m pytest $(ON_ALL_CORES) --junitxml $(REPORT) -m "not slow"

test-all: $(INSTALLED) ## run all tests, then the operator's on the wheel built from the sdist
	$(BIN)/python -m pytest $(ON_ALL_CORES) --junitxml $(REPORT)
	$(BIN)/python tests/installed_wheel.py $(ON_ALL_CORES)

test-counts: $(INSTALLED) ## count what the last of these runs has shown of each operator, for docs/tests.md
	$(BIN)/python -m tests.counts $(REPORT) --write docs/tests.md

test-bounds: $(INSTALLED) ## run the main tests with the lowest versions that are promised, and the newest: gigabytes
	$(BIN)/python tests/bounds.py

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint srwm
	$(BIN)/mypy

procgen: $(INSTALLED) ## install Procgen for examples/rl: EnvPool, and Qt too where root may install it
	$(PIP_INSTALL) envpool
	$(PROCGEN) || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq libqt5gui5 && $(PROCGEN); }

bench: $(INSTALLED) ## time the operator beside its peers: tables and plots in runs/bench
	$(BIN)/python -m benchmarks.run

bench-quick: $(INSTALLED) ## all of that once, small: that it runs, not how fast
	$(BIN)/python -m benchmarks.run --quick --out runs/bench-quick

compile: $(INSTALLED) ## compile the CUDA kernels that matter most for every architecture; a spill fails
	$(BIN)/python -m benchmarks.compile_matrix

compile-matrix: $(INSTALLED) ## compile all of them, and renew the table in docs/kernels.md
	$(BIN)/python -m benchmarks.compile_matrix --all --write docs/kernels.md

gpu-check: $(INSTALLED) ## on a machine with a GPU: speed, parity, determinism, races, in ten minutes; leaves a report
	$(BIN)/python -m benchmarks.gpu_check

sanitize: $(INSTALLED) ## test the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer; needs GCC
	$(BIN)/python tests/sanitized.py $(ON_ALL_CORES)

mingw: $(INSTALLED) ## build every module for Windows with mingw-w64, which root's run installs from Debian
	command -v x86_64-w64-mingw32-gcc || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq gcc-mingw-w64-x86-64; }
	$(BIN)/python tests/mingw.py

clean: ## remove everything made here except runs/
	rm -rf $(VENV) .bounds build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f srwm/_cy/*.c srwm/_cy/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(INSTALL_SOURCES) | $(BIN)/python
	@echo "Installing srwm and what its development needs into $(VENV): minutes the first time"
	$(PIP_INSTALL) pip setuptools cython
	$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@
