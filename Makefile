# Daybook from a clone: `make run`, `make test`. Needs python3 (3.11 or newer) and make; everything else comes from PyPI.

PORT ?= 8000
DATA ?= data
SIZE ?= 1
# Tests wait for servers more than they work: two processes of them keep two cores busy.
WORKERS ?= 2
ROOMS := domain commands write_api read_api streams projections infra
export PORT DATA
# The machine's own python, never one fetched from elsewhere.
export UV_PYTHON_PREFERENCE ?= only-system
# Without kept bytecode each process of Daybook compiles all that it imports: 3 s of a core a start.
unexport PYTHONDONTWRITEBYTECODE

SYSTEM_UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)
UV := $(or $(SYSTEM_UV),$(CURDIR)/.uv/bin/uv)
NEED_UV := $(if $(SYSTEM_UV),,.uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help run test lint types fmt bench audit

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(NEED_UV) ## start everything on http://127.0.0.1:8000 (PORT=, DATA= change it); Ctrl-C stops it
	@exec $(UV) run --quiet --frozen --no-dev daybook serve

test: lint types ## lint, types, rooms, and every test, in WORKERS= processes
	$(UV) run --frozen pytest --numprocesses $(WORKERS) --dist loadscope

lint: $(NEED_UV) ## style, insecure code, and which room may import which
	$(UV) run --frozen ruff check .
	$(UV) run --frozen ruff format --check .
	$(UV) run --frozen bandit --quiet --configfile pyproject.toml --recursive $(ROOMS)
	$(UV) run --frozen lint-imports --no-logo

audit: $(NEED_UV) ## known vulnerabilities of what is in uv.lock, where they can be asked for
	$(UV) run --frozen python .ci/audit

types: $(NEED_UV) ## mypy, strict
	$(UV) run --frozen mypy

fmt: $(NEED_UV) ## put files into shape
	$(UV) run --frozen ruff check --fix .
	$(UV) run --frozen ruff format .

bench: $(NEED_UV) ## measure the figures of docs/benchmarks.md (SIZE=0.02 for a quick look)
	$(UV) run --frozen daybook bench all --size $(SIZE)

# uv from PyPI, in a folder of its own, where the machine has none.
.uv/bin/uv:
	@command -v python3 >/dev/null || { echo "Daybook needs python3, 3.11 or newer: install it (Debian: apt-get install python3 python3-venv)." >&2; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Daybook needs python3 3.11 or newer; this is $$(python3 -V)." >&2; exit 1; }
	@python3 -c 'import venv, ensurepip' 2>/dev/null || python3 -m pip --version >/dev/null 2>&1 || { echo "python3 lacks venv: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@echo "Fetching uv from PyPI into .uv …"
	@if python3 -c 'import ensurepip' 2>/dev/null; then python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'; \
	else python3 -m venv --without-pip .uv && python3 -m pip --python .uv/bin/python install --quiet --disable-pip-version-check 'uv>=0.9'; fi \
	|| { rm -rf .uv; echo "uv could not be fetched; is PyPI reachable?" >&2; exit 1; }
