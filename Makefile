# Each command does all its own set-up in .venv; see scripts/setup.sh.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench mutation setup clean requirements

export PYTHONUNBUFFERED := 1
ARGS ?=
INPUT ?=
python := .venv/bin/python

help: ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

demo: ## seal records, shred two keys, show what is gone (INPUT=records.jsonl)
	@scripts/setup.sh runtime
	@.venv/bin/keyvault demo $(if $(INPUT),--input "$(INPUT)")

test: setup ## every test, beside a real Vault and a real PostgreSQL (ARGS="-k name")
	@$(python) -m tests.servers -- $(python) -m tests.parts $(ARGS)

check: setup ## linter, formatter, types, layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup ## benchmarks beside the same servers (ARGS="name")
	@$(python) -m tests.servers --fsync -- $(python) -m bench $(ARGS)

mutation: setup ## change the pure modules bit by bit; list what no test notices
	@scripts/mutation.sh $(ARGS)

setup: ## what development needs, in .venv
	@scripts/setup.sh dev

requirements: ## pin the newest versions that requirements/*.in allow, with hashes
	@scripts/requirements.sh

clean: ## remove all that these commands made here (the Vault build is cached elsewhere)
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis mutants
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
