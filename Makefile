# Everything starts here: `make demo` runs the whole pipeline, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
# Two thread pools that spin for the same cores slow each other down many times over.
export OMP_WAIT_POLICY := passive

.DEFAULT_GOAL := help
.PHONY: help setup demo ui evidence test test-fast test-extras coverage check format lint types imports recipes

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make the virtual environment with the pinned dependencies
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: $(PYTHON) is $$($(PYTHON) --version). Say which with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "No virtual environment could be made; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV) (a few minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "pip>=24"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[orchestration,dev]'
	@$(BIN)/python -m assets.instance
	@touch $@

# What they start ends with make, however that ends.
demo ui: export NSYNC_ENDS_WITH_PARENT := 1

demo: setup ## Run the whole pipeline on the embedded style, through Dagster
	@$(BIN)/python -m assets.demo --style woodblock

ui: setup ## Start the Dagster and MLflow pages
	@$(BIN)/nsync ui

evidence: setup ## Measure what the contrast does on the drawn world (many hours, resumable)
	@$(BIN)/python -m benchmarks.evidence run

# Three processes on two cores: a third of the time a test waits for what it started.
ALL_TESTS := pytest -n 3 --dist loadfile --no-loadscope-reorder --hypothesis-profile=gate

test: setup ## Run the tests
	@$(BIN)/python -m $(ALL_TESTS)

coverage: setup ## Run the tests, and see that they cover the code (a fifth longer)
	@$(BIN)/python -m $(ALL_TESTS) --cov --cov-report=term

test-fast: setup ## Run the tests that take seconds, with new random examples each time
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not pipeline"

EXTRAS := $(VENV)/extras
$(EXTRAS)/.installed: constraints.txt $(STAMP)
	@rm -rf $(EXTRAS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --target $(EXTRAS) torchao bitsandbytes
	@touch $@

test-extras: $(EXTRAS)/.installed ## Run the tests of quantized bases and 8-bit AdamW, with their packages (seconds)
	@PYTHONPATH=$(CURDIR)/$(EXTRAS) $(BIN)/python -m pytest -q tests/families/test_families_quantization.py tests/training/test_training_optimizer.py tests/training/test_training_exactness.py::test_with_any_optimizer_it_goes_on_to_the_same_bits

check: lint types imports recipes coverage ## Run every gate: ruff, formatting, types, import directions, recipes, tests, their coverage

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

recipes: setup
	@$(BIN)/python -m tools.recipes

format: setup ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
