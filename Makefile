# make env | plan-env | test | fast | lint | demo | bench | doctor | constraints | clean.   PYTHON=python3.12 make env chooses the interpreter.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PLAN_VENV ?= .venv-plan

export VENV PLAN_VENV
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Without bytecode on disk every process that imports TensorFlow needs some seconds more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: env plan-env test fast lint format demo bench doctor constraints clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	bash scripts/setup.sh

# The TPU compiler for `python -m tpu_tlm.plan`: 3 GB in an environment of its own.
plan-env: $(PLAN_VENV)/.stamp

$(PLAN_VENV)/.stamp: pyproject.toml constraints.txt scripts/plan_env.sh
	bash scripts/plan_env.sh

# Everything that must hold before a change lands.
test: lint
	$(BIN)/python -m pytest -q

# The same without the slow tests.
fast: lint
	$(BIN)/python -m pytest -q -m "not slow"

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# From raw text to a trained model, with a loss curve and a fill-mask table.
demo: env
	$(BIN)/python examples/demo.py

bench: env
	$(BIN)/python benchmarks/step.py

doctor: env
	$(BIN)/python -m tpu_tlm.doctor

# Resolve the tested versions anew; run the tests before you commit the result.
constraints: env
	bash scripts/constraints.sh

clean:
	rm -rf $(VENV) $(PLAN_VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
