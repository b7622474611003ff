"""Several worker processes over loopback, started as Kubeflow's TFJob controller does: the same run
as one process, whatever happens.

One story, in which each job continues what the one before left: 2 workers to step 24, then 4 until
SIGTERM, then 1, then 2 of which one is killed, then 2 of which the chief is killed, then 4 mirrored
devices. All losses are those of an uninterrupted run on one device.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import preloaded
from tests.paths import ROOT
from tests.ports import free_ports
from tests.toy import BARE, SIZES, toy_dataset
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.checkpoints.run_lock import locked
from tpu_tlm.training.metrics import read_metrics

# A clip that bites at every step, dropout, and a learning rate that does not depend on where the
# run ends.
FLAGS = [
    *SIZES,
    "--batch_size",
    "8",
    "--lr",
    "3e-3",
    "--warmup_steps",
    "5",
    "--lr_schedule",
    "constant",
    "--clip",
    "0.05",
    "--dropout",
    "0.2",
]
FLAGS += ["--eval_steps", "12", "--steps_per_call", "1", *BARE]
# Steps of the whole story; of its beginning, which is what a job reaches that is soon stopped.
WHOLE, BEGINNING = 400, 120
FOREVER = ["--steps", "1000000"]
PLAIN = ["--xla", "false"]
PATIENCE = 600
TOLERANCE = 2e-4

# Runs the command and tells which files of the run directory this process opened for writing.
WATCHED = """
import atexit, os, runpy, sys
run_dir, written = sys.argv[sys.argv.index("--run_dir") + 1], set()

def watch(event, arguments):
    inside = bool(arguments) and str(arguments[0]).startswith(run_dir)
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and inside and (arguments[2] or 0) & writes:
        written.add(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir") and inside:
        written.add(str(arguments[0]))

sys.addaudithook(watch)
sys.argv[0] = "train"
try:
    runpy.run_module("tpu_tlm.train", run_name="__main__")
finally:
    print("WROTE", len(written), flush=True)
"""

# Put before it: the worker is killed between steps, when the others make their variables and wait
# for its part.
KILLED_EARLY = """
import os, signal, time
from tpu_tlm.devices import select
connect = select.connect

def connect_and_die_soon(*arguments):
    from tpu_tlm.training import trainer

    def die(*arguments):
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)

    trainer.TrainState.__init__ = die
    return connect(*arguments)

select.connect = connect_and_die_soon
"""


class Job:
    """The processes of one job: a chief and workers of TF_CONFIG, or (workers=0) one process
    without it.

    first: code that each of them runs first; last: code that the last of them runs first.
    """

    def __init__(
        self,
        corpus: tuple[Path, Path],
        run_dir: Path,
        *flags: str,
        workers: int = 0,
        environ: dict[str, str] | None = None,
        first: str = "",
        last: str = "",
    ) -> None:
        self.run_dir, self.ports = run_dir, free_ports(max(1, workers))
        given = [
            "--train_dir",
            corpus[0],
            "--valid_dir",
            corpus[1],
            "--run_dir",
            run_dir,
            *FLAGS,
            *flags,
        ]
        clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | (environ or {})
        self.processes = []
        for host in range(max(1, workers)):
            env = clean | ({"TF_CONFIG": self._tf_config(host, workers)} if workers else {})
            code = first + (last if host + 1 == workers else "") + WATCHED
            command = [sys.executable, "-c", code, *map(str, given)]
            pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            self.processes.append(preloaded.popen(command, cwd=ROOT, env=env, **pipes))

    def _tf_config(self, host: int, workers: int) -> str:
        cluster = {
            "chief": [f"localhost:{self.ports[0]}"],
            "worker": [f"localhost:{port}" for port in self.ports[1:]],
        }
        task = {"type": "worker", "index": host - 1} if host else {"type": "chief", "index": 0}
        return json.dumps(
            {
                "cluster": {k: v for k, v in cluster.items() if v},
                "task": task,
                "environment": "cloud",
            }
        )

    def train(self) -> dict[int, float]:
        """Loss of each step on disk."""
        return {
            r["step"]: r["loss"]
            for r in read_metrics(str(self.run_dir / "metrics.jsonl"))
            if r["kind"] == "train"
        }

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; the processes must go on meanwhile, and are ended
        where they do not.
        """
        deadline = time.monotonic() + PATIENCE
        while not condition():
            dead = [p for p in self.processes if p.poll() is not None]
            if dead or time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
                pytest.fail(f"{[p.communicate() for p in dead or self.processes]}")
            time.sleep(0.02)

    @contextlib.contextmanager
    def standing_still(self, host: int) -> Iterator[None]:
        """A block in which a process does nothing."""
        process = self.processes[host]
        process.send_signal(signal.SIGSTOP)
        while (
            state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        ) != "T":
            assert state != "Z", process.communicate()
            time.sleep(0.001)
        yield
        process.send_signal(signal.SIGCONT)

    def end(self, *codes: int) -> list[tuple[str, str]]:
        """What each process printed (output, errors), once all have ended with these codes (one
        for all, or one each).
        """
        try:
            said = [p.communicate(timeout=PATIENCE) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        expected = list(codes) if len(codes) > 1 else [codes[0]] * len(said)
        assert [p.returncode for p in self.processes] == expected, said
        return said


def last_line(said: tuple[str, str]) -> str:
    """The last line on standard error."""
    return said[1].strip().splitlines()[-1]


def saved(run_dir: Path) -> int:
    """Step of the newest good checkpoint."""
    found = Checkpoints(str(run_dir / "checkpoints")).newest()
    assert found is not None
    return found.step


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("corpus")
    return toy_dataset(base / "train"), toy_dataset(base / "valid", examples=21, shards=1, seed=1)


def undisturbed(corpus: tuple[Path, Path], run_dir: Path, steps: int) -> list[dict[str, Any]]:
    """The records of a run on one device, never interrupted."""
    flags = ["--steps", str(steps), "--save_steps", str(steps), *PLAIN]
    ((out, _),) = Job(corpus, run_dir, *flags).end(0)
    assert f"after 5 of {steps} steps of warm-up" in out and "input wait" in out
    records = read_metrics(str(run_dir / "metrics.jsonl"))
    norms = [r["grad_norm"] for r in records if r["kind"] == "train"]
    assert len(norms) == steps and min(norms) > 0.05, "the clip must bite at every step"
    return records


def assert_same(records: list[dict[str, Any]], one: list[dict[str, Any]], last: int) -> None:
    """All records of a run up to its last step are those of the run on one device.

    A run is evaluated at its end too, and not where it is stopped.
    """
    kinds = ("train", "valid")
    ours = {(r["kind"], r["step"]): r for r in records}
    theirs = {(r["kind"], r["step"]): r for r in one if r["step"] <= last and r["kind"] in kinds}
    assert len(ours) == len(records) and {step for kind, step in ours if kind == "train"} == set(
        range(1, last + 1)
    )
    theirs = {k: r for k, r in theirs.items() if k in ours}
    assert sum(kind == "valid" for kind, _ in theirs) >= last // 12 - 1
    for name in ("loss", "accuracy", "grad_norm"):
        pairs = [(ours[k][name], r[name]) for k, r in theirs.items() if name in r]
        np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=TOLERANCE, err_msg=name)


@pytest.mark.long
def test_one_run_on_ever_other_machines(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    one = undisturbed(corpus, tmp_path / "one", WHOLE)
    run_dir = tmp_path / "run"
    metrics = str(run_dir / "metrics.jsonl")

    # Two workers, compiled by XLA; only the chief writes.
    said = Job(corpus, run_dir, "--steps", "24", "--save_steps", "8", workers=2).end(0)
    assert "0 of 2, 2 replicas in all: TF_CONFIG names several workers" in said[0][0]
    assert all("24 steps made, 24 in all" in out and "input wait" in out for out, _ in said)
    assert "WROTE 0" in said[1][0] and "WROTE 0" not in said[0][0]
    assert_same(read_metrics(metrics), one, 24)

    # Four workers until one of them is told to stop: all save at the same step.
    job = Job(corpus, run_dir, *FOREVER, "--save_steps", "1000", *PLAIN, workers=4)
    job.until(lambda: max(job.train()) >= 30)
    asked = time.monotonic()
    job.processes[2].send_signal(signal.SIGTERM)
    said = job.end(143)
    assert time.monotonic() - asked < 25 + 15, (
        "not within --grace_seconds and the end of the processes"
    )
    step = saved(run_dir)
    assert 30 <= step < WHOLE - 60
    for host, each in enumerate(said):
        assert "continuing at step 24" in each[0]
        why = "SIGTERM" if host == 2 else f"worker 1 (localhost:{job.ports[2]}): SIGTERM"
        assert (
            f"stopped by {why} at step {step}; saved in {run_dir}/checkpoints/step-{step:08d}"
            in last_line(each)
        )
    assert_same(read_metrics(metrics), one, step)

    # One process goes on from there.
    Job(corpus, run_dir, "--steps", str(step + 10), "--save_steps", "1000", *PLAIN).end(0)
    assert_same(read_metrics(metrics), one, step + 10)

    # Two workers, of which one is killed.
    job = Job(corpus, run_dir, *FOREVER, "--save_steps", "5", *PLAIN, workers=2)
    job.until(lambda: max(job.train()) >= step + 18)
    killed = time.monotonic()
    job.processes[1].kill()
    said = job.end(138, -signal.SIGKILL)
    assert time.monotonic() - killed < 45
    assert last_line(said[0]).startswith(
        f"error: worker 0 (localhost:{job.ports[1]}) died"
    ) and "start the job again" in last_line(said[0])
    kept = saved(run_dir)
    assert step + 9 <= kept

    # Two workers, of which the chief is killed; as many steps per call as their clocks say, in
    # which they differ, and agree.
    rare = ["--save_steps", "1000000", "--eval_steps", "1000000", "--steps_per_call", "1000000"]
    job = Job(corpus, run_dir, *FOREVER, *rare, *PLAIN, workers=2)

    def long_calls() -> int:
        ends = [kept, *(step for step in job.train() if step > kept)]
        return sum(end - begin > 4 for begin, end in zip(ends, ends[1:], strict=False))

    job.until(lambda: long_calls() >= 2)
    killed = time.monotonic()
    job.processes[0].kill()
    said = job.end(-signal.SIGKILL, 138)
    assert time.monotonic() - killed < 45
    assert last_line(said[1]).startswith(f"error: chief (localhost:{job.ports[0]}) died")
    assert saved(run_dir) == kept

    # Four mirrored devices of one process.
    flags = ["--steps", str(kept + 10), "--distribute", "mirror", "--logical_cpus", "4"]
    ((out, _),) = Job(corpus, run_dir, *flags, *PLAIN).end(0)
    assert "CPU:0, CPU:1, CPU:2, CPU:3" in out and f"continuing at step {kept}" in out
    assert_same(read_metrics(metrics), one, kept + 10)


@pytest.fixture
def google_cloud() -> Iterator[tuple[str, dict[str, str]]]:
    """A metadata server as Google Cloud's machines have one: its address, and what it says."""
    says = {"maintenance-event": "NONE", "preempted": "FALSE"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - http.server's own name
            key = self.path.removeprefix("/computeMetadata/v1/instance/")
            found = key in says and self.headers.get("Metadata-Flavor") == "Google"
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                self.wfile.write(says[key].encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", says
        server.shutdown()


def test_a_save_that_is_too_slow_and_a_notice_of_google_cloud(
    corpus: tuple[Path, Path],
    tmp_path: Path,
    google_cloud: tuple[str, dict[str, str]],
) -> None:
    one = undisturbed(corpus, tmp_path / "one", BEGINNING)
    run_dir, full = tmp_path / "run", tmp_path / "full"
    # A disk that takes nothing any more, from the moment that `full` exists: the file that commits
    # a checkpoint never gets its name.
    slow = f"""
import os, time
replace = os.replace
def slow(source, target, **options):
    while str(target).endswith('checkpoints/checkpoint') and os.path.exists({str(full)!r}):
        time.sleep(0.1)
    return replace(source, target, **options)
os.replace = slow
"""
    flags = [*FOREVER, *("--save_steps", "10", "--grace_seconds", "1.5", *PLAIN)]
    job = Job(corpus, run_dir, *flags, first=slow)
    job.until(lambda: (run_dir / "checkpoints" / "checkpoint").exists())
    full.touch()
    # Something is unsaved when the notice comes.
    job.until(lambda: max(job.train()) > saved(run_dir))
    told = time.monotonic()
    job.processes[0].send_signal(signal.SIGTERM)
    ((_, errors),) = job.end(1)
    assert 1 < time.monotonic() - told < 20
    last = errors.strip().splitlines()[-1]
    assert (
        last.startswith("error: stopped --grace_seconds 1.5 after SIGTERM: step ")
        and "could not be saved in that time" in last
    )
    full.unlink()
    kept = saved(run_dir)
    assert kept % 10 == 0 and f"step-{kept:08d}" in last

    # The same command goes on from the last good checkpoint, until Google Cloud announces its
    # maintenance.
    address, says = google_cloud
    job = Job(
        corpus,
        run_dir,
        *FOREVER,
        "--save_steps",
        "1000",
        *PLAIN,
        environ={"GCE_METADATA_HOST": address},
    )
    job.until(lambda: max(job.train()) >= kept + 5)
    says["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    ((out, errors),) = job.end(143)
    step = saved(run_dir)
    assert f"continuing at step {kept}" in out
    notice = "Google Cloud's notice maintenance-event = TERMINATE_ON_HOST_MAINTENANCE"
    assert f"stopped by {notice} at step {step}; saved in" in errors.strip().splitlines()[-1]
    found = Checkpoints(str(run_dir / "checkpoints")).at(step)
    assert found.state["stopped_by"] == notice
    upto = min(step, BEGINNING)
    assert_same(
        [r for r in read_metrics(str(run_dir / "metrics.jsonl")) if r["step"] <= upto], one, upto
    )


def test_a_worker_that_does_not_come_is_named(corpus: tuple[Path, Path], tmp_path: Path) -> None:
    """Before anything is written."""
    job = Job(corpus, tmp_path / "run", "--start_timeout", "4", workers=3)
    job.processes[1].kill()
    said = job.end(1, -signal.SIGKILL, 1)
    for each in (said[0], said[2]):
        assert each[1].startswith(
            "error: 1 of 3 workers did not come within 4 s: worker 0 "
            f"(localhost:{job.ports[1]}); check"
        )
        assert each[1].count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_worker_that_dies_before_the_first_step_is_named(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    """TensorFlow raises it out of whatever it was doing; exit code 138 all the same."""
    job = Job(corpus, tmp_path / "run", *FOREVER, *PLAIN, workers=2, last=KILLED_EARLY)
    said = job.end(138, -signal.SIGKILL)
    assert (
        last_line(said[0]).startswith(f"error: worker 0 (localhost:{job.ports[1]}) died")
        and "Traceback" not in said[0][1]
    )


def test_two_processes_do_not_train_in_one_directory(
    corpus: tuple[Path, Path], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    with locked(str(run_dir)):
        ((_, errors),) = Job(corpus, run_dir, "--steps", "5").end(2)
    assert f"{run_dir}: process {os.getpid()} on {socket.gethostname()} trains here now" in errors
    assert [p.name for p in run_dir.iterdir()] == ["lock"]
