# trtasr: `make engine MODEL=quartznet` sets itself up and runs the main job; `make test` runs the tests.

MODEL ?= quartznet
TARGET ?=
MANIFEST ?=
OUT ?=
PYTHON ?= python3
# ONNX Runtime 1.31 calls home and writes below ~/.cache unless this is set before it loads.
export ORT_DISABLE_TELEMETRY := 1
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The shell reads these from its environment, so that names may have spaces and quotes; the command derives the engine's
# name from MODEL itself.
export MODEL TARGET MANIFEST OUT
bundle = "$${OUT:-$$MODEL}"
out = $${OUT:+-o "$$OUT"}
manifest = $${MANIFEST:+--manifest "$$MANIFEST"}
target = $${TARGET:+--target "$$TARGET"}
engine_target = $(if $(filter-out auto,$(TARGET)),--target "$$TARGET")

trained_by = trtasr.zoo.train --network $(MODEL) --out trtasr/zoo/$(MODEL).nemo
training = $(if $(filter whisper,$(MODEL)),trtasr.zoo.train_whisper --out trtasr/zoo/whisper,$(trained_by))

.DEFAULT_GOAL := help
.PHONY: help setup engine calib bench wer compare inspect doctor test test-slow test-gpu check-tensorrt fuzz load chaos peers ablation t4-acceptance t4-acceptance-bundle lint clean zoo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  variables: MODEL=quartznet|recipe.toml|file.nemo|hugging-face-folder  TARGET=auto|t4|t4-rtx|cpu  MANIFEST=speech.json,more.json  OUT=folder"

setup: $(STAMP) ## create the virtual environment

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

engine: $(STAMP) ## compile MODEL into a measured INT8 engine
	@$(BIN)/trtasr compile "$$MODEL" $(out) $(manifest) $(target)

calib: $(STAMP) ## make calib/MODEL.json and calib/MODEL.cache anew
	@$(BIN)/trtasr calibrate "$$MODEL"

bench: $(STAMP) ## latency and WER of engines/MODEL
	@$(BIN)/trtasr bench $(bundle) $(manifest)

wer: $(STAMP) ## WER of engines/MODEL on MANIFEST
	@$(BIN)/trtasr bench $(bundle) $(manifest) --seconds 2

compare: $(STAMP) ## FP32 against INT8 through Polygraphy
	@$(BIN)/trtasr compare $(bundle) $(manifest) $(engine_target)

inspect: $(STAMP) ## layer table of engines/MODEL
	@$(BIN)/trtasr inspect $(bundle) $(engine_target)

doctor: $(STAMP) ## what this machine can build and run
	@$(BIN)/trtasr doctor

test: $(STAMP) ## tests that need no GPU
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: $(STAMP) ## all tests that need no GPU
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: $(STAMP) ## tests that need a CUDA GPU with TensorRT and pycuda
	$(BIN)/python -m pytest -m gpu

check-tensorrt: $(STAMP) ## check engine/ against TensorRT's real Python bindings, without a GPU
	$(BIN)/python tests/bindings/prepare.py .check-tensorrt
	TRTASR_CHECK=$(CURDIR)/.check-tensorrt $(BIN)/python -m pytest tests/bindings

fuzz: $(STAMP) ## 100,000 mutated inputs through every reader of files: FUZZ="--inputs 5000 --only manifest"
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

load: $(STAMP) ## seconds of one compile of MODEL=archive alone and of three at once, BEFORE=other checkout in turn
	PYTHONPATH=tests $(BIN)/python -m load $(MODEL) $(if $(BEFORE),--before $(BEFORE)) $(LOAD)

peers: $(STAMP) ## WER of MODEL on MANIFEST in INT8 by other tools, which hear AUDIO=speech.json, beside ours (long): MODELOPT=python
	PYTHONPATH=tests $(BIN)/python -m peers "$$MODEL" $(manifest) --audio "$(AUDIO)" $(if $(MODELOPT),--modelopt "$(MODELOPT)") $(PEERS)

ablation: $(STAMP) ## WER and SQNR of every correction, mean and deviation over seeds (long): ABLATION="--bits 4 --resume"
	@$(BIN)/trtasr ablation "$$MODEL" $(manifest) $(ABLATION)

t4-acceptance: $(STAMP) ## on a T4 host: build, measure and compare every variant, write one JSON; again: what is missing
	@$(BIN)/trtasr acceptance "$$MODEL" $(out) $(manifest)

t4-acceptance-bundle: $(STAMP) ## pack what it found into one archive to send back: PACK=--everything adds plans and graphs
	@$(BIN)/trtasr acceptance "$$MODEL" $(out) --pack $(PACK)

chaos: $(STAMP) ## signals, full disks and races at random moments of a compile (minutes)
	$(BIN)/python tests/chaos/chaos.py

lint: $(STAMP) ## ruff, its formatter, mypy --strict, and vulture for dead code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture trtasr --min-confidence 80

zoo: $(STAMP) ## train the bundled MODEL again (one hour on 2 quiet cores; needs espeak-ng)
	$(BIN)/python -m $(training)
	$(BIN)/python -m trtasr.zoo.evalset --out trtasr/zoo/eval
	$(BIN)/python -m trtasr.zoo.evaluate --network $(MODEL)
	$(BIN)/trtasr calibrate $(MODEL) --calib-dir calib

clean: ## remove built bundles and the virtual environment
	rm -rf $(VENV) engines/*/ engines/*.tar.gz *.egg-info .check-tensorrt .pytest_cache .mypy_cache .ruff_cache .hypothesis
