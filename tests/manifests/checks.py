"""What the parts of one rendered manifest must say about one another, whatever it is made of."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import Any

from tests.manifests import rules, schemas
from tests.manifests.pods import PodTemplate, templates
from tests.manifests.render import ROOT, environment, named, workload

Documents = list[dict[str, Any]]
ACCELERATORS = {"v5e": "tpu-v5-lite-podslice", "v6e": "tpu-v6e-slice"}


@functools.cache
def options_of(module: str) -> str:
    """The text of a command's --help_all."""
    command = [sys.executable, "-m", module, "--help_all"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def unresolved(documents: Documents, template: PodTemplate) -> list[str]:
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


def strictly_valid(documents: Documents, pod: PodTemplate) -> None:
    """Servers and operators accept every object."""
    assert [f for d in documents for f in schemas.faults(d) or rules.faults(d)] == []


def names(documents: Documents, pod: PodTemplate) -> None:
    """ConfigMaps by hashed name, volume claims, service accounts, $(NAMES) in arguments."""
    for volume in pod.spec["volumes"]:
        if "configMap" in volume:
            assert named(documents, "ConfigMap", volume["configMap"]["name"])
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert named(documents, "PersistentVolumeClaim", claim)
    named(documents, "ServiceAccount", pod.spec["serviceAccountName"])
    assert environment(documents, pod.main)["STORAGE"]
    assert unresolved(documents, pod) == []
    # The token's Secret is made by the user: no secret stands in the repository.
    assert not any(d["kind"] == "Secret" for d in documents)


def image_of_the_hardware(documents: Documents, pod: PodTemplate) -> None:
    """Image, --tpu=local and tolerations are those of the chips that are asked for."""
    limits = pod.main["resources"]["limits"]
    tag = "tpu" if "google.com/tpu" in limits else "gpu" if "nvidia.com/gpu" in limits else "cpu"
    assert pod.main["image"] == f"tpu-tlm:{tag}"
    assert ("--tpu=local" in pod.main["args"]) == (tag == "tpu")
    wanted = {t["key"] for t in pod.spec["tolerations"]}
    assert ("google.com/tpu" in wanted, "nvidia.com/gpu" in wanted) == (tag == "tpu", tag == "gpu")


def time_to_save(documents: Documents, pod: PodTemplate) -> None:
    """The pod waits longer than the save takes."""
    grace = int(environment(documents, pod.main)["GRACE_SECONDS"])
    saves = "--grace_seconds=$(GRACE_SECONDS)" in pod.main["args"]
    assert saves == (pod.main["command"][-1] in ("tpu_tlm.train", "tpu_tlm.finetune"))
    assert not saves or pod.spec["terminationGracePeriodSeconds"] >= grace + 5
    # What GKE gives the pods of a Spot node.
    spot = "cloud.google.com/gke-spot" in pod.spec["nodeSelector"]
    assert not spot or pod.spec["terminationGracePeriodSeconds"] <= 15


def no_rights_that_are_not_needed(documents: Documents, pod: PodTemplate) -> None:
    """Root only where there is a TPU; nothing privileged."""
    context = pod.main["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]} and "privileged" not in context
    root = pod.spec["securityContext"].get("runAsUser") == 0
    assert root == ("google.com/tpu" in pod.main["resources"]["limits"])
    assert root or pod.spec["securityContext"]["runAsNonRoot"]


def options_of_the_command(documents: Documents, pod: PodTemplate) -> None:
    """The command knows its options."""
    python, dash_m, module = pod.main["command"]
    assert (python, dash_m) == ("python", "-m")
    text = options_of(module)
    for argument in pod.main["args"]:
        option = argument.partition("=")[0]
        assert re.search(rf"{option}\b", text), f"{module} has no {option}"


def token_and_closed_network(documents: Documents, pod: PodTemplate) -> None:
    """Workers of a TFJob have a token; theirs and a slice's ports are closed to all others."""
    kind = workload(documents)["kind"]
    variables = [e["name"] for e in pod.main.get("env") or []]
    # The hosts of a slice find one another by the TPU's own software, without TF_CONFIG.
    assert ("TPU_TLM_JOB_TOKEN" in variables) == (kind == "TFJob" and pod.count > 1)
    policies = [d for d in documents if d["kind"] == "NetworkPolicy"]
    assert len(policies) == (kind in ("TFJob", "JobSet"))
    for policy in policies:
        labels = policy["spec"]["podSelector"]["matchLabels"]
        assert labels and labels.items() <= pod.labels.items()
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]


def number_of_indexes(documents: Documents, pod: PodTemplate) -> None:
    """Each pod of an Indexed Job knows its number and how many there are."""
    divided = any(argument.startswith("--index") for argument in pod.main["args"])
    if divided:
        assert pod.job is not None and pod.job["completionMode"] == "Indexed"
        assert f"--of={pod.job['completions']}" in pod.main["args"]
        assert "--index=$(JOB_COMPLETION_INDEX)" in pod.main["args"]


CHECKS = (
    strictly_valid,
    names,
    image_of_the_hardware,
    time_to_save,
    no_rights_that_are_not_needed,
    options_of_the_command,
    token_and_closed_network,
    number_of_indexes,
)


def one_pod(documents: Documents) -> PodTemplate:
    """The one pod template among a manifest's objects."""
    (template,) = templates(workload(documents))
    return template


def as_named(documents: Documents, words: set[str]) -> None:
    """A manifest has what the words of its name, or of its components' names, promise."""
    found, pod = workload(documents), one_pod(documents)
    storage = environment(documents, pod.main)["STORAGE"]
    assert storage.startswith("gs://") == ("gcs" in words)
    # Of the volume, and of what mounts it: kustomize does not say that a patch found no object.
    assert any(d["kind"] == "PersistentVolumeClaim" for d in documents) == ("pvc" in words)
    claims = [v["name"] for v in pod.spec["volumes"] if "persistentVolumeClaim" in v]
    mounts = [m["name"] for m in pod.main["volumeMounts"] if m["mountPath"] == storage]
    assert claims == mounts and bool(claims) == ("pvc" in words)
    assert ("nvidia.com/gpu" in pod.main["resources"]["limits"]) == ("gpu" in words)
    kinds = [ACCELERATORS[word] for word in words & ACCELERATORS.keys()]
    accelerator = pod.spec["nodeSelector"].get("cloud.google.com/gke-tpu-accelerator")
    assert [accelerator] == (kinds or [None])
    spot = pod.spec["nodeSelector"].get("cloud.google.com/gke-spot") == "true"
    assert spot == ("spot" in words)
    queue = (found["metadata"].get("labels") or {}).get("kueue.x-k8s.io/queue-name")
    assert bool(queue) == ("kueue" in words)
    divided = any(argument.startswith("--index") for argument in pod.main["args"])
    assert divided == ("indexed" in words)
