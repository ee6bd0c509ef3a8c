# `make plane` shows the method in a minute where the truth is known, `make digits` runs the main job, `make test`
# the tests; each sets itself up in .venv on the first call.
PYTHON ?= python3
BIN := .venv/bin
# Each process of the tests computes with one thread, and makes a network of its own for tests on several hosts.
# Bytecode is kept: compiling the tests takes each process 13 s.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q
PROCESSES ?= 2
SPREAD := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder --ignore=tests/cluster

.PHONY: plane digits test test-fast test-slow test-cluster lint site gpu clean

plane: .venv/digits
	$(BIN)/python workflows/plane.py run --root runs/plane

digits: .venv/digits
	$(BIN)/python workflows/digits.py run --root runs/digits

test: .venv/dev
	$(PYTEST) $(SPREAD) -m "not slow"

# While editing: no Ray, no smoke run.
test-fast: .venv/dev
	$(PYTEST) $(SPREAD) -m "not slow and not ray and not smoke"

test-slow: .venv/dev
	$(PYTEST) $(SPREAD) -m slow

# Hosts as network namespaces: wants root and iproute2.
test-cluster: .venv/dev
	$(PYTEST) -n $(PROCESSES) --dist loadfile --no-loadscope-reorder tests/cluster

# What a first hour on a GPU has to tell; with the interpreter of .venv where there is one, else $(PYTHON).
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --json gpu.json

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The pages of docs/ in site/, which open without a server. A broken link or an unknown name is an error.
site: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# The stamps are as new as the last complete installation of what pyproject.toml and constraints.txt ask for.
.venv/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dgflow needs Python >= 3.11: name one, as in make PYTHON=python3.12 digits")'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/digits: EXTRAS = run,digits,dit
.venv/dev: EXTRAS = dev
.venv/digits .venv/dev: .venv/python pyproject.toml constraints.txt
	@echo "installing dgflow[$(EXTRAS)] with the versions of constraints.txt into .venv: some 7 GB, 3 to 8 minutes, in which pip prints nothing"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf .venv
