"""Which overlays need a story of their own: those that behave alike on this machine share one."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tests.manifests.pods import templates
from tests.manifests.render import OVERLAYS, overlay, workload

TRAINING = [name for name in OVERLAYS if name.split("-")[0] in ("tfjob", "job", "jobset", "pod")]
# Text to a vocabulary and a dataset; a task learned; a run measured.
OTHERS = [name for name in OVERLAYS if name not in TRAINING]


def behaviour(name: str) -> str:
    """What distinguishes an overlay on this machine: two of the same need one story."""
    found = workload(overlay(name))
    (template,) = templates(found)
    args = [a for a in template.main["args"] if a != "--tpu=local"]
    job = {k: v for k, v in (template.job or {}).items() if k.startswith(("backoff", "podFail"))}
    pods = template.count if found["kind"] == "TFJob" else 1
    policies = [found["spec"].get("failurePolicy"), template.spec.get("restartPolicy"), job]
    return json.dumps([found["kind"], template.main["command"], args, pods, policies])


def one_of_each(names: Iterable[str]) -> list[str]:
    """Those of the overlays of which no two behave alike here; the first ones by name."""
    return sorted({behaviour(name): name for name in sorted(names, reverse=True)}.values())
