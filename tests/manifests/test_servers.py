"""Every overlay, judged by real servers of Kubernetes; on demand: `make kube-check`.

KUBE_SERVERS: the folder of the servers; with it nothing is skipped. KUBE_DEFINITIONS: a folder with
the definitions of TFJob and JobSet (*.yaml) of other versions of the operators.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import schemas
from tests.manifests.combined import combined
from tests.manifests.render import OVERLAYS, overlay, workload
from tests.manifests.servers import CoreServer, CrdServer

SERVERS = os.environ.get("KUBE_SERVERS", "")
pytestmark = [
    pytest.mark.skipif(not SERVERS, reason="the servers are built on demand: make kube-check"),
]


def definitions() -> list[dict[str, Any]]:
    """The definitions of TFJob and JobSet: the repository's own, or those of KUBE_DEFINITIONS."""
    folder = os.environ.get("KUBE_DEFINITIONS")
    if folder:
        files = sorted(Path(folder).glob("*.yaml"))
        return [yaml.load(file.read_text(), yaml.CSafeLoader) for file in files]
    return [schemas.definition(file) for file in sorted(schemas.DEFINITIONS.glob("*.json"))]


@pytest.fixture(scope="module")
def crd_server() -> Iterator[CrdServer]:
    binary = Path(SERVERS).resolve() / "apiextensions-apiserver"
    with CrdServer(binary, definitions()) as server:
        assert server.paths.keys() == {"TFJob", "JobSet"}, "KUBE_DEFINITIONS lacks one"
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


def test_combinations(crd_server: CrdServer, core_server: CoreServer, tmp_path: Path) -> None:
    """What no overlay is made of, too."""
    for parts, documents in combined(tmp_path).items():
        for document in documents:
            found = [*crd_server.refusals(document), *core_server.refusals(document)]
            assert found == [], " + ".join(parts)


def test_the_servers_do_refuse(crd_server: CrdServer, core_server: CoreServer) -> None:
    job = copy.deepcopy(workload(overlay("tfjob-cpu-pvc")))
    job["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["imge"] = "x"
    assert any("imge" in refusal for refusal in crd_server.refusals(job))
    job = copy.deepcopy(workload(overlay("job-cpu-pvc")))
    job["spec"]["template"]["spec"]["volumes"].pop()
    assert any("volumeMounts" in refusal for refusal in core_server.refusals(job))
