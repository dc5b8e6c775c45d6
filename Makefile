# One vocabulary for people, hooks and CI. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# The scanner of images. By digest: a tag of a scanner has been moved to something else before.
GRYPE_IMAGE ?= ghcr.io/anchore/grype:v0.120.1@sha256:e4a44ef45d285b829ce6efe2642980329661bd2d18eab5fc539138d4adaebbbe
# Each worker has its own local stack (2 GB of memory) and takes whole test files.
TEST_WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder
# `make audit`: every hashed file. `audit-accepted.txt` has the vulnerabilities that do not reach us, each with why.
# --strict: without it a package that the service does not know counts as one without vulnerabilities.
AUDITED ?= $(filter-out %/audit-accepted.txt,$(wildcard infra/requirements/*.txt))
ACCEPTED = $(shell sed -n 's/^\([A-Z][^ ]*\).*/\1/p' infra/requirements/audit-accepted.txt)
# `make secrets`: what git tracks or would add. Every hash of a package looks like a key.
CHECKOUT ?= .
LISTED = cd "$(abspath $(CHECKOUT))" && git ls-files -z --cached --others --exclude-standard
NOT_SCANNED := ':!infra/requirements' ':!*.png' ':!*.parquet' ':!*.woff2'
# Let pass: what stands where a password goes, lines that name a Kubernetes Secret, descriptions of settings.
SECRETS_HOOK = xargs -0 $(CURDIR)/$(BIN)/detect-secrets-hook --no-verify --exclude-secrets '^PASSWORD$$' \
  --exclude-secrets '^\{\w+\}' --exclude-lines '\bsecretName\b' --exclude-lines '^\s*description="GREENROOM_'
# In tests, passwords that open nothing are part of the matter; keys with a shape of their own are not.
IN_TESTS := --disable-plugin KeywordDetector --disable-plugin HexHighEntropyString \
  --disable-plugin Base64HighEntropyString
# Compiled bytecode makes every start several seconds shorter.
unexport PYTHONDONTWRITEBYTECODE

# An empty setting counts as not set: a workflow passes unset variables as empty ones.
$(foreach v,$(filter GREENROOM_%,$(.VARIABLES)),$(if $(value $(v)),,$(eval unexport $(v))))

.DEFAULT_GOAL := help
.PHONY: help up down status setup setup-dev test test-fast format bench bench-registry bench-serving bench-soak lock clean
.PHONY: settings-docs lint-settings
.PHONY: lint lint-python lint-yaml lint-workflows lint-dockerfiles lint-k8s audit secrets coverage
.PHONY: data-validation model-gate model-gate-comment model-list model-training
.PHONY: deploy-staging deploy-production smoke sbom image-scan push-images
.PHONY: compose-env build-images compose-up compose-test bench-compose compose-demo compose-verify compose-down backup restore

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

up: setup ## Set up, start everything, train, gate, promote, serve
	@$(BIN)/greenroom up

down: ## Stop everything; stored data stays
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

lint: lint-python lint-settings lint-yaml lint-workflows lint-dockerfiles lint-k8s ## Every linter
	@echo "All linters are content."

lint-python: setup-dev ## ruff, mypy (strict), import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lint-settings: setup-dev ## docs/settings.md matches the settings classes
	@$(BIN)/python -m infra.ci.settings_page --check

settings-docs: setup-dev ## Write docs/settings.md from the settings classes
	@$(BIN)/python -m infra.ci.settings_page

lint-yaml: setup-dev ## yamllint
	@$(BIN)/yamllint --strict .

lint-workflows: setup-dev ## actionlint's and zizmor's checks of .github
	@$(BIN)/jactionlint --shellcheck= --pyflakes=
	@$(BIN)/zizmor --offline --no-progress --quiet .github

lint-dockerfiles: setup-dev ## hadolint
	@$(if $(wildcard Dockerfile*),$(BIN)/hadolint --config .hadolint.yaml $(wildcard Dockerfile*),echo "There is no Dockerfile to check.")

audit: setup-dev ## Known vulnerabilities of every pinned package; needs pypi.org
	@code=0; for file in $(AUDITED); do echo "$$file"; $(BIN)/pip-audit --strict --require-hashes --disable-pip \
	  --progress-spinner off $(addprefix --ignore-vuln ,$(ACCEPTED)) -r "$$file" || code=1; done; exit $$code

secrets: setup-dev ## Refuse a secret in a file that git has or would take
	@set -o pipefail; code=0; $(LISTED) -- . ':!tests' $(NOT_SCANNED) | $(SECRETS_HOOK) || code=1; \
	$(LISTED) -- tests $(NOT_SCANNED) | $(SECRETS_HOOK) $(IN_TESTS) || code=1; exit $$code

coverage: setup-dev ## Every test, with the share of lines that they run; below the floor it fails
	@$(PYTEST) --cov --cov-report=xml --cov-report=term:skip-covered

data-validation: setup-dev ## Contract and DeepChecks on the data, without training (MODELS="…" DATASET=sha256:…)
	@$(BIN)/greenroom check-data --report data-validation $${DATASET:+--dataset "$$DATASET"} -- $$MODELS

model-gate: setup-dev ## Train and gate this checkout, write the report to model-gate.md (MODELS="…" BASE=revision)
	@$(BIN)/python -m infra.ci.model_gate $${BASE:+--base "$$BASE"} -- $$MODELS

model-gate-comment: setup-dev ## Post that report on a pull request (in CI)
	@$(BIN)/python -m infra.ci.pr_comment

model-list: setup-dev ## The models as JSON (MODELS="…": only those)
	@$(BIN)/python -m infra.ci.model_list -- $$MODELS

model-training: setup-dev ## Train, gate, report; PROMOTE=true: promote (MODEL=… DATASET=sha256:…)
	@$(BIN)/python -m infra.ci.model_gate $${DATASET:+--dataset "$$DATASET"} \
	  $$(test "$$PROMOTE" != true || echo --promote) -- $$MODEL

deploy-staging: setup ## Promote to Staging, run the file, archive the version if it fails (MODEL= VERSION= REASON=)
	@$(BIN)/python -m infra.ci.deploy staging

deploy-production: setup ## Promote to Production, ask the predictors, roll back if one fails (MODEL= VERSION= REASON=)
	@$(BIN)/python -m infra.ci.deploy production

smoke: setup ## Ask the predictors for the version in Production (MODEL=…)
	@$(BIN)/python -m infra.ci.deploy smoke

# The build stages of the images have this tool. In .venv its URL parser would slow every start.
.venv-build: setup-dev infra/requirements/build.txt
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $@
	@VIRTUAL_ENV=$@ $(BIN)/uv pip sync --quiet --require-hashes infra/requirements/build.txt

sbom: .venv-build ## CycloneDX lists of the pinned packages, and of existing images, in dist/sbom
	@mkdir -p dist/sbom
	@for set in serving flows checks; do \
	  .venv-build/bin/cyclonedx-py requirements infra/requirements/$$set.txt --output-reproducible --of JSON \
	    -o dist/sbom/greenroom-$$set.cdx.json && echo "dist/sbom/greenroom-$$set.cdx.json" || exit 1; done
	@for image in greenroom-flows greenroom-serving; do \
	  docker image inspect $$image >/dev/null 2>&1 || { echo "No image $$image here: only what its requirements say."; continue; }; \
	  docker run --rm --entrypoint cat $$image /opt/greenroom/sbom.cdx.json > dist/sbom/$$image-image.cdx.json \
	    && echo "dist/sbom/$$image-image.cdx.json" || exit 1; done

image-scan: ## Known vulnerabilities, with a fix, of the two images
	@command -v docker >/dev/null || { echo "There is no docker here, and the scanner is an image."; exit 1; }
	@for image in greenroom-flows greenroom-serving; do echo "$$image"; \
	  docker run --rm -v /var/run/docker.sock:/var/run/docker.sock -v greenroom-grype:/.cache \
	    -e XDG_CACHE_HOME=/.cache $(GRYPE_IMAGE) docker:$$image --only-fixed --fail-on high || exit 1; done

push-images: setup-dev ## Push the two images (IMAGE_REPOSITORY= IMAGE_TAG=)
	@$(BIN)/python -m infra.ci.images

lint-k8s: setup-dev ## The Kubernetes manifests: yamllint, schemas, house rules
	@$(BIN)/yamllint --strict -c infra/k8s/.yamllint.yaml infra/k8s
	@$(BIN)/python -m infra.k8s.lint

format: setup-dev ## Format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup-dev ## Measure the main job; prints the table of docs/benchmarks.md
	@$(BIN)/python -m bench

bench-registry: setup-dev ## Measure the cost of the guard in MLflow's server
	@$(BIN)/python -m bench.registry

bench-serving: setup-dev ## Measure the predictor beside its peers, about 12 minutes (QUICK=1: 2)
	@$(BIN)/python -m bench.serving $(if $(QUICK),--quick)

bench-soak: setup-dev ## Load the predictor for 6 minutes through swaps and outages (SOAK_SECONDS=N: longer)
	@$(BIN)/python -m bench.serving.soak $(if $(SOAK_SECONDS),--seconds $(SOAK_SECONDS))

.PHONY: bench-quality
bench-quality: setup-dev ## Measure each model beside a baseline and a default forest on five splits (SEARCH=trials)
	@$(BIN)/python -m bench.quality $(if $(SEARCH),--search $(SEARCH))

.PHONY: bench-drift
bench-drift: setup-dev ## Measure false alarms of monitoring, and which shifts it detects (WINDOWS=N of each kind and split)
	@$(BIN)/python -m bench.drift $(if $(WINDOWS),--windows $(WINDOWS))

.PHONY: mlflow-suites
mlflow-suites: setup-dev ## Run MLflow's own tests of its registry, plain and against the guard (TREE=folder of MLflow's source)
	@$(BIN)/python -m bench.mlflow_suites "$(TREE)"

.PHONY: attack
attack: setup-dev ## Attack a stack of its own in every way that is known (KINDS="routes|SQL, rows", SHARE=0.1)
	@$(BIN)/python -m bench.attack $(if $(KINDS),--kinds "$(KINDS)") $(if $(SHARE),--share $(SHARE))

.PHONY: kill-train
kill-train: setup-dev ## Kill a training at random moments and run it again, each time (KILLS=20, SEED=7)
	@KILL_TRAIN=$(or $(KILLS),20) KILL_SEED=$(or $(SEED),7) $(BIN)/pytest -s tests/flows/training/test_resume.py -k many $(ARGS)

.PHONY: bench-score kill-score
bench-score: setup-dev ## Measure batch scoring of 10 million rows beside MLflow and scikit-learn (ROWS=N)
	@$(BIN)/python -m bench.score $(if $(ROWS),--rows $(ROWS))

.PHONY: bench-ingest
bench-ingest: setup-dev ## Measure memory and speed of a training's validation
	@$(BIN)/python -m bench.ingest

kill-score: setup-dev ## Kill `greenroom score` at random points and run it again (KILLS=20, SEED=7)
	@SCORE_KILLS=$(or $(KILLS),20) SCORE_KILL_SEED=$(or $(SEED),7) \
	  $(BIN)/pytest -s --timeout 3600 tests/flows/scoring/test_flow.py -k killed $(ARGS)

lock: setup-dev ## Resolve the pinned, hashed requirements again
	@$(BIN)/python infra/lock.py

clean: down ## Remove the environments and all state of the local stack
	@rm -rf .venv .venv-checks .venv-build .greenroom

# --- Containers. Docker with Compose 2, or 1.29. ---
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
export REVISION

compose-env: ## Write .env from .env.example, with random secrets; existing values stay
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
	@COMPOSE_TEST=1 $(BIN)/pytest tests/infra/containers/test_compose.py $(ARGS)

bench-compose: ## Measure the stack in containers: image sizes, start times, memory (it must have been up)
	@COMPOSE="$(COMPOSE)" $(PYTHON) -m bench.compose
