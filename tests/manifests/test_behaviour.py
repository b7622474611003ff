"""What each training manifest does: preempted, killed, started again, finished; mistakes are not.

`test_jobs.py` has the other Jobs.

The manifest's pods run here as processes on a toy dataset, with its command, arguments and
environment and the variables of its controller (`controllers.py`). Two things are not as on a
cluster: `--tpu=local` is left out, since this machine has no TPU, and of a slice of several hosts
one pod runs. So a JobSet's restart policy is tested here, and several hosts of a TPU are not.
"""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.controllers import (
    Place,
    Workload,
    action_of_job,
    action_of_jobset,
    retried_by_tfjob,
)
from tests.manifests.pods import templates
from tests.manifests.render import OVERLAYS, overlay, workload
from tests.manifests.stories import TRAINING, behaviour, one_of_each
from tests.toy import toy_dataset

STEPS = 160
RECIPE = f"""
d_model: 32
d_ff: 64
num_heads: 2
num_layers: 1
rpr_k: 4
batch_size: 8
dropout: 0.2
warmup_steps: 5
steps: {STEPS}
save_steps: 40
eval_steps: {STEPS}
steps_per_call: 1
xla: false
tensorboard: false
report: false
samples: 0
"""
STORIES = one_of_each(TRAINING)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    toy_dataset(directory / "train")
    toy_dataset(directory / "valid", examples=21, shards=1, seed=1)
    return directory


def made(
    name: str,
    data: Path,
    tmp_path: Path,
    *extra: str,
    recipe_text: str | None = RECIPE,
    pods: int = 1,
) -> Workload:
    """An overlay's workload, its storage a directory with the toy dataset in it.

    recipe_text: what stands in the place of the manifest's recipe; None leaves that.
    pods: of a JobSet; a TFJob has as many as it says.
    """
    documents = overlay(name)
    storage = tmp_path / "storage"
    storage.mkdir(parents=True)
    (storage / "data").symlink_to(data)
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    if recipe_text is not None:
        (recipe / "train.yaml").write_text(recipe_text)
    volumes = {"/storage": storage, "gs://BUCKET/tpu-tlm": storage, "/etc/tpu-tlm": recipe}
    volumes |= {"/tmp": tmp_path / "tmp", "/dev/shm": tmp_path / "shm"}
    place = Place(volumes, dropped=("--tpu=local",))
    tfjob = workload(documents)["kind"] == "TFJob"
    return Workload(documents, place, tmp_path / "pod", extra, None if tfjob else pods)


# Workers by TF_CONFIG and hosts of a slice; the others differ in their place, not in what happens.
SOONER = ("tfjob-cpu-pvc", "jobset-tpu-v5e-gcs")


def run_directory(job: Workload) -> Path:
    return job.place.volumes["/storage"] / "runs" / "first"


def losses(job: Workload) -> dict[int, float]:
    """Step -> training loss, of the steps on disk."""
    file = run_directory(job) / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return {r["step"]: r["loss"] for r in records if r["kind"] == "train"}


def weights(job: Workload) -> str:
    """SHA-256 of the variables in the last checkpoint."""
    (last,) = (run_directory(job) / "checkpoints").glob(f"step-{STEPS:08d}")
    (file,) = last.glob("variables.data-*")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    """Number of pods -> weights and losses of a run that nothing interrupts; "job" -> one."""
    found: dict[Any, Any] = {}
    for name in ("job-cpu-pvc", "tfjob-cpu-pvc"):
        job = made(name, data, tmp_path_factory.mktemp(name))
        assert job.finish() == "Succeeded", job.said()
        assert set(job.codes) == {0} and set(job.starts) == {1}
        found[len(job.starts)] = weights(job), losses(job)
        found.setdefault("job", job)
    return found


def test_every_training_manifest_is_covered() -> None:
    assert {behaviour(name) for name in TRAINING} == {behaviour(name) for name in STORIES}
    kinds = [workload(overlay(name))["kind"] for name in STORIES]
    assert sorted(kinds) == ["Job", "JobSet", "Pod", "TFJob", "TFJob"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name not in SOONER else [])
        for name in STORIES
        if not name.startswith("pod")
    ],
)
def test_preempted_killed_and_finished(
    name: str, data: Path, tmp_path: Path, undisturbed: dict[Any, Any]
) -> None:
    job = made(name, data, tmp_path)
    pods = len(job.starts)
    try:
        # The last pod's node is taken back: it and its peers save, end with 143, start again.
        job.run_until(lambda: len(losses(job)) >= 20)
        job.processes[-1].send_signal(signal.SIGTERM)
        job.run_until(lambda: min(job.starts) == 2)
        assert job.codes == [143] * pods, job.said()
        saved = max(losses(job))
        assert f"continuing at step {saved}" not in job.said()
        job.run_until(lambda: max(losses(job)) >= saved + 20)
        assert f"continuing at step {saved}" in job.said()
        # The last pod is killed: the others notice, end with 138, and all start again.
        job.processes[-1].kill()
        status = job.finish()
    finally:
        job.close()
    assert status == "Succeeded", job.said()
    assert sorted(job.codes) == sorted([143] * pods + [137] + [138] * (pods - 1) + [0] * pods)
    assert job.starts == [3] * pods
    assert (weights(job), losses(job)) == undisturbed[pods]


def test_hosts_of_a_slice_do_not_write_one_run_apart(data: Path, tmp_path: Path) -> None:
    """Hosts that do not find one another are refused by the run's lock, and the set ends."""
    job = made("jobset-tpu-v5e-gcs", data, tmp_path, "--steps=1000000", pods=2)
    assert job.finish() == "Failed", job.said()
    assert sorted(job.codes) == [2, 143] and job.starts == [1, 1], job.said()
    assert "trains here now" in job.said()


def test_a_pod_is_not_started_again_and_continues_when_made_anew(
    data: Path, tmp_path: Path, undisturbed: dict[Any, Any]
) -> None:
    first = made("pod-cpu-pvc", data, tmp_path)
    try:
        first.run_until(lambda: len(losses(first)) >= 20)
        first.processes[0].send_signal(signal.SIGTERM)
        assert (first.finish(), first.codes, first.starts) == ("Failed", [143], [1]), first.said()
        again = Workload(first.documents, first.place, tmp_path / "again")
        assert (again.finish(), again.codes) == ("Succeeded", [0]), again.said()
    finally:
        first.close()
    assert (weights(again), losses(again)) == undisturbed[1]


@pytest.mark.parametrize("name", STORIES)
def test_a_mistake_in_the_flags_is_not_retried(name: str, data: Path, tmp_path: Path) -> None:
    job = made(name, data, tmp_path, "--lr=fast")
    assert job.finish() == "Failed"
    # The first that says so ends the job; its peers are ended with it.
    assert job.codes[0] == 2 and set(job.codes) <= {2, 143}, job.said()
    assert set(job.starts) == {1} and "--lr" in job.said()
    assert not run_directory(job).exists()


@pytest.mark.parametrize(
    "name", ["job-tpu-v5e-gcs", "tfjob-tpu-v5e-gcs", "jobset-tpu-v6e-gcs-spot-kueue"]
)
def test_a_pod_without_its_tpu_fails_and_is_not_retried(
    name: str, data: Path, tmp_path: Path
) -> None:
    """With `--tpu=local` and the manifest's recipe: no fall-back to the processor, no restarts."""
    job = made(name, data, tmp_path, recipe_text=None)
    job.place = Place(job.place.volumes)
    assert job.finish() == "Failed"
    assert (job.codes, job.starts) == ([1], [1]), job.said()
    assert "--tpu local: there is no TPU chip" in job.said()
    assert "Traceback" not in job.said()


def job_of(name: str) -> dict[str, Any]:
    (template,) = templates(workload(overlay(name)))
    assert template.job is not None
    return template.job


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (143, False, "Ignore"),
        (138, False, "Ignore"),
        (1, False, "FailJob"),
        (2, False, "FailJob"),
        (137, False, "Count"),
        (137, True, "Ignore"),
        (1, True, "Ignore"),
    ],
)
def test_what_a_job_does_about_exit_codes(code: int, disrupted: bool, action: str) -> None:
    for name in OVERLAYS:
        if workload(overlay(name))["kind"] == "Job":
            assert action_of_job(job_of(name), code, disrupted) == action, name


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [(143, False, "RestartJobSet"), (138, False, "RestartJobSet"), (137, False, "RestartJobSet")]
    + [(1, True, "RestartJobSet"), (1, False, "FailJobSet"), (2, False, "FailJobSet")],
)
def test_what_a_jobset_does_about_exit_codes(code: int, disrupted: bool, action: str) -> None:
    for name in OVERLAYS:
        if name.startswith("jobset"):
            job = job_of(name)
            assert job["backoffLimit"] == 0, "one pod that ends must end the whole slice's Job"
            failed = action_of_job(job, code, disrupted) == "FailJob"
            reason = "PodFailurePolicy" if failed else "BackoffLimitExceeded"
            assert action_of_jobset(workload(overlay(name)), reason) == action


@pytest.mark.parametrize(
    ("code", "again"), [(143, True), (138, True), (137, True), (1, False), (2, False)]
)
def test_what_a_tfjob_does_about_exit_codes(code: int, again: bool) -> None:
    for name in OVERLAYS:
        if name.startswith("tfjob"):
            (replica,) = workload(overlay(name))["spec"]["tfReplicaSpecs"].values()
            assert retried_by_tfjob(replica["restartPolicy"], code) == again
