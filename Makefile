# Two commands do everything: `make run` and `make test`. `make help` lists the rest.

# The system's Python before others of the PATH: distributions build it with profile-guided
# optimization, version managers often do not: the event loop then took a fifth more CPU here.
PYTHON ?= $(shell for python in /usr/bin/python3 python3; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help run test check format lock bench bench-lists bench-webhooks bench-reports chaos interop screenshots clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# make run CONFIG=config.yaml: both commands read it, see docs/config-yaml.md.
ifdef CONFIG
export SPEND_CONFIG := $(abspath $(CONFIG))
endif

run: $(VENV)/run.installed  ## Set everything up and serve on port 4000, the Celery worker beside it. CONFIG=config.yaml
	@$(BIN)/python manage.py bootstrap
	@exec $(BIN)/supervisord -c spendproject/supervisord.conf

test: $(VENV)/dev.installed  ## Run the suite: PostgreSQL and Redis where they answer locally, else SQLite.
	$(BIN)/python -m pytest -q $(ARGS)

check: $(VENV)/dev.installed  ## Format, lint, types, imports, migrations.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py makemigrations --check --dry-run
	DJANGO_SETTINGS_MODULE=tests.settings $(BIN)/python manage.py check --deploy --fail-level WARNING

format: $(VENV)/dev.installed  ## Bring the code into form.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.installed  ## Measure throughput and latency beside nginx; writes docs/benchmarks.md.
	$(BIN)/python -m bench $(ARGS)

bench-lists: $(VENV)/dev.installed  ## Measure lists and searches of a million customers. PostgreSQL.
	$(BIN)/python -m bench.lists $(ARGS)

bench-reports: $(VENV)/dev.installed  ## Measure pages and reports with ten million calls; writes docs/benchmarks.md. PostgreSQL.
	$(BIN)/python -m bench.reports $(ARGS)

bench-webhooks: $(VENV)/dev.installed  ## Measure what events cost, and how many a worker delivers.
	$(BIN)/python -m bench.webhooks $(ARGS)

chaos: $(VENV)/dev.installed  ## The long fault tests: aborts, kills, stopped databases. Minutes.
	CHAOS=long $(BIN)/python -m pytest -q tests/chaos $(ARGS)

interop: $(VENV)/dev.installed  ## Run other people's clients (LiteLLM's) against the gateway. Installs them under var/.
	$(BIN)/python -m tests.interop $(ARGS)

lock: $(VENV)/dev.installed  ## Pin the newest versions that pyproject.toml allows, with hashes.
	$(BIN)/pip install -q pip-tools
	$(BIN)/pip-compile -q --upgrade --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe -o requirements/run.txt pyproject.toml
	$(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras --allow-unsafe --extra dev -c requirements/run.txt -o requirements/dev.txt pyproject.toml

clean:  ## Remove the virtual environment and caches. Data in var/ stays.
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed. On Debian: apt install python3-venv; or set PYTHON=…"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/run.installed: requirements/run.txt | $(VENV)/bin/python
	@echo "Installing dependencies (once; about a minute) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/run.txt
	@touch $@

$(VENV)/dev.installed: requirements/dev.txt | $(VENV)/bin/python
	@echo "Installing development dependencies (once) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@ $(VENV)/run.installed

browser: var/browser/axe.min.js  ## Fetch axe-core, with which the tests in a browser check accessibility. Needs npm.

AXE := axe-core@4.14.1
var/browser/axe.min.js:
	@mkdir -p var/browser
	cd var/browser && npm pack --silent $(AXE) && tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js package/LICENSE && rm axe-core-*.tgz && touch axe.min.js

screenshots: $(VENV)/run.installed  ## Take the screenshots of docs/ with headless Chromium.
	$(BIN)/python docs/screenshots.py
