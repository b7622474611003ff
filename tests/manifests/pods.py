"""The pods that an object makes, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PodTemplate:
    """One kind of pod: path in the object, labels, spec, how many, allowed restart policies."""

    where: str
    labels: dict[str, str]
    spec: dict[str, Any]
    count: int
    policies: tuple[str | None, ...]
    job: dict[str, Any] | None = None

    @property
    def main(self) -> dict[str, Any]:
        """The first container."""
        container: dict[str, Any] = self.spec["containers"][0]
        return container


def templates(document: dict[str, Any]) -> Iterator[PodTemplate]:
    """All pod templates of a Pod, Job, JobSet or TFJob; nothing for other kinds."""
    spec, kind = document.get("spec") or {}, document["kind"]
    any_policy = ("Always", "OnFailure", "Never", None)
    if kind == "Pod":
        labels = document["metadata"].get("labels") or {}
        yield PodTemplate("spec", labels, spec, 1, any_policy)
    elif kind == "Job":
        yield _of_job("spec", spec, ("OnFailure", "Never"))
    elif kind == "JobSet":
        for number, job in enumerate(spec["replicatedJobs"]):
            where = f"spec.replicatedJobs.{number}.template.spec"
            yield _of_job(where, job["template"]["spec"], ("OnFailure", "Never", None))
    elif kind == "TFJob":
        for name, replica in spec["tfReplicaSpecs"].items():
            where = f"spec.tfReplicaSpecs.{name}.template"
            template = replica["template"]
            labels = (template.get("metadata") or {}).get("labels") or {}
            count = replica.get("replicas", 1)
            yield PodTemplate(where, labels, template["spec"], count, any_policy)


def _of_job(where: str, spec: dict[str, Any], policies: tuple[str | None, ...]) -> PodTemplate:
    template = spec["template"]
    labels = (template.get("metadata") or {}).get("labels") or {}
    count = spec.get("completions") or spec.get("parallelism") or 1
    where = f"{where}.template.spec"
    return PodTemplate(where, labels, template["spec"], count, policies, spec)
