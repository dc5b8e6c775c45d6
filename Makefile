# One vocabulary for people, hooks and CI. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# Compiled bytecode makes every start several seconds shorter.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help compose-env build-images compose-up bench-compose compose-test compose-demo compose-verify compose-down backup restore up down status setup setup-dev test test-fast lint format bench bench-registry bench-serving bench-soak lock clean

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
	@$(BIN)/pytest

test-fast: setup-dev ## Run the tests that take under two minutes together
	@$(BIN)/pytest -m "not slow"

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

# --- Containers. Docker with Compose 2, or 1.29. ---
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
export REVISION

compose-env: ## Write .env from .env.example, with random secrets; what it has stays
	@$(PYTHON) infra/compose/make_env.py

build-images: ## Build the two images, greenroom-flows and greenroom-serving
	@$(COMPOSE) build setup predictor

compose-up: ## Start the stack of docker-compose.yml and wait until it is healthy
	@COMPOSE="$(COMPOSE)" bash infra/compose/up.sh

compose-demo: ## Train, gate and promote on that stack
	@$(COMPOSE) --profile demo run --rm demo

compose-verify: ## Check that stack's audit, signatures and model files
	@$(COMPOSE) --profile tools run --rm --no-deps operator greenroom verify

compose-down: ## Stop that stack; its volumes stay
	@$(COMPOSE) --profile demo --profile tools --profile monitoring down --remove-orphans

backup: ## Back up databases, bucket and keys of that stack: make backup DIR=folder
	@COMPOSE="$(COMPOSE)" bash infra/compose/backup.sh "$(DIR)"

restore: ## Put a backup into an empty stack: make restore DIR=folder
	@COMPOSE="$(COMPOSE)" bash infra/compose/restore.sh "$(DIR)"

compose-test: setup-dev ## Build the images and test the whole stack in containers (needs a Docker engine)
	@COMPOSE_TEST=1 $(BIN)/pytest tests/infra/test_compose.py $(ARGS)

bench-compose: ## Measure the stack in containers: image sizes, start times, memory (it must have been up)
	@COMPOSE="$(COMPOSE)" $(PYTHON) -m bench.compose
