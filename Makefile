# `make demo` and `make test` need Python 3.10 to 3.13 and make; they set up everything else in .venv.
PYTHON ?= python3
# Real recordings that the demo ends with, where there are any.
RECORDINGS ?= ../shared/data/ravdess
# Processes that tests run in.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all fuzz kills setup clean

demo: $(READY)
	$(BIN)/emofuse demo --out demo $(if $(wildcard $(RECORDINGS)),--recordings $(RECORDINGS))

# All but what takes long, which the summary names; `test-all` runs that too, and more random examples of the rest.
test-all: WHICH := --all
test test-all: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; \
	$(BIN)/pytest $(WHICH) --numprocesses=$(WORKERS) --dist=worksteal \
	    --cov=emofuse --cov-report=term --cov-fail-under=90; failed=$$?; \
	wait $$types || failed=1; cat $(VENV)/mypy.log; exit $$failed

# Damaged inputs of every kind; another seed makes other ones, and what fails is kept in fuzz-failures.
MINUTES ?= 5
SEED ?= 0
fuzz: $(READY)
	$(BIN)/python -m benchmarks.fuzz --minutes $(MINUTES) --seed $(SEED) $(foreach kind,$(KIND),--kind $(kind))

# Commands are killed at random moments and run again; prints what was lost.
KILLS ?= 200
kills: $(READY)
	$(BIN)/python benchmarks/kills.py --kills $(KILLS) --seed $(SEED)

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable ".[demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
