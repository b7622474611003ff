#!/usr/bin/env bash
# Makes the environment of `python -m benchmarks.step_on_gpu`: .venv-bench, or the directory named by BENCH_VENV. It needs no TensorFlow.
# PYTHON=... chooses the interpreter (3.11 or newer, for JAX 0.10). With an NVIDIA driver JAX comes with CUDA 13; JAX=... and TORCH=... name
# other requirements, such as JAX='jax[cuda12]' for an older driver, or TORCH= for none.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${BENCH_VENV:-.venv-bench}
default=jax
if command -v nvidia-smi >/dev/null; then default='jax[cuda13]'; fi

supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; }

python=
for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3 python}; do
    if supported "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "gpu-bench-env: no Python 3.11 or newer on PATH; install one or say PYTHON=/path/to/python3.12 make gpu-bench-env" >&2
    exit 1
fi
"$python" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# shellcheck disable=SC2086 # TORCH may be empty, or several requirements
"$venv/bin/python" -m pip install --quiet "${JAX:-$default}" ${TORCH-torch} numpy
"$venv/bin/python" -c 'import jax; print("JAX", jax.__version__, "sees", ", ".join(d.device_kind for d in jax.devices()))'
touch "$venv/.stamp"
