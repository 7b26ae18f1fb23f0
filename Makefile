# Everything runs in .venv, made on first use from constraints.txt; needs Python 3.11 or later with pip and venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_FLAGS ?=
PYTEST_FLAGS ?= -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test layouts lint format install clean

demo: $(INSTALLED)  ## the whole chain, from raw text to a report, in six to nine minutes
	$(BIN)/pause-megatron demo $(DEMO_FLAGS)

test: $(INSTALLED)  ## all tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

layouts: $(INSTALLED)  ## every layout on up to four processes against one, to docs/layouts.md; a quarter of an hour on two cores
	$(BIN)/python -m tests.training.layout_table

lint: $(INSTALLED)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(INSTALLED)

# PyTorch first and by its pin: several packages ask for any torch and would bring the newest instead.
$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,mpi,test]'
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
