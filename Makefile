# A fresh machine has Python (3.11 to 3.13) and make, nothing else. PYTHON names another interpreter.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check
# The locks name every package with its hashes, so that pip has nothing to resolve.
LOCKED := --require-hashes --no-deps

.PHONY: help install install-dev demo dev up down test prove check format bench lock docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

install: $(VENV)/.installed ## .venv with the platform and the command .venv/bin/etl-assets

install-dev: $(VENV)/.installed-dev

$(VENV)/.created:
	"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"
	touch $@

$(VENV)/.installed: $(VENV)/.created requirements.txt pyproject.toml
	"$(BIN)/python" -m pip install $(PIP_FLAGS) $(LOCKED) -r requirements.txt
	"$(BIN)/python" -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	"$(BIN)/python" -m pip install $(PIP_FLAGS) $(LOCKED) -r requirements-dev.txt
	touch $@

demo: install ## every asset from simulated sources, a table of what came of it, nothing left running
	"$(BIN)/etl-assets" demo

dev: install ## the same, with the Dagster UI and the gateway until Ctrl-C (PORT=3001 GATEWAY_PORT=5001)
	"$(BIN)/etl-assets" dev $(if $(PORT),--port "$(PORT)") $(if $(GATEWAY_PORT),--gateway-port "$(GATEWAY_PORT)")

up: install ## embedded servers and simulators in the background
	"$(BIN)/etl-assets" up

down: ## end them
	"$(BIN)/etl-assets" down

test: install-dev ## the everyday tests, under two minutes
	"$(BIN)/python" -m pytest -m "not long" -n 3

prove: install-dev ## the long proofs: faulty runs and kills
	"$(BIN)/python" -m pytest -m long -n 3 --ignore=etl_assets_tests/prove
	"$(BIN)/python" -m pytest -m long -p no:randomly -n 2 --dist loadfile -rP etl_assets_tests/prove

check: install-dev ## format, lint, types, import layers, migrations, docs
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"
	"$(BIN)/etl-assets" migrations check
	"$(BIN)/python" -m etl_assets.local.generated --check

format: install-dev ## format and sort imports
	"$(BIN)/ruff" check --fix --quiet . ; "$(BIN)/ruff" format .

docs: install ## write what is generated: the data dictionary, the snapshots of the definitions
	"$(BIN)/python" -m etl_assets.local.generated

bench: install-dev ## the write paths, the streams, the verdicts, the features, the ten-minute statistics and the events, each beside its peers and its limit
	"$(BIN)/python" -m pip install $(PIP_FLAGS) $(LOCKED) -r requirements-bench.txt
	"$(BIN)/python" benchmarks/write_paths.py
	"$(BIN)/python" benchmarks/streams.py
	"$(BIN)/python" benchmarks/report_scale.py
	"$(BIN)/python" benchmarks/experiments_scale.py
	"$(BIN)/python" benchmarks/turbines.py
	"$(BIN)/python" benchmarks/events.py
	OMP_NUM_THREADS=1 "$(BIN)/python" benchmarks/correlations.py --sets 120

lock: ## write the locks anew (needs uv)
	uv pip compile --universal --generate-hashes -q pyproject.toml --group build -o requirements.txt
	uv pip compile --universal --generate-hashes -q pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	uv pip compile --universal --generate-hashes -q pyproject.toml --group dev --group bench -c requirements.txt -o requirements-bench.txt

clean: ## remove the environment and the data
	-[ -x "$(BIN)/etl-assets" ] && "$(BIN)/etl-assets" down --purge
	rm -rf "$(VENV)" var
