#!/bin/sh
# Takes out of /opt/venv what only compiling needs: C++ headers, libclang (which TensorFlow asks for
# and does not load), and pip unless --keep-pip is given.
set -eu
site=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site"/tensorflow/include "$site"/clang "$site"/libclang-*.dist-info
if [ "${1:-}" != --keep-pip ]; then
    rm -rf "$site"/pip "$site"/pip-*.dist-info "$site"/setuptools "$site"/setuptools-*.dist-info \
        "$site"/pkg_resources /opt/venv/bin/pip*
fi
