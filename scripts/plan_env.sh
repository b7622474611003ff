#!/usr/bin/env bash
# Makes the environment of `python -m tpu_tlm.plan`: .venv-plan, or the directory named by PLAN_VENV. It has TensorFlow's TPU build, libtpu and
# JAX in versions that work together, which the environment for training must not have. PYTHON=... chooses the interpreter (3.11 to 3.13).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${PLAN_VENV:-.venv-plan}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

python=
for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
    if supported "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "plan-env: no Python 3.11 to 3.13 on PATH (JAX 0.10.2 needs 3.11); install one or say PYTHON=/path/to/python3.11 make plan-env" >&2
    exit 1
fi
"$python" -m venv "$venv"
bin=$venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt
if "$bin/python" -m pip install --quiet uv 2>/dev/null; then
    "$bin/python" -m uv pip install --quiet --python "$bin/python" --constraint constraints.txt --editable ".[plan]" ||
        "$bin/python" -m pip install --quiet --editable ".[plan]"
else
    "$bin/python" -m pip install --quiet --editable ".[plan]"
fi
"$bin/python" -m tpu_tlm.planning.environment
touch "$venv/.stamp"
