# Everything runs in .venv, which is created by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-slurm lint format typecheck benchmark notebooks docs clean

help: ## Show this list
	@grep -h -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

# Bytecode is compiled here: if PYTHONDONTWRITEBYTECODE is set, each process would compile all its imports again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib src train.py >/dev/null 2>&1 || true
	@touch $@

setup: $(STAMP) ## Create the environment in .venv (seconds if it exists)

train: $(STAMP) ## Run the main job on the built-in corpus; ARGS="encoder=causal ..." overrides
	$(BIN)/python train.py masking=causal encoder=lookahead40 $(ARGS)

test: $(STAMP) ## Run the fast tests
	$(BIN)/python -m pytest $(ARGS)

test-all: $(STAMP) ## Run all tests, including the long ones
	$(BIN)/python -m pytest -m "" $(ARGS)

test-slurm: $(STAMP) ## Preempt and requeue jobs of a SLURM on this machine
	$(BIN)/python -m pytest -n 0 -rs -m slurm tests/slurm $(ARGS)

lint: $(STAMP) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## Check types
	$(BIN)/mypy

benchmark: $(STAMP) ## Measure a training step, long audio, then the loader and how long training waits for it
	$(BIN)/python benchmarks/training_step.py $(ARGS)
	$(BIN)/python benchmarks/long_context.py $(LONG_ARGS)
	$(BIN)/python benchmarks/loader.py $(LOADER_ARGS)

notebooks: $(STAMP) ## Execute the notebooks
	$(BIN)/python tools/run_notebooks.py $(ARGS)

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

# Executed notebooks are included if build/notebooks has them: make notebooks ARGS='--html build/notebooks'
docs: $(VENV)/.docs ## Build the documentation site in build/docs; dead links are errors
	$(BIN)/python tools/build_docs.py

clean: ## Remove the environment, logs and caches
	rm -rf $(VENV) logs outputs multirun build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
