# make env | plan-env | gpu-bench-env | test | test-all | repeat | fast | campaign | test-hf | image-check | kube-check | colab-check | beam-check | lint | docs | demo | bench | doctor | constraints | clean.   PYTHON=python3.12 make env chooses the interpreter.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PLAN_VENV ?= .venv-plan
BENCH_VENV ?= .venv-bench
# Test files that run at a time: one more than two cores, since tests wait for processes. They take
# up to 4 GB each.
TEST_JOBS ?= 3
PYTEST = $(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

export VENV PLAN_VENV BENCH_VENV
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Without bytecode on disk every process that imports TensorFlow needs some seconds more.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: env plan-env gpu-bench-env test test-all repeat fast campaign test-hf image-check kube-check colab-check beam-check lint format docs demo bench doctor constraints clean

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh scripts/setup_hf.sh scripts/setup_manifests.sh
	bash scripts/setup.sh

# The TPU compiler for `python -m tpu_tlm.plan`: 3 GB in an environment of its own.
plan-env: $(PLAN_VENV)/.stamp

$(PLAN_VENV)/.stamp: pyproject.toml constraints.txt scripts/plan_env.sh
	bash scripts/plan_env.sh

# JAX and PyTorch for `python -m benchmarks.step_on_gpu` (docs/gpu.md).
gpu-bench-env: $(BENCH_VENV)/.stamp

$(BENCH_VENV)/.stamp: scripts/gpu_bench_env.sh
	bash scripts/gpu_bench_env.sh

# What must hold before a change lands: all but the whole stories marked `long`, whose parts it has.
test: lint
	$(PYTEST) -m "not long"

# Everything: before a release, and after a change to training, checkpoints or workers. About half an hour.
test-all: lint
	$(PYTEST)

# What several processes do to each other, N times over: no run of it may fail.
N ?= 20
REPEATED ?= tests/distributed/test_workers.py tests/distributed/test_preemption.py tests/checkpoints/test_run_lock.py tests/distributed/test_peers.py
repeat: env
	for i in $$(seq $(N)); do $(BIN)/python -m pytest -q $(REPEATED) || exit 1; done

# The tests below 0.4 seconds each.
fast: lint
	$(PYTEST) -m "not slow"

# Kills, signals, two workers, damaged bytes and 1,000 fuzzed inputs (docs/campaign.md): about 20 minutes. CAMPAIGN="--scale 0.1" is a tenth of it.
CAMPAIGN ?= --scale 1
campaign: env
	CAMPAIGN="$(CAMPAIGN)" $(BIN)/python -m pytest -q -s tests/campaign

# What is compared with `transformers` and real models, none of it skipped: where torch's build for CPUs is not to be had, PyPI's is taken.
test-hf: env
	bash scripts/setup_hf.sh --any
	REQUIRE_TRANSFORMERS=1 $(BIN)/python -m pytest -q tests/formats/huggingface/test_transformers.py tests/formats/huggingface/test_real_models.py tests/examples

# Build and run the images of docker/ (root, Debian: apt-get install buildah mmdebstrap).
image-check: env
	BUILD_IMAGES="$${BUILD_IMAGES:-cpu gpu tpu beam}" $(BIN)/python -m pytest -q -s tests/docker

# Ask real API servers about manifests/ (root, Debian 12; builds them once, 12 processor minutes).
kube-check: env
	bash scripts/kube_servers.sh .kube-servers
	REQUIRE_MANIFEST_TOOLS=1 KUBE_SERVERS=.kube-servers $(BIN)/python -m pytest -q tests/manifests/test_servers.py

# The notebooks' install lines against the packages of Colab's runtimes (root, Debian: apt-get install mmdebstrap).
colab-check: env
	COLAB_CHECK=1 $(BIN)/python -m pytest -q -s tests/colab/test_install_line.py

# preprocess and vocab with --runner beam: Beam's own runner, and a Dask cluster that loses a worker.
beam-check:
	bash scripts/beam_env.sh
	$${BEAM_VENV:-.venv-beam}/bin/python -m pytest -q tests/data/preprocessing/test_beam.py tests/data/preprocessing/test_in_a_bucket.py tests/data/tokenizers/test_counting_by_beam.py

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation's site, docs/_build/html/index.html; a warning is an error.
docs: env
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# From raw text to a trained model, with a loss curve and a fill-mask table.
demo: env
	$(BIN)/python examples/demo.py

bench: env
	$(BIN)/python -m benchmarks.step

doctor: env
	$(BIN)/python -m tpu_tlm.doctor

# Resolve the tested versions anew; run the tests before you commit the result.
constraints: env
	bash scripts/constraints.sh

clean:
	rm -rf $(VENV) $(PLAN_VENV) $(BENCH_VENV) build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache
