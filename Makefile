# `make run` shows the main job on any machine, `make test` runs the tests; both set up what they need.
# `make release` builds everything that is published into dist/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' xilinx_fpga_dp/__init__.py)
# The image's name stands in the chart; the program that builds it may be buildah, podman or docker.
IMAGE ?= $(shell sed -n 's/^  repository: //p' deploy/helm/xilinx-fpga-dp/values.yaml):$(VERSION)
BUILDER ?= buildah
DIST ?= dist
WORKERS ?= 6
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal

.PHONY: run test test-fast test-service coverage picture e2e cluster test-deploy check format bench faults faults-all soak fuzz protos docs lock image image-name version release dist manifests clean

run: $(VENV)/.run
	$(BIN)/python -m xilinx_fpga_dp simulate $(ARGS)

# Unit and service tests. Several at a time, since most of them wait; ARGS=-n0 for one after the other, as a
# debugger needs it.
test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

# Unit tests alone, with fewer examples of each property: feedback in a minute.
test-fast: $(VENV)/.dev
	HYPOTHESIS_PROFILE=fast $(PYTEST) tests/unit $(ARGS)

test-service: $(VENV)/.dev
	$(PYTEST) tests/service tests/deploy $(ARGS)

# The same tests as `test`, with the branches they take; but for those of the start, which coverage slows down, and
# of the loaded modules, to which it adds its own.
coverage: $(VENV)/.dev
	$(PYTEST) --cov --cov-report=term --cov-report=html --deselect tests/service/test_process.py \
	    --deselect tests/service/test_signals.py::test_signal_during_start_takes_effect $(ARGS)

# With a real kubelet, built on first use: KUBERNETES=1.Y for another than the newest. Needs root.
e2e: $(VENV)/.dev
	KUBERNETES=$(KUBERNETES) $(BIN)/python -m pytest tests/e2e --ignore=tests/e2e/cluster \
	    --log-cli-level=INFO $(ARGS)

# A whole cluster of one node, built on first use; EMULATED_VERSION=1.Y for an older stage of its API, KUBELET=1.Y for an
# older kubelet. With ARGS=--hold no test runs: the cluster stays, with a kubeconfig, until Ctrl-C. Needs root.
cluster: $(VENV)/.dev
	KUBERNETES=$(KUBERNETES) KUBELET=$(KUBELET) EMULATED_VERSION=$(EMULATED_VERSION) $(BIN)/python -m \
	    $(if $(findstring --hold,$(ARGS)),tests.e2e.cluster,pytest tests/e2e/cluster --log-cli-level=INFO) $(ARGS)

# The chart, kustomize and the alert rules through their own tools, built on first use.
test-deploy: $(VENV)/.dev
	$(BIN)/python -m pytest tests/deploy/rendered $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	sh protos/generate.sh $(BIN)/python check
	$(BIN)/python docs/tools/settings.py check
	$(BIN)/python docs/tools/boards.py check
	$(BIN)/python docs/tools/attributes.py check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

# Each fault once, a sample of pairs, and the DRA driver; SEED for another sample. See docs/development/faults.md.
faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults each $(SEEDED)
	$(BIN)/python -m tests.faults pairs --sample 40 $(SEEDED)
	$(BIN)/python -m tests.faults soak --minutes 0.4 $(SEEDED)
	$(BIN)/python -m tests.faults.drivers $(if $(SEED),--seed $(SEED))

faults-all: $(VENV)/.dev
	$(BIN)/python -m tests.faults each --long $(SEEDED)
	$(BIN)/python -m tests.faults pairs --long $(SEEDED)

soak: $(VENV)/.dev
	$(BIN)/python -m tests.faults soak --minutes $(or $(MINUTES),10) $(SEEDED)
SEEDED = $(if $(SEED),--seed $(SEED)) $(ARGS)

# Every parser of text and bytes with coverage-guided input: SECONDS for each target.
fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

# Regenerate the committed stubs from protos/.
protos: $(VENV)/.dev
	sh protos/generate.sh $(BIN)/python write

# Regenerate the committed pages of settings, boards and attributes.
docs: $(VENV)/.dev
	$(BIN)/python docs/tools/settings.py write
	$(BIN)/python docs/tools/boards.py write
	$(BIN)/python docs/tools/attributes.py write

# The picture of the README, recorded from a run of `simulate`.
picture: $(VENV)/.dev
	$(BIN)/python docs/tools/picture.py

# For this machine's architecture. BASE=... for another base, IMAGE_ARGS=... for the builder's own options.
image:
	$(BUILDER) build --file Containerfile --build-arg VERSION=$(VERSION) \
	    $(if $(BASE),--build-arg BASE=$(BASE)) --tag $(IMAGE) $(IMAGE_ARGS) .

version:
	@echo $(VERSION)

image-name:
	@echo $(IMAGE)

# Wheel, sdist, chart, image, its bill of materials and checksums of one version, into dist/.
# BUILDER may be buildah or podman; SUFFIX distinguishes the images of several architectures.
release: dist
	@command -v $(firstword $(BUILDER)) >/dev/null || { $(NO_IMAGE) "$(firstword $(BUILDER)) is not installed"; }
	@$(MAKE) image || { $(NO_IMAGE) "it can't be built here (it takes root or user namespaces, BASE and a package index)"; }
	$(BUILDER) push --quiet $(IMAGE) oci-archive:$(ARCHIVE):$(IMAGE)
	SYFT_CHECK_FOR_APP_UPDATE=false SYFT_FILE_METADATA_SELECTION=none \
	"$$($(TOOLS) syft)" scan --quiet --source-name $(IMAGE) \
	    --output cyclonedx-json=$(ARCHIVE:.tar=.cdx.json) oci-archive:$(ARCHIVE)
	cd $(DIST) && sha256sum xilinx* >SHA256SUMS$(SUFFIX)
ARCHIVE = $(DIST)/xilinx-fpga-dp-$(VERSION)-image$(SUFFIX).tar
NO_IMAGE = fail() { echo "$(DIST)/ has wheel, sdist and chart, but NO IMAGE: $$1" >&2; exit 1; }; fail

# The part of a release that needs neither root nor a registry.
dist: $(VENV)/.dev
	rm -rf $(DIST)
	$(BIN)/python -m hatchling build --directory $(DIST)
	"$$($(TOOLS) helm)" package --destination $(DIST) --version $(VERSION) --app-version $(VERSION) \
	    deploy/helm/xilinx-fpga-dp
TOOLS = $(BIN)/python -m tests.deploy.tools

# The static manifest and kustomize's are made from the chart.
manifests: $(VENV)/.dev
	sh deploy/generate.sh "$$($(TOOLS) helm)" write

# Resolve the dependencies of pyproject.toml again. Hashes and no addresses, so any index works.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet uv
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) pyproject.toml -o requirements.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group dev pyproject.toml -o requirements-dev.txt
	cd . && $(VENV)-lock/bin/uv pip compile -q $(LOCK) --group build -o requirements-build.txt
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
