# Needs only python3 >= 3.11, python3-venv and make; everything else is set up on first use. `make help` lists targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
CLIP ?=
BUNDLE ?=
PYTEST ?=
SOAK ?=
CPUS ?=
VERSIONS ?=
KEEP ?=
STAMPS := $(VENV)/.lineside

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

demo: $(STAMPS)/demo  ## parts on a belt become decisions on MQTT; CLIP=path.mp4 BUNDLE=dir for your own
	@$(BIN)/python tools/demo.py $(if $(CLIP),--clip "$(CLIP)") $(if $(BUNDLE),--bundle "$(BUNDLE)")

test: setup  ## every test but the slow ones; PYTEST='-k gate -x' narrows it
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not exporter and not slow and not arm" $(PYTEST)

test-slow: setup  ## tests that take more than 20 seconds each
	@$(BIN)/python -m pytest -m slow $(PYTEST)

test-arm: $(STAMPS)/arm  ## the models and the whole program on an emulated ARM board (a minute, 450 MB)
	@$(BIN)/python -m pytest -m arm tests/test_arm.py $(PYTEST)

test-cpus: $(STAMPS)/cpus  ## every model on every backend on emulated processors; writes docs/hardware.md (hours; it resumes)
	@$(BIN)/python tools/prove_cpus.py --write docs/hardware.md $(CPUS)

test-cpus-short: $(STAMPS)/cpus  ## three of the processors, few pictures, and the demo's clip and rules (ten minutes)
	@$(BIN)/python tools/prove_cpus.py --short $(CPUS)

test-wheel: $(STAMPS)/dev  ## the tests against the installed wheel, from a folder outside the tree
	@tools/test_wheel.sh $(PYTEST)

test-versions: $(STAMPS)/dev  ## bundles, backends and quantising at the lowest and newest versions allowed; VERSIONS=--short
	@$(BIN)/python tools/test_versions.py $(VERSIONS)

test-exporters: $(STAMPS)/dev  ## decoders against the exporting projects' own tools, in venvs of their own (10 GB, half an hour)
	@tools/setup_exporters.sh
	@$(BIN)/python -m pytest -m exporter tests/test_exporters.py $(PYTEST)

exporters-report: $(STAMPS)/dev  ## the same as a table in docs/models.md; goes on where it was stopped
	@tools/setup_exporters.sh
	@$(BIN)/python tools/exporters_report.py

check: $(STAMPS)/dev  ## lint, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(STAMPS)/dev  ## speed and memory against lean baselines in the same run
	@$(BIN)/python tools/bench_path.py

models-report: $(STAMPS)/dev  ## score every shipped and tried model on the data's test lists; writes docs/models.md and its plot
	@$(BIN)/python tools/score_models.py --json out/scores.json --write docs/models.md
	@$(BIN)/python tools/models_report.py

soak: setup  ## kill, cut and unplug a running line hundreds of times: is anything lost? SOAK='--minutes 30' limits it
	@$(BIN)/python tools/soak.py --seed 1 --keep out/soak.jsonl --write docs/reliability.md $(SOAK)

constraints: $(STAMPS)/dev  ## new exact versions for demo and tests, in tools/constraints.txt; KEEP='numpy' leaves some
	@$(BIN)/python tools/constraints.py $(if $(KEEP),--keep $(KEEP))

setup: $(STAMPS)/dev $(STAMPS)/legacy $(STAMPS)/system $(STAMPS)/js  ## what `make test` needs, without running it

$(STAMPS)/arm: tools/setup_arm.sh $(STAMPS)/dev

$(STAMPS)/cpus: tools/setup_cpus.sh $(STAMPS)/arm

$(STAMPS)/js: tests/js/package-lock.json $(STAMPS)/system

$(STAMPS)/%: pyproject.toml tools/setup.sh tools/constraints.txt
	@tools/setup.sh $*

clean:  ## remove whatever the targets above made, the virtual environment included
	rm -rf $(VENV) .venv-legacy .venv-arm .venv-cpus tests/js/node_modules build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.NOTPARALLEL:
.PHONY: help demo test test-slow test-arm test-cpus test-cpus-short test-wheel test-versions test-exporters exporters-report check bench
.PHONY: models-report soak constraints setup clean
