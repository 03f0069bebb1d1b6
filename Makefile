# make demo, make test: each sets up what it needs, once, and again only when that changed. What they do stands in
# noxfile.py, whose sessions are all targets here.
# PYTHON chooses the interpreter (3.11 or later) when the environments are first made: make test PYTHON=python3.13

PYTHON ?= python3
DEMO ?= demo
PYTEST_ARGS ?=
BENCH_ARGS ?=
NOX_ARGS ?=

TOOL := .nox/tool
NOX := $(TOOL)/bin/nox $(NOX_ARGS) --session
SESSIONS := browser environments thorough tutorials lint format types kernels parity user run package sbom r docs linkcheck gallery smoke312 smoke313 workflow312

.PHONY: help nox demo test bench clean $(SESSIONS) test-r test-kernels typecheck

help:
	@echo "make demo          simulate and correct a data set, and open the report in $(DEMO)/"
	@echo "make test          run the tests"
	@echo "make thorough      run the tests that take many seconds each"
	@echo "make kernels       run the C++ kernels under the address, undefined-behaviour and thread sanitizers"
	@echo "make docs          build the documentation site in build/docs"
	@echo "make r             build the R package and run its tests (needs R with Seurat and reticulate)"
	@echo "make lint          ruff, clang-format, imports       make format     apply them"
	@echo "make types         mypy                              make bench      the benchmark table"
	@echo "make package       sdist and wheel into dist/        make clean      remove all of the above"
	@echo "also: $(filter-out kernels r lint format types package thorough,$(SESSIONS))"

demo: nox
	$(NOX) demo -- $(DEMO)

test: nox
	$(NOX) test -- $(PYTEST_ARGS)

bench: nox
	$(NOX) bench -- $(BENCH_ARGS)

$(SESSIONS): nox
	$(NOX) $@

# Names from before.
test-r: r
test-kernels: kernels
typecheck: types

nox: $(TOOL)/.made

$(TOOL)/.made: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "harmonax needs Python 3.11 or later, as $(PYTHON); choose one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(TOOL) || \
		{ echo "$(PYTHON) has no working venv (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(TOOL)/bin/python -m pip --disable-pip-version-check --quiet install 'nox>=2025.2.9'
	@touch $@

clean:
	rm -rf .venv .venv312 .nox build dist $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
