# Two commands do everything: `make run` sets up and serves, `make test` sets up and tests.
# Only Python 3.11 or newer, make and a C library are needed.

PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.set-up
# Of tests: one more than there are cores, for many wait.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(1 + (os.cpu_count() or 1), 4))')

.PHONY: run setup test check format ci nightly bench gpu

run: setup  ## set everything up and serve on http://127.0.0.1:8000
	$(BIN)/fluxserve serve

setup: $(STAMP)  ## make .venv

$(STAMP): pyproject.toml constraints.txt tests/end_to_end/node/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fluxserve needs Python 3.11 or newer; PYTHON=/path/to/it chooses one")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python can't make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/npm ci --silent --prefix tests/end_to_end/node
	touch $(STAMP)

test: setup  ## the whole suite, with the coverage that CI asks for
	$(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder --cov --cov-report=
	$(BIN)/python -m coverage report --fail-under=95

check: setup  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ci: check test  ## what CI runs

nightly: setup  ## the long runs: hundreds of kills and power losses
	$(BIN)/python -m pytest -m nightly -s

bench: setup  ## every benchmark, each beside what it is measured against
	$(BIN)/python -m benchmarks.accept
	$(BIN)/python -m benchmarks.first_picture
	$(BIN)/python -m benchmarks.lora_switch
	$(BIN)/python -m benchmarks.queue
	$(BIN)/python -m benchmarks.relay
	$(BIN)/python -m benchmarks.speeds
	$(BIN)/python -m benchmarks.start

gpu: setup  ## what only a GPU can show: its tests, then FLUX.1 at full size beside plain diffusers
	PYTHON=$(BIN)/python benchmarks/gpu.sh
