# One vocabulary for people, hooks and CI. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Each has a local stack of its own (2 GB of memory); files of tests are shared out among them.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# Compiled bytecode makes every start several seconds shorter.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up down status setup setup-dev test test-fast lint format bench bench-registry bench-serving bench-soak lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

up: setup ## Set up, start everything, train, gate, promote, serve
	@$(BIN)/greenroom up

down: ## Stop everything; what is stored stays
	@test -x $(BIN)/greenroom && $(BIN)/greenroom down || echo "Nothing is set up here."

status: ## Show services, models, versions
	@test -x $(BIN)/greenroom && $(BIN)/greenroom status || { test -x $(BIN)/greenroom || echo "Nothing is set up here; run make up."; exit 1; }

setup: ## Create or update the two virtual environments
	@$(PYTHON) infra/bootstrap.py

setup-dev: ## The same, with what tests and linters need
	@$(PYTHON) infra/bootstrap.py dev

test: setup-dev ## Set up and run every test
	@$(PYTEST)

test-fast: setup-dev ## Run the tests that take under two minutes together
	@$(PYTEST) -m "not slow"

lint: setup-dev ## ruff, mypy (strict), import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup-dev ## Format the code and fix what can be fixed by itself
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup-dev ## Measure the main job; prints the table of docs/benchmarks.md
	@$(BIN)/python -m bench

bench-registry: setup-dev ## Measure what the guard costs MLflow's server
	@$(BIN)/python -m bench.registry

bench-serving: setup-dev ## Measure the predictor beside its peers, about 12 minutes (QUICK=1: 2)
	@$(BIN)/python -m bench.serving $(if $(QUICK),--quick)

bench-soak: setup-dev ## Load the predictor for 6 minutes through swaps and outages (SOAK_SECONDS=N: longer)
	@$(BIN)/python -m bench.serving.soak $(if $(SOAK_SECONDS),--seconds $(SOAK_SECONDS))

lock: setup-dev ## Resolve the pinned, hashed requirements anew
	@$(BIN)/python infra/lock.py

clean: down ## Remove the environments and all state of the local stack
	@rm -rf .venv .venv-checks .greenroom
