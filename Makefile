# Everything runs in .venv, made here; engines live in their own environments in the user's cache.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint fast clean

demo: $(READY)  ## convert, validate and write the card of the example head
	$(BIN)/eagle3hub demo --output build/demo --force

test: $(READY)  ## every test, those on the real engine included
	$(BIN)/eagle3hub engines install vllm --device cpu
	$(BIN)/python -m pytest

fast: $(READY)  ## the tests that need no engine
	$(BIN)/python -m pytest -m "not engine"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[validate,dev]'
	touch $@
