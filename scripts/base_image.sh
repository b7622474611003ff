#!/usr/bin/env bash
# Makes stand-ins for the base images of docker/Dockerfile from Debian's packages alone, for building
# it with buildah where no image registry is reached. What it proves of a Dockerfile: everything but
# that the real base images exist. Root, Debian, mmdebstrap and buildah; 50 s, 270 MB.
# Usage: STORE=folder base_image.sh PYTHON_IMAGE [BEAM_IMAGE]
set -euo pipefail
: "${STORE:?is the folder of the images}"
buildah() { command buildah --root "$STORE/root" --runroot "$STORE/run" --storage-driver overlay "$@"; }

mkdir -p "$STORE"
packages=ca-certificates,python3,python3-pip,python3-venv
# Debian 12, whose Python is 3.11.
[ -e "$STORE/base.tar" ] || mmdebstrap --variant=minbase --include=$packages bookworm "$STORE/base.tar"
container=$(buildah from --pull-never scratch)
buildah add -q "$container" "$STORE/base.tar" /
# Python and pip in /usr/local/bin, as in the real image.
buildah run --isolation chroot "$container" -- python3 -m venv /usr/local
paths=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
buildah config --env PATH=$paths "$container"
buildah commit -q --rm "$container" "$1"

if [ -n "${2:-}" ]; then
    # In the place of Beam's start program: one that prints its arguments.
    container=$(buildah from --pull-never scratch)
    boot=$(mktemp)
    printf '#!/bin/sh\necho "stand-in for the start program of Beam: $*"\n' > "$boot"
    buildah add -q --chmod 755 "$container" "$boot" /opt/apache/beam/boot
    rm "$boot"
    buildah commit -q --rm "$container" "$2"
fi
