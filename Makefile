# Two commands for a fresh machine with python3 >= 3.11, a C++ compiler and make:
#   make demo    train a small reference model, export, verify, score, show scores and latency
#   make test    lint, types on the installed wheel, and the tests
#
# TORCH is the requirement torch is installed by: the version the tests run with. On Linux the plain PyPI wheel may
# bring several gigabytes of CUDA; point pip at a CPU build, or set TORCH, to avoid that.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
DEMO ?= demo-out
DEMO_ROWS ?= 40000

BIN := $(VENV)/bin
# Bytecode is written by whoever imports a module first: two thirds of what is installed nobody does. Where it were never
# written, each process of the tests would compile what it imports.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE

# What the wheel is compiled in, for the next wheel, and for the C++ tests.
BUILD := $(abspath $(VENV))/build
SOURCES := $(shell find pepnet_infer export bench kernels -type f -not -path '*/__pycache__/*' -not -path 'bench/results/*')

.PHONY: help install demo test lint types test-all test-lowest soak soak-sync interrupts fuzz compare bench bench-cache docs wheels test-wheels clean

help:
	@sed -n '2,4p' Makefile | sed 's/^# *//'
	@echo "also: install lint types test-all test-lowest soak soak-sync interrupts fuzz compare bench bench-cache docs wheels test-wheels clean"

# Torch is unpacked while the wheel is compiled.
$(VENV)/deps.stamp: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf $(VENV)/wheels
	$(PIP) "$(TORCH)" & torch=$$!; \
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir=$(VENV)/wheels \
	  --config-settings=build-dir="$(BUILD)" . ; wheel=$$?; \
	wait $$torch && test $$wheel -eq 0
	$(PIP) --no-deps --force-reinstall $(VENV)/wheels/*.whl  # of the same version as one that may be there
	$(PIP) "$$(ls $(VENV)/wheels/*.whl)[cpu,export,bench,dev,lint]"
	touch $@ $(VENV)/wheel.stamp

# The step above has just installed the wheel when it ran; it is built again only for sources newer than that.
$(VENV)/wheel.stamp: $(VENV)/deps.stamp $(SOURCES) CMakeLists.txt README.md
	if [ -n "$$(find $(SOURCES) CMakeLists.txt README.md -newer $@)" ]; then \
	  $(PIP) --config-settings=build-dir="$(BUILD)" --no-deps --force-reinstall .; \
	fi
	touch $@

install: $(VENV)/wheel.stamp

demo: install
	@PATH="$(abspath $(BIN)):$$PATH" DEMO="$(DEMO)" ROWS="$(DEMO_ROWS)" sh examples/demo.sh

# Small matrix products on several threads spend their time waiting for each other; one thread each is much faster.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PEPNET_BUILD="$(BUILD)" $(BIN)/pytest

# From another folder and by package name: the wheel as installed, not the source tree, is what users type-check.
TYPES := cd $(VENV) && bin/mypy --strict --python-executable bin/python -p pepnet_infer

# Three runs of the tests and the types side by side, for two cores: the C++ tests compile for most of their time, and the
# second run waits for disks, servers and processes that it kills, so that a third has something to do. The last folders of
# the second are there for all three to end at about the same time. Tests that interrupt a command (SIGINT) are in the third:
# sh has whatever it starts in the background ignore that signal.
COMPILED := tests/kernels/cpp
WAITING := tests/sync tests/rows tests/process tests/parquet tests/verify tests/docs tests/bench tests/wheel \
  tests/network tests/encode tests/export/data tests/export/model tests/export/publish

test: install lint
	@command -v redis-server >/dev/null || echo "no redis-server here: the tests of the Redis store will be skipped"
	$(PYTEST) -m "not slow" $(COMPILED) >$(VENV)/compiled.log 2>&1 & compiled=$$!; \
	$(PYTEST) -m "not slow" $(WAITING) >$(VENV)/waiting.log 2>&1 & waiting=$$!; \
	($(TYPES)) >$(VENV)/types.log 2>&1 & types=$$!; \
	$(PYTEST) -m "not slow" $(addprefix --ignore=,$(COMPILED) $(WAITING)); rest=$$?; \
	wait $$types; types=$$?; wait $$waiting; waiting=$$?; wait $$compiled; compiled=$$?; \
	cat $(VENV)/types.log $(VENV)/waiting.log $(VENV)/compiled.log; \
	test $$rest -eq 0 && test $$types -eq 0 && test $$waiting -eq 0 && test $$compiled -eq 0

# With the lowest release of each dependency that pyproject.toml allows, in an environment of its own.
LOWEST := $(abspath $(VENV))-lowest
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint=tests/lowest.txt "$(TORCH)"
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint=tests/lowest.txt \
	  --config-settings=build-dir="$(LOWEST)/build" ".[cpu,export,lmdb,redis,bench,dev]"
	PEPNET_BUILD="$(LOWEST)/build" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(LOWEST)/bin/pytest -m "not slow" --ignore=tests/kernels/cpp

test-all: install lint types
	$(PYTEST)

# Torn rows and versions that go back, for as long as it is told: first in C++, then through Python.
PEPNET_SOAK_SECONDS ?= 60
SOAK := build/soak
soak: install
	$(BIN)/cmake -S . -B $(SOAK) -DCMAKE_BUILD_TYPE=Release -DPEPNET_BUILD_PYTHON=OFF -DPEPNET_BUILD_TESTS=ON
	$(BIN)/cmake --build $(SOAK) --target kernels_test
	PEPNET_SOAK_SECONDS=$(PEPNET_SOAK_SECONDS) $(SOAK)/tests/kernels/cpp/kernels_test row_cache_threads
	PEPNET_SOAK_SECONDS=$(PEPNET_SOAK_SECONDS) $(PYTEST) tests/kernels/test_row_cache_threads.py

# Ten thousand versions under scoring threads, and more until the time is over: no score of two versions.
soak-sync: install
	PEPNET_SOAK_SECONDS=$(PEPNET_SOAK_SECONDS) $(PYTEST) -m slow tests/sync/test_sync_soak.py

interrupts: install
	$(PYTEST) -m slow tests/test_interrupts.py

# Mutants of all that comes from outside, ten minutes of them or as many seconds as told; what they find is in build/fuzz.
# FUZZ: more options, such as --target delta --seed 7 --only 1234, which shows and tries one mutant again.
PEPNET_FUZZ_SECONDS ?= 600
fuzz: install
	@command -v redis-server >/dev/null || { echo "fuzz: needs redis-server on the PATH (Debian: apt-get install redis-server)"; exit 1; }
	PYTHONPATH=tests:tests/support PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  $(BIN)/python -m fuzz --seconds $(PEPNET_FUZZ_SECONDS) $(FUZZ)

# Builds the commit OLD and this checkout, scores the same inputs with both in every way there is, and compares bits; what the
# old one writes, the new one must read.
compare: install
	@test -n "$(OLD)" || { echo "compare: expected make compare OLD=COMMIT"; exit 2; }
	PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH=tests PYTHONSAFEPATH=1 $(BIN)/python -m compare $(OLD)

# One peer after another, to be compared with itself over time. BENCH: more options, such as --preset kuaishou.
bench: install
	$(BIN)/pytest bench $(BENCH)

# The peers in C++ are no part of the wheel. BENCH_CACHE: more options, such as --json result.json.
PEERS := build/bench
bench-cache: install
	$(BIN)/cmake -S . -B $(PEERS) -DPEPNET_BUILD_PYTHON=OFF -DPEPNET_BUILD_BENCH=ON
	$(BIN)/cmake --build $(PEERS) --target pepnet_bench_peers
	$(BIN)/pepnet-infer bench cache-speed --peers-library $(PEERS)/bench/cache/native/libpepnet_bench_peers.so $(BENCH_CACHE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(VENV) && bin/lint-imports --config "$(CURDIR)/pyproject.toml"  # of the installed package: its folders are three here
	$(BIN)/clang-format --dry-run --Werror $$(find kernels tests/kernels/cpp bench/cache/native -name '*.h' -o -name '*.cc' -o -name '*.cu')

# One x86-64 wheel for each of PYTHONS, for Linux with glibc 2.28 or newer (manylinux_2_28), in dist/. Needs g++ and these
# interpreters with their headers; the names may be paths.
PYTHONS ?= python3.11 python3.12 python3.13
wheels:
	$(PYTHON) kernels/wheel/build.py $(PYTHONS)

# What is in them, and that README's example runs where nothing else is installed.
test-wheels: install wheels
	PEPNET_WHEELS="$(CURDIR)/dist" $(PYTEST) tests/wheel

# The site, in site/: a link that leads nowhere, a page that no menu names, and a public symbol without a docstring are errors.
docs: install
	$(PIP) "$$(ls $(VENV)/wheels/*.whl)[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --config-file docs/mkdocs.yml

types: install
	$(TYPES)

clean:
	rm -rf $(VENV) $(VENV)-lowest $(DEMO) build dist site
