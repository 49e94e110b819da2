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
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TWO_AT_A_TIME)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TWO_AT_A_TIME) --nbmake notebooks -o addopts=""

soak: $(READY) ## twenty random kills of a study, and every property on more examples (half an hour)
	MEMHOOKS_KILLS=20 HYPOTHESIS_PROFILE=thorough OMP_NUM_THREADS=1 $(BIN)/pytest -q $(TWO_AT_A_TIME)

wheel: $(READY) ## build the wheel, install it into an empty environment, and run a small study with it
	rm -rf build/wheel && $(BIN)/python -m build --quiet --wheel --outdir build/wheel
	$(PYTHON) -m venv build/wheel/env || python3 -m venv build/wheel/env
	build/wheel/env/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/*.whl
	cd build/wheel && env/bin/memhooks study --stages recitation,sinks --set n_planted=48 --out study

# Two cores are done sooner with two processes of one thread each than with one of two threads.
TWO_AT_A_TIME := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

bench: $(READY) ## speed against named peers, as ratios
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.recitation
	$(BIN)/python -m benchmarks.hooks
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.looking
	$(BIN)/python -m benchmarks.unlearning
	$(BIN)/python -m benchmarks.scanning

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

.PHONY: help study test soak wheel bench audit-bridge organism setup
