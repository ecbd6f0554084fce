# `make demo` and `make test` set up all they need; the rest is for working day by day. `make` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV := scripts/uv
RUN := $(UV) run --no-sync
WORKERS ?= auto
PYTEST := $(RUN) pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal

# A stamp lies in the environment it speaks of: without the one there is not the other.
DEV := .venv/.ready-dev
DEMO := .venv/.ready-demo
INPUTS := pyproject.toml uv.lock .python-version

$(DEV): $(INPUTS)
	@echo "==> setting up .venv (quick the second time)"
	$(UV) sync --locked --inexact
	@touch $@

$(DEMO): $(INPUTS)
	@echo "==> setting up .venv for the demo (quick the second time)"
	$(UV) sync --locked --inexact --no-default-groups --extra demo
	@touch $@

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(DEMO)  ## real flights: definitions, a training set, a model, online reads that equal the training rows
	$(RUN) python definitions/demo.py

.PHONY: test
test: $(DEV) services java-test  ## every test, against a real Redis, PostgreSQL, Kafka and Flink
	$(PYTEST)

.PHONY: java-test
java-test: services  ## the tests of the functions that Flink calls, where Java is
	@if command -v javac >/dev/null && command -v mvn >/dev/null; then $(MAKE) -C streaming test; fi

.PHONY: setup
setup: $(DEV)  ## the environment of a developer, in .venv

.PHONY: services
services:  ## Redis, PostgreSQL, Java, Flink and Kafka for the tests, through apt-get when root
	@scripts/services

.PHONY: check
check: static fast  ## before every commit: format, lint, types, fast tests

.PHONY: static
static: $(DEV)  ## format, lint and types, changing nothing
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

.PHONY: format
format: $(DEV)  ## rewrites files: layout, order of imports, what lint can mend
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

.PHONY: lint
lint: $(DEV)  ## ruff alone
	$(RUN) ruff check .

.PHONY: types
types: $(DEV)  ## mypy alone
	$(RUN) mypy

.PHONY: fast
fast: $(DEV)  ## the tests that are not marked slow
	$(RUN) pytest -n 2 -m "not slow"

.PHONY: bench
bench: $(DEV)  ## the benchmarks, or one: make bench NAME=training
	@for script in benchmarks/$(or $(NAME),[a-z]*).py; do echo "==> $$script"; $(RUN) python "$$script"; done

.PHONY: clean
clean:  ## removes environments and caches; data beside definitions (.fs) stays
	rm -rf .venv .venv-uv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
