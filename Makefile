# `make demo` and `make test` need Python 3.10 to 3.13 and make; they set up everything else in .venv.
PYTHON ?= python3
# Real recordings that the demo ends with, where there are any.
RECORDINGS ?= ../shared/data/ravdess
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test setup clean

demo: $(READY)
	$(BIN)/emofuse demo --out demo $(if $(wildcard $(RECORDINGS)),--recordings $(RECORDINGS))

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --cov=emofuse --cov-report=term --cov-fail-under=90

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
