# Runs everything in .venv, created on first use from constraints.txt. Requires Python 3.11 to 3.13 with pip and venv.
# Another Python, or other versions than those of constraints.txt, get a folder of their own, for example
#   make test PYTHON=python3.13           in .venv-python3.13
#   make test PINS='torch==2.11.0'        in .venv-torch-2.11.0
PYTHON ?= python3
PINS ?=
EMPTY :=
VENV := .venv$(subst $(EMPTY) ,,$(patsubst %,-%,$(filter-out python python3,$(notdir $(PYTHON))) $(subst ==,-,$(PINS))))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_FLAGS ?=
MINUTES ?= 60
SEED ?=
DRAW ?=
DRAWS ?=
PYTEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo docs test test-slow test-gpu layouts fuzz-layouts fuzz-readers lint format install clean

demo: $(INSTALLED)  ## the complete chain, from raw text to a report, in eight to twelve minutes
	$(BIN)/pause-megatron demo $(DEMO_FLAGS)

test: $(INSTALLED)  ## all tests except the slow ones
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not slow'

test-slow: $(INSTALLED)  ## tests marked slow, which repeat facts of the other tests at length, size or scale
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m slow

test-gpu: $(INSTALLED)  ## tests marked gpu, on this machine's GPUs; five minutes
	PAUSE_MEGATRON_DEVICE=cuda $(BIN)/python -m pytest -m gpu tests/gpu

layouts: $(INSTALLED)  ## each layout on up to four processes against one process, written to docs/layouts.md; 15 minutes on two cores
	$(BIN)/python -m tests.training.layout_table

# SEED=5 repeats the draws of another run, if its commit is the same; DRAW=17 runs only that draw of SEED.
fuzz-layouts: $(INSTALLED)  ## random layouts, and changes of layout at a resume, against one process; for an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.training.layout_fuzz --minutes $(MINUTES) \
	    $(if $(SEED),--seed $(SEED)) $(if $(DRAW),--draw $(DRAW))

fuzz-readers: $(INSTALLED)  ## files of every kind, damaged and read; DRAWS=2000 of each kind, SEED=7 repeats them
	$(BIN)/python -m tests.readers.fuzz $(if $(DRAWS),--draws $(DRAWS)) $(if $(SEED),--seed $(SEED))

docs: $(INSTALLED)  ## the documentation site, build/docs/index.html; any warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q docs build/docs

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

# Install PyTorch first and by its pin: several packages require any torch, and pip would choose the newest.
$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	grep -v -e '^#' $(foreach pin,$(PINS),-e '^$(firstword $(subst ==, ,$(pin)))==') constraints.txt >$(VENV)/constraints.txt
	printf '%s\n' $(PINS) >>$(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/constraints.txt --editable '.[all,mpi,test]'
	touch $(INSTALLED)

clean:
	rm -rf .venv .venv-* demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
