# `make run` shows the main job on any machine, `make test` runs all tests; both set up what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
GENERATED := xilinx_fpga_dp/kubelet

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' xilinx_fpga_dp/__init__.py)
# The image's name stands in the chart; the program that builds it may be buildah, podman or docker.
IMAGE ?= $(shell sed -n 's/^  repository: //p' deploy/helm/xilinx-fpga-dp/values.yaml):$(VERSION)
BUILDER ?= buildah

.PHONY: run test e2e test-deploy check format bench protos lock image manifests clean

run: $(VENV)/.run
	$(BIN)/python -m xilinx_fpga_dp simulate $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# With a real kubelet, which is built at first: KUBERNETES=1.Y for another than the newest. Needs root.
e2e: $(VENV)/.dev
	KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/kubelet --log-cli-level=INFO $(ARGS)

# The chart, kustomize and the alert rules through their own tools, which are built at first.
test-deploy: $(VENV)/.dev
	$(BIN)/python -m pytest tests/deploy/rendered $(ARGS)

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

# The stubs are committed; this makes them anew from protos/.
protos: $(VENV)/.dev
	sh protos/generate.sh $(BIN)/python write

# For this machine's architecture. BASE=... for another base, IMAGE_ARGS=... for the builder's own options.
image:
	$(BUILDER) build --file Containerfile --build-arg VERSION=$(VERSION) \
	    $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(IMAGE) $(IMAGE_ARGS) .

# The static manifest and kustomize's are made from the chart.
manifests: $(VENV)/.dev
	sh deploy/generate.sh "$$($(BIN)/python -m tests.deploy.tools helm)" write

# Resolves the dependencies of pyproject.toml anew. Hashes and no addresses, so any index will do.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) pyproject.toml -o requirements.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group dev pyproject.toml -o requirements-dev.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group build -o requirements-build.txt
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
