"""The workers of a job, as TF_CONFIG names them; TensorFlow is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpu_tlm.errors import UsageError

# The kinds of task that train, the one that writes first; legacy TFJobs call their chief `master`.
_KINDS = ("chief", "master", "worker")
_FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """The processes that train together, the chief (or, where there is none, worker 0) first; `host`: this one's number."""

    addresses: tuple[str, ...]
    names: tuple[str, ...]
    host: int

    def title(self, host: int) -> str:
        """How messages call a process: "worker 1 (job-worker-1.team.svc:2222)"."""
        return f"{self.names[host]} ({self.addresses[host]})"

    def endpoint(self, host: int) -> tuple[str, int]:
        """Name and port of a process. Raises `UsageError` where TF_CONFIG gives no port."""
        name, _, port = self.addresses[host].rpartition(":")
        if not name or not port.isdigit():
            raise UsageError(f"TF_CONFIG: {self.addresses[host]!r} is not host:port")
        return name.strip("[]"), int(port)


def _loaded(environ: Mapping[str, str]) -> dict[str, Any]:
    text = environ.get("TF_CONFIG", "")
    if not text:
        return {}
    try:
        loaded = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"TF_CONFIG is not JSON: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError("TF_CONFIG must be an object with cluster and task")
    if "sparseCluster" in loaded:
        raise UsageError(
            "TF_CONFIG has a sparseCluster, which names no other workers: set enableDynamicWorker: false in the TFJob"
        )
    for name in ("cluster", "task"):
        if not isinstance(loaded.get(name) or {}, dict):
            raise UsageError(f"TF_CONFIG: {name} must be an object; write it like {_FORM}")
    for kind, addresses in (loaded.get("cluster") or {}).items():
        if not isinstance(addresses, list) or not all(
            isinstance(address, str) for address in addresses
        ):
            raise UsageError(
                f"TF_CONFIG: {kind} must be the list of all its host:port; write it like {_FORM}"
            )
    return loaded


def workers(environ: Mapping[str, str]) -> int:
    """How many processes of TF_CONFIG train; 0 where it is not set."""
    cluster = _loaded(environ).get("cluster") or {}
    return sum(len(cluster.get(kind, [])) for kind in _KINDS)


def named(environ: Mapping[str, str]) -> Cluster | None:
    """`cluster_of` where TF_CONFIG names processes or this one's task, else None."""
    config = _loaded(environ)
    return cluster_of(environ) if config.get("cluster") or config.get("task") else None


def cluster_of(environ: Mapping[str, str]) -> Cluster:
    """The job that TF_CONFIG describes, in the form that TensorFlow reads and Kubeflow's TFJob controller writes.

    Raises `UsageError` where TF_CONFIG is missing, is incomplete, or gives this process another part than training.
    """
    config = _loaded(environ)
    if not config:
        raise UsageError(f"--distribute multiworker: TF_CONFIG is not set; it must be like {_FORM}")
    cluster, task = config.get("cluster") or {}, config.get("task") or {}
    kind, index = task.get("type"), task.get("index")
    if kind not in _KINDS or kind not in cluster:
        raise UsageError(
            f"TF_CONFIG: task type {kind!r} does not train; only chief, master and worker do, and the cluster must list it"
        )
    if not isinstance(index, int) or not 0 <= index < len(cluster[kind]):
        raise UsageError(
            f"TF_CONFIG: task index {index!r} is not one of the cluster's {len(cluster[kind])} {kind}s"
        )
    tasks = [
        (kind, number, address)
        for kind in _KINDS
        for number, address in enumerate(cluster.get(kind, []))
    ]
    names = tuple(f"worker {number}" if kind == "worker" else kind for kind, number, _ in tasks)
    host = [place[:2] for place in tasks].index((kind, index))
    return Cluster(tuple(address for *_, address in tasks), names, host)
