# `make demo` and `make test` need nothing but Python 3.11 or newer and a network with a package index.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
RUN := $(BIN)/python -m
# The theme warns of MkDocs 2 at every call; constraints.txt keeps to 1.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs

# Otherwise every process that a test or a run starts compiles PyTorch's sources again, which takes longer than its import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-full test-gpu lint setup system docs format constraints dist clean

demo: .venv/demo
	$(BIN)/fedlens run config.yaml

test: lint
	$(RUN) pytest -m "not slow and not gpu and not full" -n 2 --dist worksteal

# Three workers on two cores: many of these tests wait.
test-slow: setup system
	$(RUN) pytest -m slow -n 3 --dist loadfile --no-loadscope-reorder
	$(MKDOCS) build --strict --quiet --site-dir .venv/site

# What takes too long for every change: many random inputs, and tests marked "full". Run by hand.
test-full: setup
	$(RUN) pytest -m "full or fuzz" -n 2 --dist worksteal --hypothesis-profile=full --timeout 3600

# On a machine with a GPU; everywhere else all of it is skipped.
test-gpu: setup
	$(RUN) pytest -m gpu

lint: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(BIN)/lint-imports

format: setup
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

docs: setup
	$(MKDOCS) serve

# A virtual environment in the clone, at the pinned versions; made again when the project's requirements change.
# TORCH=cpu installs PyTorch without CUDA, from PyTorch's own package index.
setup: .venv/installed
TORCH ?=
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt $(if $(TORCH),--torch-backend=$(TORCH))

# What an experiment needs.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "FedLens needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(UV) || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
	$(INSTALL) --editable .
	touch $@

# And what the tests, the checks and the manual need beside it.
.venv/installed: .venv/demo
	$(INSTALL) --editable '.[solar,textile,ray,lora,privacy,export,tune,why,text,clip,mlflow,wandb]' --group dev
	touch $@

# What the slow tests need from the system: a browser for the reports. Left alone where it is there already.
system:
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  SUDO=$$( [ "$$(id -u)" = 0 ] || echo sudo ); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends chromium >/dev/null; }

# Pins for everything that FedLens and its extras need: versions only.
constraints: setup
	$(UV) pip compile pyproject.toml constraints.in --all-extras --group dev --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url --output-file constraints.txt

# The wheel and the source archive, in dist/; the wheel is built from the archive, so both are complete.
dist: setup
	rm -rf dist
	$(UV) build --quiet --build-constraint constraints.txt

clean:
	rm -rf .venv logs site dist
