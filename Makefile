# `make demo` and `make test` need Python 3.10 to 3.13 and make; they set up everything else in .venv.
PYTHON ?= python3
# Real recordings that the demo ends with, where there are any.
RECORDINGS ?= ../shared/data/ravdess
# Processes that tests run in: one more than cores, since some tests wait.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Counts the lines that tests run; before Python 3.12 coverage.py almost doubles their time.
SLIPCOVER := $(BIN)/python -m slipcover

.PHONY: demo test test-all fuzz kills setup clean

demo: $(READY)
	$(BIN)/emofuse demo --out demo $(if $(wildcard $(RECORDINGS)),--recordings $(RECORDINGS))

# All but what takes long, which the summary names; `test-all` runs that too, and more random examples of the rest.
test-all: WHICH := --all
test test-all: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; \
	$(SLIPCOVER) --json --source src/emofuse --out $(VENV)/lines.json \
	    -m pytest $(WHICH) --numprocesses=$(WORKERS) --dist=worksteal; failed=$$?; \
	$(SLIPCOVER) --merge $(VENV)/lines.json --out $(VENV)/lines.json --skip-covered --fail-under 90 || failed=1; \
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

# Most modules of what is installed are never imported, so that compiling them first takes longer than it saves.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint requirements.lock --editable ".[demo,dev]"
	touch $@

clean:
	rm -rf $(VENV) demo
