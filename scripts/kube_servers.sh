#!/usr/bin/env bash
# Builds two servers of Kubernetes from Debian's source packages, which tests/manifests/test_servers.py
# asks about the manifests (`make kube-check`). No registry of packages has them ready.
#   apiextensions-apiserver (of Kubernetes 1.36, from Debian sid): TFJobs and JobSets, strictly
#   kube-apiserver 1.20 (from Debian 12): Pods, Jobs, ConfigMaps
# Root, Debian 12; 6 processor minutes each, up to 2.7 GB while building, 110 MB each in the end.
# Usage: kube_servers.sh DIRECTORY
set -euo pipefail
out=$(realpath -m "${1:?is the directory to put the servers into}")
mkdir -p "$out"
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")

cleanup() {
    mountpoint -q "$work/sid/proc" && umount "$work/sid/proc"
    chmod -R u+w "$work" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

install() { apt-get install -y -qq --no-install-recommends "$@" > /dev/null; }

build_crd_server() {
    install mmdebstrap
    # sid's own list of packages may be older than it allows itself to be.
    mmdebstrap --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' \
        --include=golang-k8s-apiextensions-apiserver-dev,golang-etcd-server-dev,golang-go \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        sid "$work/sid"
    mount -t proc proc "$work/sid/proc" # Go finds its own directory through it
    chroot "$work/sid" env HOME=/root GOPATH=/usr/share/gocode GO111MODULE=off GOCACHE=/gocache \
        CGO_ENABLED=0 go build -o /apiextensions-apiserver k8s.io/apiextensions-apiserver
    cp "$work/sid/apiextensions-apiserver" "$out/"
    umount "$work/sid/proc"
}

build_core_server() {
    install golang-1.19-go dpkg-dev rsync jq make
    mkdir -p "$work"/{parts,lists/partial,cache/archives/partial}
    cd "$work"
    sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > parts/src.sources
    own=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts"
        -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache")
    apt-get "${own[@]}" update -qq
    apt-get "${own[@]}" source -qq kubernetes
    apt-get download -qq golang-github-modern-go-reflect2-dev
    dpkg-deb -x golang-github-modern-go-reflect2-dev_*.deb reflect2
    cd kubernetes-*/
    # The reflect2 1.0.1 in the source crashes when built with Go 1.18 or later; Debian's does not.
    rm vendor/github.com/modern-go/reflect2/*.{go,s}
    cp "$work"/reflect2/usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} \
        vendor/github.com/modern-go/reflect2/
    mkdir -p .go/src/k8s.io && ln -sfn ../../.. .go/src/k8s.io/kubernetes
    env HOME="$work" GOPATH="$PWD/.go" GOCACHE="$work/gocache" CGO_ENABLED=0 \
        PATH="/usr/lib/go-1.19/bin:$PATH" make WHAT=cmd/kube-apiserver
    cp _output/local/bin/linux/amd64/kube-apiserver "$out/"
}

install etcd-server openssl
[ -x "$out/apiextensions-apiserver" ] || build_crd_server
[ -x "$out/kube-apiserver" ] || build_core_server
ls -la "$out"
