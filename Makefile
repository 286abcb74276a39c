# The two that matter: `make up` and `make test`. Both set up what they need.
SHELL := /bin/sh
STACK ?= $(or $(LETTA_OPS_STACK),local)
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	$$name -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' 2>/dev/null && \
	echo $$name && break; done)
# Whatever the user's own settings of uv say.
export UV_PROJECT_ENVIRONMENT := .venv
# Without bytecode each command compiles what it imports: twice the time (measured).
export PYTHONDONTWRITEBYTECODE :=
# So many files at a time, each with stacks of its own; the tests of one file follow each other. On
# containers more of the time is waiting.
TOGETHER = --numprocesses 2 --dist loadfile --durations 10
THREE_TOGETHER = --numprocesses 3 --dist loadfile --durations 10
FAST = $(PYTEST) --numprocesses 2 --dist worksteal --durations 10
PYTEST = .venv/bin/python -m pytest
# The same tests run on stacks of each target. The base of the images is what `make engine` makes.
# What stands above the port of targets is proven by `make test` once: on `local`.
ON_LOCAL = LETTA_OPS_TEST_TARGET=local $(PYTEST) $(TOGETHER) tests/live
ON_DOCKER = LETTA_OPS_TEST_TARGET=docker \
	LETTA_OPS_TEST_BASE="$${LETTA_OPS_TEST_BASE:-letta-ops-base:trixie}" \
	$(PYTEST) $(THREE_TOGETHER) tests/live
ONCE = LETTA_OPS_TEST_MATRIX=once
# The file that says whether there is an engine for the tests: `ready` or `left-out`.
ENGINE = .venv/engine
TIER = @tools/tier

.PHONY: help up down begin test test-all test-unit test-contract test-live test-live-local \
	test-live-docker test-clients engine lint format bench setup
.NOTPARALLEL:

help:  ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s'|' 2>/dev/null || \
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1   \2/p' Makefile

up: setup  ## provision the stack on this machine and smoke-test it
	@.venv/bin/letta-ops --stack $(STACK) up

down: setup  ## stop the stack; its data stays
	@.venv/bin/letta-ops --stack $(STACK) destroy --yes

test: begin  ## what CI runs: half an hour on 2 cores
	$(TIER) setup-and-lint $(MAKE) --no-print-directory lint engine
	$(TIER) unit-repo-contract $(FAST) tests/unit tests/repo tests/contract
	$(TIER) live-local env $(ON_LOCAL)
	$(TIER) live-docker sh -c '$(call docker-tests,$(ONCE) $(ON_DOCKER))'
	$(TIER)

# A tier that fails doesn't keep the others from being run: an hour of them may be left.
test-all: export TIERS_GO_ON = 1
test-all: begin  ## every test on each target, and what takes minutes each
	$(TIER) setup-and-lint $(MAKE) --no-print-directory lint engine
	$(TIER) unit-repo-contract $(FAST) tests/unit tests/repo tests/contract -m "long or not long"
	$(TIER) live-local env $(ON_LOCAL) -m "long or not long"
	$(TIER) live-docker sh -c '$(call docker-tests,$(ON_DOCKER) -m "long or not long")'
	$(TIER)

begin: setup
	@rm -f .venv/tiers

test-unit: setup  ## the fast tests
	$(FAST) tests/unit tests/repo

test-contract: setup  ## the tests of our stand-ins and ports
	$(PYTEST) tests/contract

test-live: test-live-local test-live-docker  ## the tests on real stacks, of each target

test-live-local: setup  ## those on processes of this machine
	$(ON_LOCAL)

test-live-docker: setup engine  ## those on containers
	@$(call docker-tests,$(ON_DOCKER))

test-clients: setup  ## the release's own tests of its SDK, on a stack of their own
	$(ON_LOCAL)/test_release_clients.py -m long

engine: setup  ## see to a Docker engine for the tests: as root on Debian it is installed
	@$(PYTHON) tools/docker_engine.py ensure >$(ENGINE)

# Without an engine the tests on containers are left out; `make engine` has said why.
define docker-tests
if [ "$$(cat $(ENGINE))" = ready ]; then \
	set -x; $(1); \
else \
	echo "LEFT OUT: the tests on containers; for why, see above or run: make engine" >&2; \
fi
endef

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
		"$$uv" sync --frozen --quiet --compile-bytecode --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@cp tools/pulumi/pulumi .venv/bin/pulumi && chmod 755 .venv/bin/pulumi
	@touch .venv/ready
