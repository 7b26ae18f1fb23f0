# Runs everything in .venv, created on first use from constraints.txt. Requires Python 3.11 or later with pip and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_FLAGS ?=
PYTEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow layouts lint format install clean

demo: $(INSTALLED)  ## the complete chain, from raw text to a report, in six to nine minutes
	$(BIN)/pause-megatron demo $(DEMO_FLAGS)

test: $(INSTALLED)  ## all tests except the slow ones
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m 'not slow'

test-slow: $(INSTALLED)  ## tests marked slow, which repeat facts of the other tests at length, size or scale
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m slow

layouts: $(INSTALLED)  ## each layout on up to four processes against one process, written to docs/layouts.md; 15 minutes on two cores
	$(BIN)/python -m tests.training.layout_table

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
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,mpi,test]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
