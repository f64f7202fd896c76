# One word each. `make demo` and `make test` set everything up on their first run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lemis-is-installed
WORKERS ?= 2
# One thread per test process: two processes with two threads each get in each other's way.
# Each process takes tests that follow each other, so that few of them make what a file of tests shares.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: setup demo lint check test test-portable fuzz bench docs no-torchvision

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Lemis needs Python 3.11 or later, and $(PYTHON) is not. Try: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,ray]' -c constraints.txt
	@touch $@

demo: setup
	$(BIN)/lemis demo -o demo

lint: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint no-torchvision
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" --hypothesis-profile=quick

test: setup no-torchvision
	OMP_NUM_THREADS=1 $(PYTEST)

# The same tests as on other processors, with other numbers of threads, and with other random numbers.
PORTABLE ?= default avx2 threads seed1 seed2
TESTS ?= tests
default := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
avx2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
# Passive: with two processes on two cores, a thread that waits would keep the other process from its core.
threads := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE
seed1 := LEMIS_TEST_SEED=1
seed2 := LEMIS_TEST_SEED=2
test-portable: setup no-torchvision
	@set -e; for kind in $(foreach kind,$(PORTABLE),"$($(kind))"); do \
		echo "$$kind"; env OMP_NUM_THREADS=1 $$kind $(PYTEST) $(TESTS); done

# Mutated inputs against the command line; failing ones are kept in scratch/fuzz.
fuzz: setup no-torchvision
	PYTHONPATH=tests $(BIN)/python -m fuzz -n $(or $(N),2000) --seed $(or $(SEED),0) --jobs $(WORKERS)

bench: setup
	$(BIN)/python -m benchmarks

# The documentation as a site that asks nothing of the network: open site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

no-torchvision: setup
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torchvision") and \
		"torchvision is installed; Lemis must work without it: .venv/bin/pip uninstall torchvision")'
