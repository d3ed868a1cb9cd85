# Everything runs in .venv, made here; engines live in their own environments in the user's cache.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXPORTERS := $(HOME)/.cache/eagle3hub/exporters

WORKFLOWS := $(wildcard .github/workflows/*.yml examples/actions/*-my-head.yml)

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# the many small folders of tests lie in memory where there is plenty, so that none waits for a disk
ROOMY := $(shell [ -w /dev/shm ] && awk '/MemAvailable/ {exit $$2 < 8000000}' /proc/meminfo && echo /dev/shm)
TEMPORARY := $(if $(ROOMY),PYTEST_DEBUG_TEMPROOT=$(ROOMY))
# one more at a time than there are cores, because some tests wait, up to five; who has nothing left to do takes over
PROCESSES := $(shell expr $$(getconf _NPROCESSORS_ONLN || echo 2) + 1)
SPREAD := --numprocesses $(PROCESSES) --maxprocesses 5 --dist worksteal
LIGHT := $(TEMPORARY) $(PYTEST) $(SPREAD)
# two at a time, a file's tests together: a process of each may hold an engine
ENGINES := $(PYTEST) --numprocesses 2 --dist loadfile

# modules are compiled once, not again in each of the many processes that tests start
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-fast pictures test test-all light engines installed lint fast wheel mutants dist locked docs exporters engine-version engine-releases clean

demo: $(READY)  ## release the example head, publish it to a Hub on this machine, and serve what was downloaded
	$(BIN)/eagle3hub demo --output build/demo --force
	$(BIN)/python tests/publishing/publish_demo.py build/demo

demo-fast: $(READY)  ## release the example head without an engine: one layout, measured by the reference
	$(BIN)/eagle3hub demo --fast --output build/demo-fast --force

pictures: demo-fast  ## make the pictures of README.md anew, from what inspect prints and from the demo's card; needs Chromium
	$(BIN)/python docs/pictures.py

test: fast installed  ## before a push: the tests that take little time, those on the real engines included
	$(ENGINES) --fast -m "engine or exporters"

test-all: light engines  ## every test, those on the real engines included; CI runs the two side by side

light: $(READY)  ## the tests that need no engine; they must reach every place that makes an error
	$(LIGHT) --every-error -m "not engine and not exporters"

engines: installed  ## the tests on the real engines, which are installed first
	$(ENGINES) -m "engine or exporters"

# sglang-jax takes minutes to install and to compile: EAGLE3HUB_SGLANG_JAX=1 asks for its tests, which install it
installed: $(READY)  ## the engines, a Slurm and the trainers' libraries that tests run, each in an environment of its own
	$(BIN)/eagle3hub engines install vllm --device cpu
	$(BIN)/eagle3hub engines install llamacpp --device cpu
	$(BIN)/python tests/engines/sglang_cpu/environment.py
	$(BIN)/python tests/support/slurm.py
	$(BIN)/python tests/exporters/environments.py $(EXPORTERS) torch-exporters

# make exporters SPECJAX=/path/to/a/checkout/of/tails-mpt/SpecJAX TORCHSPEC=/path/to/a/checkout/of/lightseekorg/TorchSpec \
#     NEMO=/path/to/a/checkout/of/NVIDIA-NeMo/Automodel
FIXTURES := tests/fixtures/exporters

# make engine-version ENGINE=vllm VERSION=1.2.3 ENGINE_PYTHON=/path/to/the/python/of/an/environment/that/has/it MORE=--pin
engine-version: $(READY)  ## add a version of an engine: its data, interface, probe, tables and pages (CONTRIBUTING.md)
	$(BIN)/python tools/engine_version.py $(ENGINE) $(VERSION) $(if $(ENGINE_PYTHON),--python $(ENGINE_PYTHON)) $(MORE)

engine-releases: $(READY)  ## list the releases of engines that the package index has and the data do not know
	$(BIN)/python tools/engine_releases.py

exporters: $(READY)  ## make the exporters' heads anew, and let independent libraries read ours
	$(BIN)/python tests/exporters/environments.py $(EXPORTERS)
	$(if $(SPECJAX),$(BIN)/python tests/exporters/make_specjax.py --cache $(EXPORTERS) --output $(FIXTURES) --checkout $(SPECJAX))
	$(if $(TORCHSPEC),$(BIN)/python tests/exporters/make_torchspec.py --cache $(EXPORTERS) --output $(FIXTURES) --checkout $(TORCHSPEC))
	$(if $(NEMO),$(BIN)/python tests/exporters/make_nemo.py --cache $(EXPORTERS) --output $(FIXTURES) --checkout $(NEMO))
	for name in specforge modelopt speculators; do \
		$(BIN)/python tests/exporters/make_$$name.py --cache $(EXPORTERS) --output $(FIXTURES) || exit 1; \
	done
	EAGLE3HUB_EXPORTERS=$(EXPORTERS) $(BIN)/python -m pytest tests/exporters tests/readers

fast: $(READY)  ## the tests that need no engine and little time; CONTRIBUTING.md says what is left out
	$(LIGHT) --fast -m "not engine and not exporters"

# what is imported is the wheel in dist/, in an environment of its own; the linters' tests need the linters
TRIED := build/tried

WHEEL = $(or $(firstword $(wildcard dist/*.whl)),$(error there is no wheel in dist/; make dist makes it))

wheel:  ## the tests of make fast, on the wheel that `make dist` made
	$(PYTHON) -m venv --clear $(TRIED)
	$(TRIED)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$(WHEEL)[validate,sign]" coverage hypothesis pytest pytest-cov pytest-xdist
	$(TEMPORARY) PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 $(TRIED)/bin/pytest $(SPREAD) \
		--fast -m "not engine and not exporters" --ignore tests/workflows $(PYTEST_MORE)

mutants: $(READY)  ## change the code one place at a time and see whether the tests notice; an hour or two
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt cosmic-ray coverage
	$(BIN)/python benchmarks/mutation.py --save docs/mutants.md

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/actionlint $(WORKFLOWS)
	$(BIN)/zizmor --offline --quiet --persona auditor $(WORKFLOWS) action.yml .github/dependabot.yml

dist:  ## the wheel and the sdist, in dist/
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt build
	build/tools/bin/python -m build --outdir dist

locked:  ## the packages, with digests, that a job of the release workflow with an identity installs (CONTRIBUTING.md)
	$(PYTHON) -m venv build/tools
	build/tools/bin/pip install --quiet --disable-pip-version-check uv
	printf 'hatchling>=1.27\n' | build/tools/bin/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
		--python-platform x86_64-unknown-linux-gnu --extra charts --extra publish --extra sign --no-annotate --custom-compile-command "make locked" \
		--output-file .github/locked/publish.txt pyproject.toml -

docs: $(READY)  ## the documentation's pages in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing eagle3hub, PyTorch and the tools of the tests (1.6 GB, or 5.5 GB with the CUDA build):"
	@echo "pip takes some minutes, without a word"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[validate,dev,docs]'
	touch $@
