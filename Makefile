# `make study` and `make test` set up .venv by themselves, and again when the pinned versions change.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

study: $(READY) ## run the quick study on the bundled model: runs/study/report.html
	$(BIN)/memhooks study

test: $(READY) ## format, lint, types, import order, tests with shape checks, notebooks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory --jobs=2 tests-of-localize tests-of-the-rest
	$(MAKE) --no-print-directory --jobs=2 notebooks-first notebooks-last

FIRST_HALF := $(addprefix tests/,localize measure report unlearn organism paragraphs)
# In two halves of one thread each: two cores are done with them sooner than with one of two threads.
tests-of-localize tests-of-the-rest notebooks-first notebooks-last: export OMP_NUM_THREADS = 1
tests-of-localize: $(READY)
	$(BIN)/pytest -q $(FIRST_HALF)
tests-of-the-rest: $(READY)
	$(BIN)/pytest -q $(FIRST_HALF:%=--ignore=%)
notebooks-first: $(READY)
	$(BIN)/pytest -q --nbmake $(wildcard notebooks/0[1-3]*.ipynb) -o addopts=""
notebooks-last: $(READY)
	$(BIN)/pytest -q --nbmake $(filter-out $(wildcard notebooks/0[1-3]*.ipynb),$(wildcard notebooks/*.ipynb)) -o addopts=""

bench: $(READY) ## speed against named peers, as ratios
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.recitation
	$(BIN)/python -m benchmarks.hooks
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.looking
	$(BIN)/python -m benchmarks.unlearning

audit-bridge: ## does TransformerLens 4's Bridge honour edits on GPT-Neo yet? (own environment .venv-bridge)
	test -x .venv-bridge/bin/python || $(PYTHON) -m venv .venv-bridge || python3 -m venv .venv-bridge
	grep -v '^transformer-lens==' constraints.txt > .venv-bridge/constraints.txt
	.venv-bridge/bin/python -m pip install --quiet --constraint .venv-bridge/constraints.txt transformer-lens==4.3.0
	HF_HUB_OFFLINE=1 .venv-bridge/bin/python -m benchmarks.audit_bridge

organism: $(READY) ## make the bundled models anew from their pinned texts (about two hours)
	$(BIN)/python -m memhooks.organism.build

setup: $(READY) ## only set up .venv

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

.PHONY: help study test bench audit-bridge organism setup \
	tests-of-localize tests-of-the-rest notebooks-first notebooks-last
