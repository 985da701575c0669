# Every command of the project; `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
RUNS_DIR ?= runs
RESULTS_DIR ?= results

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with the exact versions of requirements.lock, and the project itself

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

quickstart: setup ## train RigL with the four optimizers on digits (3 minutes on one core), print the table, draw the curves
	$(BIN)/python -m sparse_train.report reproduce quickstart --runs-dir $(RUNS_DIR) --results-dir $(RESULTS_DIR)

test: setup lint ## set up and run all tests
	$(BIN)/python -m pytest

lint: setup ## check the style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## solve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra wandb --extra dev --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

clean: ## remove the environment and caches; runs, data and results stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis *.egg-info
