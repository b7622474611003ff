"""What servers and operators refuse beyond a schema: Kubernetes, Training Operator, JobSet, GKE.

Read from the sources of kube-apiserver, Training Operator 1.9.4 and JobSet 0.12.0, and from GKE's
documentation of TPUs; as far as `manifests/` can meet them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from tests.manifests.pods import PodTemplate, templates
from tests.manifests.schemas import QUANTITY

_LABEL = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_DNS = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_PORT = r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?"
_EFFECTS = (None, "NoSchedule", "PreferNoSchedule", "NoExecute")


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with one object that its schema accepts; [] for a good one."""
    kind, name = document["kind"], document["metadata"]["name"]
    found = []
    if not re.fullmatch(rf"{_DNS}(\.{_DNS})*", name):
        found.append(f"metadata.name: {name!r} is no DNS subdomain")
    if kind == "TFJob":
        found += _tfjob(document)
    if kind == "JobSet":
        found += _jobset(document)
    for template in templates(document):
        found += [f"{template.where}: {fault}" for fault in _pod(template)]
        if template.job is not None:
            found += [f"{template.where}: {fault}" for fault in _job(template)]
    return found


def _tfjob(document: dict[str, Any]) -> Iterator[str]:
    name, replicas = document["metadata"]["name"], document["spec"]["tfReplicaSpecs"]
    if not re.fullmatch(_LABEL, name) or len(name) > 63:
        yield f"metadata.name: {name!r} is no DNS-1035 label"
    if {"Chief", "Master"} <= set(replicas):
        yield "spec.tfReplicaSpecs: not both Chief and Master"
    for kind, replica in replicas.items():
        if kind not in ("PS", "Worker", "Chief", "Master", "Evaluator"):
            yield f"spec.tfReplicaSpecs: the operator ignores the replica type {kind!r}"
        policy = replica.get("restartPolicy", "Never")
        if policy not in ("Always", "OnFailure", "Never", "ExitCode"):
            yield f"spec.tfReplicaSpecs.{kind}.restartPolicy: {policy!r}"
        containers = replica["template"]["spec"].get("containers", [])
        if "tensorflow" not in [c.get("name") for c in containers]:
            yield f"spec.tfReplicaSpecs.{kind}: no container is named tensorflow"
    if document["spec"].get("runPolicy", {}).get("backoffLimit") == 0:
        yield "spec.runPolicy.backoffLimit: 0 ends the job at the first restart"


def _jobset(document: dict[str, Any]) -> Iterator[str]:
    name, spec = document["metadata"]["name"], document["spec"]
    jobs = [job["name"] for job in spec["replicatedJobs"]]
    for number, job in enumerate(spec["replicatedJobs"]):
        pods = job["template"]["spec"].get("completions") or 1
        pod = f"{name}-{job['name']}-{job.get('replicas', 1) - 1}-{pods - 1}-abcde"
        if len(pod) > 63 or not re.fullmatch(_LABEL, pod):
            yield f"spec.replicatedJobs: pod name {pod!r} is over 63 long or no DNS-1035 label"
        if number == 0 and job.get("dependsOn"):
            yield "spec.replicatedJobs.0.dependsOn: the first job can depend on none"
    for target in (spec.get("successPolicy") or {}).get("targetReplicatedJobs", []):
        if target not in jobs:
            yield f"spec.successPolicy: no replicated job {target!r}"


def _job(template: PodTemplate) -> Iterator[str]:
    job = template.job or {}
    indexed = job.get("completionMode") == "Indexed"
    if indexed and not job.get("completions"):
        yield "completions is required when completionMode is Indexed"
    policy = job.get("podFailurePolicy")
    if policy is None:
        return
    if template.spec.get("restartPolicy") != "Never":
        yield "podFailurePolicy needs restartPolicy Never"
    for rule in policy["rules"]:
        on_codes = rule.get("onExitCodes") or {}
        values = on_codes.get("values", [])
        if values != sorted(set(values)):
            yield f"podFailurePolicy: exit codes {values} must rise"
        if on_codes.get("operator") == "In" and 0 in values:
            yield "podFailurePolicy: 0 is no failure"
        if on_codes.get("containerName") not in (None, *_names(template.spec)):
            yield f"podFailurePolicy: no container {on_codes['containerName']!r}"
        if bool(on_codes) == bool(rule.get("onPodConditions")):
            yield "podFailurePolicy: a rule has either onExitCodes or onPodConditions"
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in job:
            yield "podFailurePolicy: FailIndex needs backoffLimitPerIndex"


def _names(spec: dict[str, Any]) -> list[str]:
    return [c["name"] for c in _containers(spec)]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _pod(template: PodTemplate) -> Iterator[str]:
    spec = template.spec
    if spec.get("restartPolicy") not in template.policies:
        yield f"restartPolicy: {spec.get('restartPolicy')!r}"
    for key, value in [*template.labels.items(), *(spec.get("nodeSelector") or {}).items()]:
        if len(value) > 63 or not re.fullmatch(_VALUE, value):
            yield f"{key}: {value!r} is no label value"
    for t in spec.get("tolerations") or []:
        known = t.get("operator") in (None, "Exists", "Equal") and t.get("effect") in _EFFECTS
        if not known or not (t.get("key") or t.get("operator") == "Exists"):
            yield f"tolerations: {t}"
        if t.get("operator") == "Exists" and t.get("value"):
            yield f"tolerations: {t}: a value with Exists"
    names, volumes = _names(spec), [v["name"] for v in spec.get("volumes") or []]
    for name in [*names, *volumes, spec.get("serviceAccountName") or "x"]:
        if len(name) > 63 or not re.fullmatch(_DNS, name):
            yield f"{name!r} is no DNS label"
    if not spec.get("containers") or len({*names}) < len(names) or len({*volumes}) < len(volumes):
        yield "no container, or the name of a container or volume twice"
    for volume in spec.get("volumes") or []:
        size = (volume.get("emptyDir") or {}).get("sizeLimit", 0)
        if not re.match(QUANTITY, str(size)):
            yield f"volumes.{volume['name']}: {size!r} is no quantity"
        if len(set(volume) - {"name"}) != 1:
            yield f"volumes.{volume['name']}: exactly one source is needed"
    for container in _containers(spec):
        yield from (f"{container['name']}.{fault}" for fault in _container(container, volumes))
    yield from (f"{path} is negative" for path in _negatives(spec))
    yield from _tpu(spec, template.count)


def _container(container: dict[str, Any], volumes: list[str]) -> Iterator[str]:
    if not container.get("image"):
        yield "image: missing"
    mounts, ports = container.get("volumeMounts") or [], container.get("ports") or []
    for mount in mounts:
        if mount["name"] not in volumes or not mount["mountPath"]:
            yield f"volumeMounts: no volume {mount['name']!r}, or no path"
    if len({m["mountPath"] for m in mounts}) < len(mounts):
        yield "volumeMounts: a path twice"
    port_names = [p["name"] for p in ports if "name" in p]
    if len(set(port_names)) < len(port_names):
        yield "ports: a name twice"
    if not all(re.fullmatch(_PORT, name) for name in port_names):
        yield f"ports: a name of {port_names} is not up to 15 of a-z, 0-9 and -"
    for variable in container.get("env") or []:
        source = variable.get("valueFrom")
        if source is not None and (len(source) != 1 or "value" in variable):
            yield f"env.{variable['name']}: one source, or a value"
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name, value in [*limits.items(), *requests.items()]:
        if not re.match(QUANTITY, str(value)) or str(value).startswith("-"):
            yield f"resources.{name}: {value!r} is no quantity"
    # Extended resources: google.com/tpu, nvidia.com/gpu.
    for name in {n for n in [*limits, *requests] if "/" in n}:
        if str(requests.get(name, limits.get(name))) != str(limits.get(name)):
            yield f"resources: request and limit of {name} must be equal"


def _negatives(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _negatives(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _negatives(value, f"{path}.{number}")
    elif isinstance(node, int) and node < 0:
        yield path


def _tpu(spec: dict[str, Any], hosts: int) -> Iterator[str]:
    """GKE: one pod a host asks for all its chips; hosts of a multi-host slice have four each."""
    selector = spec.get("nodeSelector") or {}
    kind = selector.get("cloud.google.com/gke-tpu-accelerator")
    topology = selector.get("cloud.google.com/gke-tpu-topology")
    limits = [(c.get("resources") or {}).get("limits") or {} for c in spec["containers"]]
    chips = [limit.get("google.com/tpu", 0) for limit in limits]
    numbers = all(re.fullmatch(r"\d+", str(n)) for n in chips)
    if not numbers or not re.fullmatch(r"\d+(x\d+){0,2}", topology or "1"):
        yield f"google.com/tpu: {chips}, topology {topology!r}: not numbers"
        return
    asked = sum(map(int, chips))
    if bool(asked) != bool(kind and topology):
        yield f"{asked} chips asked with accelerator {kind} and topology {topology}"
    elif asked:
        there = math.prod(map(int, (topology or "").split("x")))
        if hosts * asked != there:
            yield f"topology {topology} has {there} chips, not {hosts} pods x {asked} chips"
        elif hosts > 1 and asked != 4:
            yield f"{asked} chips a host: hosts of a slice of several have 4"
