"""Every overlay: rendered by kubectl, strictly valid, and what its parts say about one another."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import rules, schemas
from tests.manifests.checks import CHECKS, as_named, one_pod
from tests.manifests.combined import combined
from tests.manifests.pods import PodTemplate, templates
from tests.manifests.render import (
    MANIFESTS,
    OVERLAYS,
    environment,
    named,
    needs,
    overlay,
    user_overlay,
    workload,
)

needs("kubernetes_validate")
DIGEST = "sha256:" + "0123456789abcdef" * 4


def pod(name: str) -> tuple[list[dict[str, Any]], PodTemplate]:
    """An overlay's objects and the one pod template among them."""
    documents = overlay(name)
    return documents, one_pod(documents)


def test_there_are_overlays_for_each_kind() -> None:
    kinds = {workload(overlay(name))["kind"] for name in OVERLAYS}
    assert kinds == {"TFJob", "Job", "JobSet", "Pod"} and len(OVERLAYS) >= 14


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", OVERLAYS)
def test_the_parts_of_an_overlay_agree(name: str, check: Callable[..., None]) -> None:
    check(*pod(name))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_what_its_name_says(name: str) -> None:
    as_named(overlay(name), set(name.split("-")))


def test_every_combination_of_parts(tmp_path: Path) -> None:
    """Those that no overlay is made of too: "a base and its components", as the README says."""
    every = combined(tmp_path)
    assert len(every) > 100
    for parts, documents in every.items():
        try:
            as_named(documents, set("-".join(parts).split("-")))
            for check in CHECKS:
                check(documents, one_pod(documents))
        except AssertionError as error:
            raise AssertionError(f"{' + '.join(parts)}: {error}") from error


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_user_sets_image_names_and_settings(name: str, tmp_path: Path) -> None:
    """An image by digest, a name suffix and another place reach every kind of object."""
    text = f"""
nameSuffix: -mine
images:
- name: tpu-tlm
  newName: images.example/team/tpu-tlm
  digest: {DIGEST}
configMapGenerator:
- name: tpu-tlm-settings
  behavior: merge
  literals:
  - RUN=mine
"""
    documents = user_overlay(tmp_path / "mine", text, f"overlays/{name}")
    (template,) = templates(workload(documents))
    assert template.main["image"] == f"images.example/team/tpu-tlm@{DIGEST}"
    assert environment(documents, template.main)["RUN"] == "mine"
    named(documents, "ServiceAccount", template.spec["serviceAccountName"])
    assert template.spec["serviceAccountName"] == "tpu-tlm-mine"
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in template.spec["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert claims == [
        d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"
    ]
    # The Secret is the user's, outside of the kustomization: its name stays.
    secrets = [e["valueFrom"]["secretKeyRef"]["name"] for e in template.main.get("env") or []]
    assert set(secrets) <= {"tpu-tlm-job-token"}


def test_a_strategic_merge_patch_loses_the_image_and_is_noticed(tmp_path: Path) -> None:
    """The trap of kustomize with custom kinds that the README warns of: silence, then no image."""
    text = """
patches:
- patch: |-
    apiVersion: kubeflow.org/v1
    kind: TFJob
    metadata: {name: tpu-tlm}
    spec:
      tfReplicaSpecs:
        Worker:
          template:
            spec:
              containers:
              - name: tensorflow
                args: [--steps=10]
"""
    documents = user_overlay(tmp_path / "mine", text, "overlays/tfjob-cpu-pvc")
    found = rules.faults(workload(documents))
    assert any("image: missing" in fault for fault in found), found


EXAMPLES = re.findall(
    r"^ +apiVersion: kustomize.*?\n(?=\n)", (MANIFESTS / "README.md").read_text(), re.M | re.S
)


@pytest.mark.parametrize("example", EXAMPLES, ids=["volume", "bucket"])
def test_the_kustomizations_of_the_readme(example: str, tmp_path: Path) -> None:
    """The examples that a user copies, with a recipe of the user's own."""
    lines = textwrap.dedent(example).replace("sha256:...", DIGEST)
    base = re.search(r"resources:\n- \.\./tpu-tlm/manifests/(\S+)\n", lines)
    assert base is not None
    (tmp_path / "train.yaml").write_text("steps: 7\n")
    namespace = re.search(r"^namespace: \S+", lines, re.M)
    assert namespace is not None
    rest = f"{namespace[0]}\n{lines[base.end() :]}"
    documents = user_overlay(tmp_path, rest, base[1])
    assert [f for d in documents for f in schemas.faults(d) or rules.faults(d)] == []
    assert {d["metadata"]["namespace"] for d in documents} == {"training"}
    (template,) = templates(workload(documents))
    assert template.main["image"] == f"REGISTRY/tpu-tlm@{DIGEST}"
    environ = environment(documents, template.main)
    assert environ["RUN"] == "bert-base"
    (recipe,) = [v["configMap"]["name"] for v in template.spec["volumes"] if "configMap" in v]
    assert named(documents, "ConfigMap", recipe)["data"]["train.yaml"] == "steps: 7\n"
    if "gcs" in base[1]:
        assert environ["STORAGE"] == "gs://my-bucket/tpu-tlm"
        account = named(documents, "ServiceAccount", "tpu-tlm")["metadata"]["annotations"]
        assert "my-project" in account["iam.gke.io/gcp-service-account"]
    else:
        claim = named(documents, "PersistentVolumeClaim", "tpu-tlm-storage")
        assert claim["spec"]["storageClassName"] == "CLASS" and template.count == 4


def test_the_table_names_every_overlay() -> None:
    readme = (MANIFESTS / "README.md").read_text()
    missing = [name for name in OVERLAYS if f"overlays/{name}`" not in readme]
    assert missing == []
    for name in re.findall(r"`overlays/([\w-]+)`", readme):
        assert name in OVERLAYS


def test_the_pod_to_copy_through_holds_the_claim_and_is_no_worker() -> None:
    copying = yaml.safe_load((MANIFESTS / "copy.yaml").read_text())
    assert schemas.faults(copying) == []
    (volume,) = copying["spec"]["volumes"]
    claim = named(overlay("tfjob-gpu-pvc"), "PersistentVolumeClaim", "tpu-tlm-storage")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (policy,) = [d for d in overlay("tfjob-gpu-pvc") if d["kind"] == "NetworkPolicy"]
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert not wanted.items() <= copying["metadata"]["labels"].items()
