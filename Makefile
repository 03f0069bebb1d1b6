# make demo, make test: each sets up what it needs in .venv, once, and again only when that changed.
# PYTHON chooses the interpreter the environment is made with (3.11 or later): make test PYTHON=python3.13

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
PYTEST_ARGS ?=
RSCRIPT ?= Rscript
BENCH_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
NATIVE := CMakeLists.txt $(wildcard src/harmonax/kernels/*.cpp src/harmonax/kernels/*.hpp src/harmonax/kernels/*.inl)

.PHONY: help demo test test-r test-kernels lint format typecheck bench package clean

help:
	@echo "make demo          simulate and correct a data set, and open the report in $(DEMO)/"
	@echo "make test          run the tests"
	@echo "make test-kernels  run the C++ kernels under the address and undefined-behaviour sanitizers"
	@echo "make test-r        build the R package and run its tests (needs R with Seurat and reticulate)"
	@echo "make lint          ruff: rules and formatting        make format     apply them"
	@echo "make typecheck     mypy                              make bench      the benchmark table"
	@echo "make package       sdist and wheel into dist/        make clean      remove all of the above"

demo: $(VENV)/.installed
	$(VENV)/bin/harmonax demo -o $(DEMO) --open

test: $(VENV)/.installed $(VENV)/.tests
	$(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

# The package is built and installed into build/r; its engine is that of $(VENV).
R_ENV = RETICULATE_PYTHON=$(abspath $(PY)) R_LIBS=$(abspath build/r)$(if $(R_LIBS),:$(R_LIBS))
test-r: $(VENV)/.installed
	mkdir -p build/r
	cd build && $(R_ENV) R CMD build ../r/harmonax
	$(R_ENV) R CMD INSTALL --library=build/r build/harmonax_*.tar.gz
	cd r/harmonax/tests && $(R_ENV) HARMONAX_TEST_DATA=$(abspath $(or $(HARMONAX_TEST_DATA),../shared/data)) \
		$(RSCRIPT) -e 'testthat::test_dir("testthat", package = "harmonax", load_package = "installed", reporter = "summary")'

test-kernels: $(VENV)/.cmake
	$(VENV)/bin/cmake -S . -B build/kernel-tests -G Ninja -DHARMONAX_KERNEL_TESTS=ON
	$(VENV)/bin/cmake --build build/kernel-tests
	build/kernel-tests/test_kernels

lint: $(VENV)/.tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PYTHONPATH=src $(VENV)/bin/lint-imports

format: $(VENV)/.tools
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

typecheck: $(VENV)/.installed $(VENV)/.tools
	$(PY) -m mypy

# Peers get environments of their own, from the package index, under benchmarks/.envs.
bench: $(VENV)/.installed
	$(PY) benchmarks/kernel_rate.py
	$(PY) benchmarks/speed.py $(BENCH_ARGS)
	$(PY) benchmarks/quality.py
	$(PY) benchmarks/scaling.py

package: $(VENV)/.tools
	rm -rf dist
	$(PY) -m build --outdir dist
	$(PY) -m twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# pip 25.1 is the first that knows dependency groups.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "harmonax needs Python 3.11 or later, as $(PYTHON); choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) has no working venv (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PIP) install 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml $(NATIVE)
	$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(PIP) install --editable '.[workflow,jax,dask]' --group test
	@touch $@

$(VENV)/.tools: $(VENV)/.created pyproject.toml
	$(PIP) install --group dev
	@touch $@

$(VENV)/.cmake: $(VENV)/.created
	$(PIP) install cmake ninja
	@touch $@
