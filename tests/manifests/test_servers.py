"""Every overlay, judged by real servers of Kubernetes; on demand: `make kube-check`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.manifests.render import OVERLAYS, ROOT, overlay, workload
from tests.manifests.servers import CoreServer, CrdServer

SERVERS = os.environ.get("KUBE_SERVERS", "")
DEFINITIONS = ROOT.parent / "shared" / "reference" / "crds"
pytestmark = [
    pytest.mark.skipif(not SERVERS, reason="the servers are built on demand: make kube-check"),
]


@pytest.fixture(scope="module")
def crd_server() -> Iterator[CrdServer]:
    definitions = sorted(Path(os.environ.get("KUBE_DEFINITIONS", DEFINITIONS)).glob("*.yaml"))
    if len(definitions) != 2:
        pytest.skip("KUBE_DEFINITIONS names no folder with the whole definitions")
    with CrdServer(Path(SERVERS).resolve() / "apiextensions-apiserver", definitions) as server:
        yield server


@pytest.fixture(scope="module")
def core_server() -> Iterator[CoreServer]:
    with CoreServer(Path(SERVERS).resolve() / "kube-apiserver") as server:
        yield server


@pytest.mark.parametrize("name", OVERLAYS)
def test_custom_resources(name: str, crd_server: CrdServer) -> None:
    assert [r for document in overlay(name) for r in crd_server.refusals(document)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_is_of_kubernetes_own(name: str, core_server: CoreServer) -> None:
    assert [r for document in overlay(name) for r in core_server.refusals(document)] == []


def test_the_servers_do_refuse(crd_server: CrdServer, core_server: CoreServer) -> None:
    job = copy.deepcopy(workload(overlay("tfjob-cpu-pvc")))
    job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["imge"] = "x"
    assert any("imge" in refusal for refusal in crd_server.refusals(job))
    job = copy.deepcopy(workload(overlay("job-cpu-pvc")))
    job["spec"]["template"]["spec"]["volumes"].pop()
    assert any("volumeMounts" in refusal for refusal in core_server.refusals(job))
