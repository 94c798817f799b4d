# Two commands are enough: make run, make test. The rest is for those who stay.
SHELL := bash
PY := .venv/bin/python
ARGS ?=
# test processes: two share the import of torch well; more only pays on more cores
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help run test check serve compare format clean venv

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo '  flags pass through ARGS: make compare ARGS="--tasks review_easy --episodes 200"'

run: venv ## train and compare in miniature: warm start, GRPO, the table (on a GPU: the GPU preset)
	$(PY) -m training.demo $(ARGS)

test: venv ## every test this machine can run; what was skipped is listed with its reason
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -rs $(ARGS)

check: venv ## lint, format, types, import layers and the fast tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -q -m "not slow" $(ARGS)

serve: venv ## the environment server on port 7860
	$(PY) -m env_server.app --port 7860 $(ARGS)

compare: venv ## every agent on the same patients, with intervals
	$(PY) -m eval.compare $(ARGS)

format: venv ## rewrite the code as ruff wants it
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove caches and .venv; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build

venv: ## build .venv, or do nothing where it is up to date
	@scripts/bootstrap
