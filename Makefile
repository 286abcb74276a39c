# The two that matter: `make up` and `make test`. Both set up what they need.
SHELL := /bin/sh
STACK ?= $(or $(LETTA_OPS_STACK),local)
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && \
	echo $$name && break; done)
# Whatever the user's own settings of uv say.
export UV_PROJECT_ENVIRONMENT := .venv
# Live tests mostly wait: two files at a time, each with stacks of its own.
TOGETHER = --numprocesses 2 --dist loadfile
PYTEST = .venv/bin/python -m pytest

.PHONY: help up down test test-unit test-contract test-live test-long lint format bench setup

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s'|' 2>/dev/null || \
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1   \2/p' Makefile

up: setup  ## provision the stack on this machine and smoke-test it
	@.venv/bin/letta-ops --stack $(STACK) up

down: setup  ## stop the stack; its data stays
	@.venv/bin/letta-ops --stack $(STACK) destroy --yes

test: setup lint  ## all tests, about 12 minutes on 2 cores, 15 with nothing cached
	$(PYTEST) tests/unit tests/repo tests/contract
	$(PYTEST) $(TOGETHER) tests/live

test-unit: setup  ## the fast tests
	$(PYTEST) tests/unit tests/repo

test-contract: setup  ## the tests of our stand-ins and ports
	$(PYTEST) tests/contract

test-live: setup  ## the tests on real stacks
	$(PYTEST) $(TOGETHER) tests/live

test-long: setup  ## also what takes minutes each: a real model, many interruptions
	$(PYTEST) tests/unit tests/repo tests/contract
	$(PYTEST) $(TOGETHER) tests/live -m "long or not long"

lint: setup  ## style, types, layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup  ## put the style right
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: setup  ## measure, and print the ratios that README quotes
	.venv/bin/python -m benchmarks

setup: .venv/ready  ## make .venv with everything in uv.lock

.venv/ready: uv.lock pyproject.toml tools/bootstrap_uv.py tools/pulumi/pulumi
	@test -n "$(PYTHON)" || { \
		echo "error: no Python 3.11, 3.12 or 3.13 is on PATH" >&2; \
		echo "  next: install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@uv=$$($(PYTHON) tools/bootstrap_uv.py) && \
		echo "setting up .venv from uv.lock (first time: about 250 MB; later from uv's cache)" >&2 && \
		"$$uv" sync --frozen --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@cp tools/pulumi/pulumi .venv/bin/pulumi && chmod 755 .venv/bin/pulumi
	@touch .venv/ready
