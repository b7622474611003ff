"""TF_CONFIG -> the processes that train together; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import strict
from tpu_tlm.errors import UsageError

# Task types that train, the chief first; legacy TFJobs call their chief `master`.
_KINDS = ("chief", "master", "worker")
_LONGEST = 1 << 20
_FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """The processes that train together, the chief (without one, worker 0) first.

    `host`: the number of this process among them.
    """

    addresses: tuple[str, ...]
    names: tuple[str, ...]
    host: int

    def title(self, host: int) -> str:
        """The name of a process in messages: "worker 1 (job-worker-1.team.svc:2222)"."""
        return f"{self.names[host]} ({self.addresses[host]})"

    def endpoint(self, host: int) -> tuple[str, int]:
        """Host name and port of a process. Raises `UsageError` where TF_CONFIG has no such form."""
        name, _, port = self.addresses[host].rpartition(":")
        digits = port.isascii() and port.isdigit() and len(port) <= 5
        if not name or not digits or not 0 < int(port) < 65536:
            raise UsageError(
                f"TF_CONFIG: {self.addresses[host]!r} is not host:port with a port from 1 to 65535"
            )
        return name.strip("[]"), int(port)


def _loaded(environ: Mapping[str, str]) -> dict[str, Any]:
    text = environ.get("TF_CONFIG", "")
    if not text:
        return {}
    loaded = strict.read_json(text, "TF_CONFIG", max_bytes=_LONGEST)
    if not isinstance(loaded, dict):
        raise UsageError("TF_CONFIG must be an object with cluster and task")
    if "sparseCluster" in loaded:
        raise UsageError(
            "TF_CONFIG has a sparseCluster, which does not name the other workers: "
            "set enableDynamicWorker: false in the TFJob"
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
    """Number of processes in TF_CONFIG that train; 0 where it is not set."""
    cluster = _loaded(environ).get("cluster") or {}
    return sum(len(cluster.get(kind, [])) for kind in _KINDS)


def named(environ: Mapping[str, str]) -> Cluster | None:
    """`cluster_of` where TF_CONFIG has a cluster or a task, else None."""
    config = _loaded(environ)
    return cluster_of(environ) if config.get("cluster") or config.get("task") else None


def cluster_of(environ: Mapping[str, str]) -> Cluster:
    """The job that TF_CONFIG describes, as TensorFlow reads it and the TFJob controller writes it.

    Raises `UsageError` where TF_CONFIG is missing or incomplete, or this task does not train.
    """
    config = _loaded(environ)
    if not config:
        raise UsageError(f"--distribute multiworker: TF_CONFIG is not set; it must be like {_FORM}")
    cluster, task = config.get("cluster") or {}, config.get("task") or {}
    kind, index = task.get("type"), task.get("index")
    if kind not in _KINDS or kind not in cluster:
        raise UsageError(
            f"TF_CONFIG: task type {kind!r} does not train; only chief, master and worker do, "
            "and the cluster must list it"
        )
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(cluster[kind]):
        raise UsageError(
            f"TF_CONFIG: task index {index!r} is not one of the cluster's "
            f"{len(cluster[kind])} {kind}s"
        )
    tasks = [
        (kind, number, address)
        for kind in _KINDS
        for number, address in enumerate(cluster.get(kind, []))
    ]
    names = tuple(f"worker {number}" if kind == "worker" else kind for kind, number, _ in tasks)
    host = [place[:2] for place in tasks].index((kind, index))
    found = Cluster(tuple(address for *_, address in tasks), names, host)
    for number in range(len(tasks)):
        found.endpoint(number)
    return found
