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
from tests.manifests.pods import PodTemplate
from tests.manifests.render import (
    MANIFESTS,
    OVERLAYS,
    environment,
    kustomize,
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
    template = one_pod(documents)
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


README = (MANIFESTS / "README.md").read_text()
EXAMPLES = re.findall(r"^ +apiVersion: kustomize.*?\n(?=\n)", README, re.M | re.S)


def example_of(text: str, directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """What a kustomization of the README begins with, and its objects, in `directory`."""
    lines = textwrap.dedent(text).replace("sha256:...", DIGEST)
    base = re.search(r"resources:\n- \.\./tpu-tlm/manifests/(\S+)\n", lines)
    assert base is not None
    namespace = re.search(r"^namespace: \S+", lines, re.M)
    assert namespace is not None
    documents = user_overlay(directory, f"{namespace[0]}\n{lines[base.end() :]}", base[1])
    assert [f for d in documents for f in schemas.faults(d) or rules.faults(d)] == []
    assert {d["metadata"]["namespace"] for d in documents} == {"training"}
    return base[1], documents


@pytest.mark.parametrize("example", EXAMPLES, ids=["volume", "dataset", "bucket"])
def test_the_kustomizations_of_the_readme(example: str, tmp_path: Path) -> None:
    """The examples that a user copies, with a recipe of the user's own."""
    (own,) = re.findall(r"files: \[(\S+)\]", example)
    (tmp_path / own).write_text("workers: 7\n")
    base, documents = example_of(example, tmp_path)
    template = one_pod(documents)
    assert template.main["image"] == f"REGISTRY/tpu-tlm@{DIGEST}"
    assert f"--config=/etc/tpu-tlm/{own}" in template.main["args"]
    (recipe,) = [v["configMap"]["name"] for v in template.spec["volumes"] if "configMap" in v]
    assert named(documents, "ConfigMap", recipe)["data"][own] == "workers: 7\n"
    environ = environment(documents, template.main)
    if own == "train.yaml":
        assert environ["RUN"] == "bert-base"
        assert template.count == (4 if "tfjob" in base else 1)
    if "gcs" in base:
        assert environ["STORAGE"] == "gs://my-bucket/tpu-tlm"
        account = named(documents, "ServiceAccount", "tpu-tlm")["metadata"]["annotations"]
        assert "my-project" in account["iam.gke.io/gcp-service-account"]
    else:
        claim = named(documents, "PersistentVolumeClaim", "tpu-tlm-storage")
        assert claim["spec"]["storageClassName"] == "CLASS"


def test_the_four_lines_of_another_combination(tmp_path: Path) -> None:
    """They stand in the place of `resources:` in an example, whose settings reach the pods."""
    (block,) = re.findall(r"^    resources:\n.*\n    components:\n(?:    - .*\n)+", README, re.M)
    lines = textwrap.dedent(EXAMPLES[0]).replace("sha256:...", DIGEST)
    text = re.sub(r"resources:\n- \S+\n", textwrap.dedent(block), lines)
    (tmp_path / "tpu-tlm").symlink_to(MANIFESTS.parent)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.yaml").write_text("steps: 7\n")
    (tmp_path / "mine" / "kustomization.yaml").write_text(text)
    documents = kustomize(tmp_path / "mine")
    assert [f for d in documents for f in schemas.faults(d) or rules.faults(d)] == []
    template = one_pod(documents)
    assert template.main["image"] == f"REGISTRY/tpu-tlm@{DIGEST}"
    assert environment(documents, template.main)["RUN"] == "bert-base"
    assert template.main["resources"]["limits"]["google.com/tpu"] == 8
    assert any("persistentVolumeClaim" in volume for volume in template.spec["volumes"])


def test_directories_of_one_volume_ask_for_the_same_claim(tmp_path: Path) -> None:
    """A claim cannot be changed: the example of a dataset and that of a training share theirs."""
    claims = []
    for number, example in enumerate(EXAMPLES[:2]):
        directory = tmp_path / str(number)
        directory.mkdir()
        for name in ("train.yaml", "preprocess.yaml"):
            (directory / name).write_text("workers: 7\n")
        _, documents = example_of(example, directory)
        claims.append(named(documents, "PersistentVolumeClaim", "tpu-tlm-storage"))
    assert claims[0] == claims[1]


def test_the_commands_of_the_readme_find_what_they_name() -> None:
    """Namespace, jobs, and the pod to copy through, which is made, used and deleted."""
    code = "\n".join(re.findall(r"^ {4,}(\S.*)$", README, re.M)).replace("\\\n", " ")
    commands = [line for line in code.splitlines() if line.startswith("kubectl")]
    jobs = {workload(overlay(name))["metadata"]["name"] for name in OVERLAYS}
    there = False
    for line in commands:
        made_by_a_directory = re.match(r"kubectl (kustomize|apply -k|delete -k) ", line)
        assert made_by_a_directory or "--namespace training" in line, line
        assert set(re.findall(r"\bjob/([\w-]+)", line)) <= jobs, line
        if "copy.yaml" in line:
            there = True
        elif "tpu-tlm-copy" in line:
            assert there, f"{line}: the pod is not there"
            there = "delete pod" not in line
    assert sum(" cp " in line for line in commands) == 3 and not there


def test_no_work_of_a_dataset_is_lost_with_its_pod() -> None:
    """It is in the output on a volume or of several pods, else where --work_dir says."""
    for name in (name for name in OVERLAYS if name.startswith("preprocess-")):
        given = [a for a in one_pod(overlay(name)).main["args"] if a.startswith("--work_dir")]
        in_output = "-pvc" in name or "-indexed-" in name
        assert given == ([] if in_output else ["--work_dir=$(STORAGE)/work"]), name


def test_the_table_names_every_overlay() -> None:
    missing = [name for name in OVERLAYS if f"overlays/{name}`" not in README]
    assert missing == []
    for name in re.findall(r"`overlays/([\w-]+)`", README):
        assert name in OVERLAYS


def test_the_table_of_combinations_names_every_part() -> None:
    table = README.partition("| `bases/` |")[2].partition("\n\n")[0]
    folders = [*(MANIFESTS / "bases").iterdir(), *(MANIFESTS / "components").iterdir()]
    assert set(re.findall(r"`([\w-]+)`", table)) == {path.name for path in folders} - {"common"}


def test_the_pod_to_copy_through_holds_the_claim_and_is_no_worker() -> None:
    copying = yaml.safe_load((MANIFESTS / "copy.yaml").read_text())
    assert schemas.faults(copying) == []
    (volume,) = copying["spec"]["volumes"]
    claim = named(overlay("tfjob-gpu-pvc"), "PersistentVolumeClaim", "tpu-tlm-storage")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (policy,) = [d for d in overlay("tfjob-gpu-pvc") if d["kind"] == "NetworkPolicy"]
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert not wanted.items() <= copying["metadata"]["labels"].items()
