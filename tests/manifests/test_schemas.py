"""The validator itself: what Kubernetes and the operators refuse, it refuses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import rules, schemas
from tests.manifests.render import ROOT, needs, overlay, workload

needs("kubernetes_validate")
WHOLE = ROOT.parent / "shared" / "reference" / "crds"
TFJOB, JOBSET, JOB = "tfjob-gpu-pvc", "jobset-tpu-v5e-gcs", "job-cpu-pvc"
WORKER = "spec.tfReplicaSpecs.Worker"
TF_POD, JOB_POD = f"{WORKER}.template.spec", "spec.template.spec"
INNER = "spec.replicatedJobs.0.template.spec"


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    """An overlay's workload with one value replaced, or (None) removed."""
    found = copy.deepcopy(workload(overlay(name)))
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    node: Any = found
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return found


@pytest.mark.parametrize(
    ("name", "path", "value", "word"),
    [
        (TFJOB, "spec.tfReplicaSpec", {}, "tfReplicaSpec"),
        (TFJOB, f"{WORKER}.replicas", "two", "two"),
        (TFJOB, f"{WORKER}.restartPolicy", "ExitCodes", "ExitCodes"),
        (TFJOB, f"{TF_POD}.containers.0.imagePullpolicy", "Always", "imagePullpolicy"),
        (TFJOB, f"{TF_POD}.containers.0.name", "train", "tensorflow"),
        (TFJOB, f"{TF_POD}.containers.0.image", None, "image"),
        (TFJOB, f"{TF_POD}.volumes.0.name", "scratch", "tmp"),
        (TFJOB, f"{TF_POD}.containers.0.resources.requests", {"nvidia.com/gpu": 2}, "equal"),
        (TFJOB, "spec.runPolicy.backoffLimit", 0, "backoffLimit"),
        (TFJOB, "metadata.name", "2-workers", "DNS-1035"),
        (TFJOB, "metadata.label", {}, "label"),
        (JOBSET, "spec.failurePolicy.maxRestart", 3, "maxRestart"),
        (JOBSET, "spec.failurePolicy.rules.0.action", "Fail", "Fail"),
        (JOBSET, f"{INNER}.completions", 4, "32 chips, not 4 pods"),
        (JOBSET, "metadata.name", "a" * 50, "63"),
        (JOB, "spec.backofLimit", 3, "backofLimit"),
        (JOB, f"{JOB_POD}.restartPolicy", "Always", "restartPolicy"),
        (JOB, f"{JOB_POD}.restartPolicy", "OnFailure", "needs restartPolicy Never"),
        (JOB, "spec.podFailurePolicy.rules.1.onExitCodes.values", [143, 138], "rise"),
        (JOB, "spec.podFailurePolicy.rules.1.onExitCodes.values", [0, 143], "no failure"),
        (JOB, f"{JOB_POD}.containers.0.resources.limits.memory", "16 GB", "quantity"),
        (JOB, f"{JOB_POD}.nodeSelector", {"gpu": True}, "gpu"),
        (JOB, f"{JOB_POD}.terminationGracePeriodSeconds", -1, "negative"),
        ("job-tpu-v5e-gcs", f"{JOB_POD}.containers.0.resources.limits", {}, "0 chips"),
        ("job-tpu-v5e-gcs", f"{JOB_POD}.nodeSelector", {}, "8 chips asked"),
    ],
)
def test_wrong_manifests_are_refused(name: str, path: str, value: Any, word: str) -> None:
    document = changed(name, path, value)
    found = schemas.faults(document) or rules.faults(document)
    assert any(word in fault for fault in found), found


def test_two_multi_host_slices_have_four_chips_a_host() -> None:
    document = changed(JOBSET, f"{INNER}.completions", 4)
    limits = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    limits["containers"][0]["resources"]["limits"]["google.com/tpu"] = 8
    assert any("have 4" in fault for fault in rules.faults(document))


def without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {k: v for k, v in node.items() if k != "description" or not isinstance(v, str)}
        return {k: without_descriptions(v) for k, v in kept.items()}
    return [without_descriptions(v) for v in node] if isinstance(node, list) else node


FILES = sorted(schemas.DEFINITIONS.glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_an_api_server_is_given_a_valid_definition(file: Path) -> None:
    assert schemas.core(schemas.definition(file)) == []
    wrong = schemas.definition(file)
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["propertys"] = {}
    assert any("propertys" in fault for fault in schemas.core(wrong))


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_the_definitions_are_those_of_the_projects(file: Path) -> None:
    path = WHOLE / f"{file.stem}.yaml"
    if not path.exists():
        pytest.skip("the whole definitions are not beside this checkout")
    whole = without_descriptions(yaml.load(path.read_text(), yaml.CSafeLoader))
    ours = schemas.definition(file)
    assert ours["metadata"]["name"] == whole["metadata"]["name"]
    ours, whole = ours["spec"], whole["spec"]
    assert (ours["group"], ours["scope"]) == (whole["group"], whole["scope"])
    assert ours["names"].items() <= whole["names"].items()
    for version, theirs in zip(ours["versions"], whole["versions"], strict=True):
        assert version.items() <= theirs.items()
