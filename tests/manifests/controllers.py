"""Kubernetes' controllers, here: a manifest's pods as processes, started again by its policy.

A pod gets the command, arguments and environment of its first container, as the kubelet and the
controller would give them. Volumes are directories here: a path that begins with a mount path is
replaced by the directory's; each pod has a /tmp of its own. What a controller decides from exit
codes is read from the sources of Kubernetes 1.37, Training Operator 1.9.4 and JobSet 0.12.0.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from tests import preloaded
from tests.manifests.pods import templates
from tests.manifests.render import ROOT, environment, named, workload
from tests.ports import free_ports

PATIENCE = 600.0


def exit_code(returned: int) -> int:
    """A container's exit code: 128 + n where signal n ended it."""
    return returned if returned >= 0 else 128 - returned


def retried_by_tfjob(policy: str, code: int) -> bool:
    """Whether Training Operator makes a failed pod anew."""
    return policy in ("Always", "OnFailure") or (policy == "ExitCode" and code >= 128)


def action_of_job(job: Mapping[str, Any], code: int, disrupted: bool = False) -> str:
    """What a Job's podFailurePolicy says of a failed pod: Ignore, Count, FailJob or FailIndex.

    disrupted: whether the pod has the condition DisruptionTarget, as one that is evicted has.
    """
    for rule in (job.get("podFailurePolicy") or {}).get("rules", []):
        on_codes = rule.get("onExitCodes")
        if on_codes is None:
            conditions = [c["type"] for c in rule["onPodConditions"]]
            matches = disrupted and "DisruptionTarget" in conditions
        else:
            matches = (code in on_codes["values"]) == (on_codes["operator"] == "In")
        if matches:
            return str(rule["action"])
    return "Count"


def action_of_jobset(jobset: Mapping[str, Any], reason: str) -> str:
    """What a JobSet's failurePolicy says of a Job that failed for this reason."""
    policy = jobset["spec"].get("failurePolicy")
    if policy is None:
        return "FailJobSet"
    for rule in policy.get("rules", []):
        if not rule.get("onJobFailureReasons") or reason in rule["onJobFailureReasons"]:
            return str(rule["action"])
    return "RestartJobSet"


@dataclass
class Place:
    """Where the pods' volumes are: mount path or bucket -> directory of this machine.

    dropped: arguments that this machine cannot follow, such as `--tpu=local`. bucket: what a bucket
    is called here, where it is one. environ: how a pod finds it.
    """

    volumes: dict[str, Path]
    dropped: tuple[str, ...] = ()
    bucket: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """An argument or a value of a variable, with its paths on this machine."""
        places = {**self.volumes, **self.bucket}
        pattern = rf"(^|=)({'|'.join(map(re.escape, places))})(?=/|$)"
        return re.sub(pattern, lambda m: f"{m[1]}{places[m[2]]}", text)

    def of_pod(self, index: int, start: int) -> Place:
        """The place of a pod: what it wrote to /tmp is gone when it is made anew."""
        own = self.volumes["/tmp"] / f"{index}.{start}"
        own.mkdir(parents=True, exist_ok=True)
        return replace(self, volumes=self.volumes | {"/tmp": own})


@dataclass
class Workload:
    """The pods of one rendered manifest, as their controller keeps them.

    starts: how often each pod was started; codes: exit codes of the pods that ended, in order.
    extra: arguments after the manifest's own.
    """

    documents: list[dict[str, Any]]
    place: Place
    log: Path
    extra: tuple[str, ...] = ()
    pods: int | None = None
    codes: list[int] = field(default_factory=list)
    status: str = "Running"

    def __post_init__(self) -> None:
        self.object = workload(self.documents)
        self.kind = self.object["kind"]
        (self.template,) = templates(self.object)
        count = self.pods or self.template.count
        self.starts, self.done = [0] * count, [False] * count
        self.ports = free_ports(count)
        self.failures = 0
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self._files: list[TextIO] = []
        for mount in self.template.main["volumeMounts"]:
            self._mount(mount)

    def _mount(self, mount: dict[str, Any]) -> None:
        """Lay a ConfigMap's files where its volume is, unless the test has put its own there."""
        (volume,) = [v for v in self.template.spec["volumes"] if v["name"] == mount["name"]]
        directory = self.place.volumes[mount["mountPath"]]
        directory.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            found = named(self.documents, "ConfigMap", volume["configMap"]["name"])
            for name, text in found["data"].items():
                if not (directory / name).exists():
                    (directory / name).write_text(text)

    def controller_environment(self, index: int) -> dict[str, str]:
        """What the controller adds to a pod's environment."""
        if self.kind == "TFJob" and len(self.starts) > 1:
            cluster = {"worker": [f"localhost:{port}" for port in self.ports]}
            task = {"type": "worker", "index": index}
            config = {"cluster": cluster, "task": task, "environment": "cloud"}
            return {"TF_CONFIG": json.dumps(config)}
        job = self.template.job or {}
        if job.get("completionMode") != "Indexed":
            return {}
        added = {"JOB_COMPLETION_INDEX": str(index)}
        limits = self.template.main["resources"]["limits"]
        if "google.com/tpu" in limits:
            # GKE's webhook, for the pods of a slice.
            hosts = [f"tpu-tlm-slice-0-{i}.tpu-tlm" for i in range(self.template.count)]
            added |= {"TPU_WORKER_ID": str(index), "TPU_WORKER_HOSTNAMES": ",".join(hosts)}
        return added

    def command(self, index: int) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of a pod on this machine."""
        given = environment(self.documents, self.template.main) | self.controller_environment(index)
        # What the user's Secret holds: the token of `openssl rand -hex 32`.
        secrets = {k: "0123abcd" * 8 for k, v in given.items() if v.startswith("secret:")}
        given |= secrets
        place = self.place.of_pod(index, self.starts[index])
        words = [*self.template.main["command"], *self.template.main["args"], *self.extra]
        words = [re.sub(r"\$\((\w+)\)", lambda m: given.get(m[1], m[0]), word) for word in words]
        words = [place.here(word) for word in words if word not in place.dropped]
        assert words[0] == "python"
        # What the image has, and of this machine's environment what imports depend on.
        image = preloaded.settings(os.environ) | {"PATH": os.environ["PATH"]}
        home = str(place.volumes["/tmp"])
        image |= {"HOME": home, "TMPDIR": home, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        given = {name: place.here(value) for name, value in given.items()}
        return [sys.executable, *words[1:]], image | place.environ | given

    def start(self, index: int) -> None:
        """Make a pod."""
        self.starts[index] += 1
        command, environ = self.command(index)
        file = self.log.with_suffix(f".{index}.{self.starts[index]}.txt").open("w")
        self._files.append(file)
        # Without TensorFlow there is no import to save.
        popen = subprocess.Popen if "tpu_tlm.preprocess" in command else preloaded.popen
        self.processes[index] = popen(
            command, cwd=environ["HOME"], env=environ, stdout=file, stderr=file
        )

    def reconcile(self) -> None:
        """What the controller does about pods that ended, and those that are to be made."""
        for index, process in enumerate(self.processes):
            if process is not None and process.poll() is not None:
                self.processes[index] = None
                code = exit_code(process.returncode)
                self.codes.append(code)
                self._ended(index, code)
            if self.status == "Running" and self.processes[index] is None and not self.done[index]:
                self.start(index)

    def _ended(self, index: int, code: int) -> None:
        self.done[index] = code == 0
        if code == 0:
            # A TFJob without a chief has succeeded when its worker 0 has.
            if all(self.done) or (self.kind == "TFJob" and self.done[0]):
                self.status = "Succeeded"
        elif self.kind == "TFJob":
            policy = self.object["spec"]["tfReplicaSpecs"]["Worker"]["restartPolicy"]
            self.status = "Running" if retried_by_tfjob(policy, code) else "Failed"
        elif self.kind == "Pod":
            assert self.template.spec["restartPolicy"] == "Never"
            self.status = "Failed"
        else:
            self._job_failure(code)

    def _job_failure(self, code: int) -> None:
        job = self.template.job or {}
        action = action_of_job(job, code)
        if action == "Ignore":
            return
        self.failures += 1
        reason = "PodFailurePolicy" if action == "FailJob" else "BackoffLimitExceeded"
        if action == "Count" and self.failures <= job["backoffLimit"]:
            return
        if self.kind == "Job" or action_of_jobset(self.object, reason) == "FailJobSet":
            self.status = "Failed"
            return
        # The set is made anew, not one pod of it: more than one would need that here.
        assert len(self.starts) == 1
        self.failures = 0

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Act as the controller until the condition holds or the workload is over."""
        deadline = time.monotonic() + PATIENCE
        while not condition() and self.status == "Running":
            self.reconcile()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def signal(self, index: int, number: int, when: Callable[[], bool]) -> None:
        """Wait for a moment, and signal a pod; returns when the controller has made it anew."""
        self.run_until(when)
        process, starts = self.processes[index], self.starts[index]
        assert process is not None, self.said()
        process.send_signal(number)
        self.run_until(lambda: self.starts[index] > starts)

    def finish(self) -> str:
        """Act as the controller to the end: "Succeeded", or "Failed" (what still runs is ended)."""
        try:
            self.run_until(lambda: False)
            for process in self.processes:
                if process is not None:
                    if self.status == "Failed":
                        process.terminate()
                    self.codes.append(exit_code(process.wait(PATIENCE)))
        finally:
            self.close()
        return self.status

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        for file in self._files:
            file.close()

    def said(self) -> str:
        """What all pods printed."""
        files = sorted(self.log.parent.glob(f"{self.log.name}.*.txt"))
        return "\n".join(f"== {file.name}\n{file.read_text()}" for file in files)
