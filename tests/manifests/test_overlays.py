"""Every overlay: rendered by kubectl, strictly valid, and what its parts say about one another."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests import rules, schemas
from tests.manifests.pods import PodTemplate, templates
from tests.manifests.render import (
    MANIFESTS,
    OVERLAYS,
    ROOT,
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
    (template,) = templates(workload(documents))
    return documents, template


@functools.cache
def options_of(module: str) -> str:
    """The text of a command's --help_all."""
    command = [sys.executable, "-m", module, "--help_all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def unresolved(documents: list[dict[str, Any]], template: PodTemplate) -> list[str]:
    """Names in $(...) of the arguments that the container's environment lacks.

    Kubernetes leaves such a name in the argument as it stands.
    """
    known = environment(documents, template.main)
    if template.job is not None and template.job.get("completionMode") == "Indexed":
        known["JOB_COMPLETION_INDEX"] = "0"
    words = [*template.main["command"], *template.main["args"]]
    return [
        name for word in words for name in re.findall(r"\$\((\w+)\)", word) if name not in known
    ]


def test_there_are_overlays_for_each_kind() -> None:
    kinds = {workload(overlay(name))["kind"] for name in OVERLAYS}
    assert kinds == {"TFJob", "Job", "JobSet", "Pod"} and len(OVERLAYS) >= 14


@pytest.mark.parametrize("name", OVERLAYS)
def test_strictly_valid(name: str) -> None:
    found = [fault for d in overlay(name) for fault in schemas.faults(d) or rules.faults(d)]
    assert found == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_name_is_that_of_an_object(name: str) -> None:
    """ConfigMaps by hashed name, volume claims, service accounts, $(NAMES) in arguments."""
    documents, template = pod(name)
    spec = template.spec
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert named(documents, "ConfigMap", volume["configMap"]["name"])
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert named(documents, "PersistentVolumeClaim", claim)
    named(documents, "ServiceAccount", spec["serviceAccountName"])
    assert environment(documents, template.main)["STORAGE"]
    assert unresolved(documents, template) == []
    # The token's Secret is made by the user: no secret stands in the repository.
    assert not any(d["kind"] == "Secret" for d in documents)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_image_is_the_one_of_the_hardware(name: str) -> None:
    _, template = pod(name)
    limits = template.main["resources"]["limits"]
    tag = "tpu" if "google.com/tpu" in limits else "gpu" if "nvidia.com/gpu" in limits else "cpu"
    assert template.main["image"] == f"tpu-tlm:{tag}"
    assert ("--tpu=local" in template.main["args"]) == (tag == "tpu")
    wanted = {f"{t['key']}" for t in template.spec["tolerations"]}
    assert ("google.com/tpu" in wanted, "nvidia.com/gpu" in wanted) == (tag == "tpu", tag == "gpu")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_pod_waits_longer_than_the_save_takes(name: str) -> None:
    documents, template = pod(name)
    grace = int(environment(documents, template.main)["GRACE_SECONDS"])
    saves = "--grace_seconds=$(GRACE_SECONDS)" in template.main["args"]
    assert saves == (template.main["command"][-1] in ("tpu_tlm.train", "tpu_tlm.finetune"))
    assert not saves or template.spec["terminationGracePeriodSeconds"] >= grace + 5
    spot = "cloud.google.com/gke-spot" in template.spec["nodeSelector"]
    assert spot == ("spot" in name.split("-"))
    # What GKE gives the pods of a Spot node.
    assert not spot or template.spec["terminationGracePeriodSeconds"] <= 15


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_rights_that_are_not_needed(name: str) -> None:
    _, template = pod(name)
    context = template.main["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]} and "privileged" not in context
    root = template.spec["securityContext"].get("runAsUser") == 0
    assert root == ("google.com/tpu" in template.main["resources"]["limits"])
    assert root or template.spec["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_command_knows_its_options(name: str) -> None:
    _, template = pod(name)
    python, dash_m, module = template.main["command"]
    assert (python, dash_m) == ("python", "-m")
    text = options_of(module)
    for argument in template.main["args"]:
        option = argument.partition("=")[0]
        assert re.search(rf"{option}\b", text), f"{module} has no {option}"


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name.startswith("tfjob")])
def test_several_workers_have_a_token_and_a_closed_network(name: str) -> None:
    documents, template = pod(name)
    variables = [e["name"] for e in template.main.get("env") or []]
    assert ("TPU_TLM_JOB_TOKEN" in variables) == (template.count > 1)
    (policy,) = [d for d in documents if d["kind"] == "NetworkPolicy"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    assert labels and labels.items() <= template.labels.items()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]


@pytest.mark.parametrize("name", [name for name in OVERLAYS if "kueue" in name])
def test_the_queue_is_named(name: str) -> None:
    assert workload(overlay(name))["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]


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


@pytest.mark.parametrize("name", [name for name in OVERLAYS if "indexed" in name])
def test_each_index_knows_how_many_there_are(name: str) -> None:
    _, template = pod(name)
    assert template.job is not None and template.job["completionMode"] == "Indexed"
    assert f"--of={template.job['completions']}" in template.main["args"]
    assert "--index=$(JOB_COMPLETION_INDEX)" in template.main["args"]


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
