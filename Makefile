# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs in .venv, from the lock.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help venv docs docs-serve demo run test soak chaos conformance fuzz check fix bench lock clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## set up .venv from the lock

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed: install it, or say where: make PYTHON=/path/to/python3 venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Setting up .venv (once; a minute or so) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable . \
		2>.venv/install.log || { cat .venv/install.log; exit 1; }
	@touch $@

demo: $(READY) ## train a model through a relay, on real data, with four sites as processes
	@$(BIN)/starfish-relay demo

run: $(READY) ## serve on http://127.0.0.1:8000, with SQLite in ./data
	@$(BIN)/starfish-relay serve

test: $(READY) ## the test suite, on SQLite and on PostgreSQL (which it brings along)
	@$(BIN)/python -m pytest -n 3 --dist loadfile

soak: $(READY) ## the long runs: hundreds of kills, hours of load
	@$(BIN)/python -m pytest -m soak -s

chaos: $(READY) ## ten sites, 100,000 messages, and all that can break; again with SEED=N
	@$(BIN)/python -m pytest tests/chaos -m chaos -s $(if $(SEED),--seed $(SEED))

conformance: $(READY) ## Autobahn's cases for WebSocket servers, all of them (docs/conformance.md)
	@$(BIN)/python -m pytest tests/conformance/test_autobahn.py -m soak -s

fuzz: $(READY) ## what is read from outside, for BUDGET=600 seconds in all, or one TARGET of tests/fuzz/targets.py
	@$(BIN)/python -m tests.fuzz --budget $(or $(BUDGET),600) $(TARGET)

check: $(READY) ## format, lint, types, import contracts, known vulnerabilities of what the server installs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.audit

fix: $(READY) ## format, and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(READY) ## the documentation as a site, in build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "build/docs/index.html"

docs-serve: $(READY) ## the same, on http://127.0.0.1:8001, made anew whenever a page changes
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8001

bench: $(READY) ## the benchmarks, each with a peer beside it
	@$(BIN)/python -m benchmarks

lock: $(READY) ## resolve the dependencies anew, into requirements.lock and, for the image, requirements-server.lock
	@$(PYTHON) -m venv .venv/lock && .venv/lock/bin/pip install --quiet uv
	@.venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --all-extras --group dev --group docs pyproject.toml -o requirements.lock
	@.venv/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --extra server --constraint requirements.lock pyproject.toml -o requirements-server.lock

clean: ## remove what was built; ./data is kept
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
