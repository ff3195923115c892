# `make run` shows the main job on any machine, `make test` runs all tests; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
GENERATED := xilinx_fpga_dp/kubelet

.PHONY: run test e2e check format bench faults faults-all soak fuzz protos lock clean

run: $(VENV)/.run
	$(BIN)/python -m xilinx_fpga_dp simulate $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# With a real kubelet, which is built at first: KUBERNETES=1.Y for another than the newest. Needs root.
e2e: $(VENV)/.dev
	KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/kubelet --log-cli-level=INFO $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	sh protos/generate.sh $(BIN)/python check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

# Everything goes wrong once, and some of it two at a time; SEED for another sample. docs/faults.md says more.
faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults each $(SEEDED)
	$(BIN)/python -m tests.faults pairs --sample 40 $(SEEDED)
	$(BIN)/python -m tests.faults soak --minutes 0.4 $(SEEDED)

faults-all: $(VENV)/.dev
	$(BIN)/python -m tests.faults each --long $(SEEDED)
	$(BIN)/python -m tests.faults pairs $(SEEDED)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults soak --minutes $(or $(MINUTES),10) $(SEEDED)
SEEDED = $(if $(SEED),--seed $(SEED)) $(ARGS)

# What reads text and bytes, with input that coverage leads: SECONDS for each target.
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.faults.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

# The stubs are committed; this makes them anew from protos/.
protos: $(VENV)/.dev
	sh protos/generate.sh $(BIN)/python write

# Resolves the dependencies of pyproject.toml anew. Hashes and no addresses, so any index will do.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) pyproject.toml -o requirements.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group dev pyproject.toml -o requirements-dev.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group fuzz pyproject.toml -o requirements-fuzz.txt
	rm -rf $(VENV)-lock
LOCK := --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(PIP) --require-hashes -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements-dev.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@ $(VENV)/.run

$(VENV)/.fuzz: requirements-fuzz.txt $(VENV)/.dev
	$(PIP) --require-hashes -r requirements-fuzz.txt
	touch $@
