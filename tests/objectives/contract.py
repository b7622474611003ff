"""The contract of objectives: `prepare` trains one on a toy dataset, the `check_...` functions
check the run and its step."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests import preloaded
from tests.paths import ROOT
from tests.toy import BARE, SIZES, toy_dataset, toy_labels, toy_pairs
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.config import Config, cli
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.devices.select import Devices
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import check_same, save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.objectives.base import ObjectiveOptions
from tpu_tlm.objectives.registry import objective_class
from tpu_tlm.planning.lower import faults, trace
from tpu_tlm.training.evaluation import evaluate_saved
from tpu_tlm.training.loop import Totals
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.run import make_trainer
from tpu_tlm.training.step import TrainStep
from tpu_tlm.training.trainer import Trainer

STEPS, SAVE, BATCH = 4, 2, 8
HELD_OUT = 21
Make = Callable[..., Path]


@dataclass(frozen=True)
class Case:
    """An objective to check.

    objective: the value of `--objective`. dataset(directory, examples=, shards=, seed=) writes its
    toy dataset. flags: what it needs. measure: the objective for `evaluate`; None = that of the
    kind of model. whole_batch: its loss compares the examples of a batch and so depends on the
    batch size; same: metrics that must not.
    """

    objective: str
    dataset: Make = toy_dataset
    flags: tuple[str, ...] = ()
    measure: str | None = None
    whole_batch: bool = False
    same: tuple[str, ...] = ()


DUAL = ("--d_out", "24", "--reduction_d_k", "8")
# Objectives that need other data or flags than the plain ones.
CASES: dict[str, Case] = {
    "discriminator": Case("discriminator", toy_labels),
    "seq2seq": Case(
        "seq2seq", flags=("--denoise", "spans", "--noise_density", "0.4", "--mean_span", "2")
    ),
    "dual-encoder": Case("dual-encoder", toy_pairs, DUAL, whole_batch=True, same=("scale",)),
}


def case_of(name: str) -> Case:
    """The case of a built-in objective."""
    return CASES.get(name, Case(name))


@dataclass(frozen=True)
class Trained:
    """A run of a few steps on one device, never interrupted.

    metrics: names of the objective's; records: the lines of metrics.jsonl.
    """

    case: Case
    train: Path
    valid: Path
    run: Path
    metrics: tuple[str, ...]
    records: list[dict[str, Any]] = field(repr=False)

    def losses(self, kind: str = "train") -> list[float]:
        """The run's losses, step by step."""
        return [r["loss"] for r in self.records if r["kind"] == kind]

    def flags(self, run_dir: Path, *more: str) -> list[str]:
        """The command line of this run in another directory."""
        given = [
            "--train_dir",
            self.train,
            "--valid_dir",
            self.valid,
            "--run_dir",
            run_dir,
            "--objective",
            self.case.objective,
        ]
        sizes = [
            *SIZES,
            "--batch_size",
            BATCH,
            "--warmup_steps",
            1,
            "--lr",
            1e-2,
            "--distribute",
            "none",
            *BARE,
        ]
        steps = [
            "--steps",
            STEPS,
            "--save_steps",
            SAVE,
            "--eval_steps",
            STEPS,
            "--steps_per_call",
            1,
        ]
        return [str(flag) for flag in (*given, *sizes, *steps, *self.case.flags, *more)]

    def options(self, run_dir: Path, *more: str) -> Config:
        """The same, as options."""
        return Config(*cli.parse("contract", "", Config.groups(), self.flags(run_dir, *more)))


def device(xla: bool) -> Devices:
    """This process's one device."""
    return Devices(None, "cpu", 1, "CPU", "the contract's", xla=xla)


def trainer(options: Config) -> Trainer:
    """A trainer of this process, not compiled: XLA compiles slowly and has a check of its own."""
    return make_trainer(options, device(xla=False), display=False)


def prepare(case: Case, base: Path) -> Trained:
    """Write the datasets and make the run."""
    data = (
        case.dataset(base / "train", examples=48, shards=2, seed=0),
        case.dataset(base / "valid", examples=HELD_OUT, shards=1, seed=1),
    )
    trained = Trained(case, *data, base / "run", objective_class(case.objective).metrics, [])
    trainer(trained.options(trained.run)).fit()
    trained.records.extend(read_metrics(str(trained.run / "metrics.jsonl")))
    assert len(trained.losses()) == STEPS and all(math.isfinite(loss) for loss in trained.losses())
    return trained


def check_static(trained: Trained, base: Path) -> None:
    """The traced step has no dynamic dimension, string or host call, micro-batches included."""
    step, batches = _step(trained, base / "static", "--grad_accum", "2")
    assert faults(trace(step, batches.element_spec)[2]) == []


def _step(trained: Trained, run_dir: Path, *more: str) -> tuple[TrainStep, tf.data.Dataset]:
    """The run's step, and its batches."""
    run = trainer(trained.options(run_dir, *more))
    return run.step, run.stream.batches(0)


def _gradients(
    trained: Trained, base: Path, *more: str, xla: bool | None = None
) -> tuple[Any, list[tf.Tensor]]:
    """Gradients and sums of the run's first batch, and the values they are of."""
    step, batches = _step(trained, base, *more)
    values = [tf.convert_to_tensor(v) for v in named_variables(step.model).values()]
    return tf.function(step.gradients, jit_compile=xla, autograph=False)(
        values, next(iter(batches))
    ), values


def check_compiled(trained: Trained, base: Path) -> None:
    """XLA compiles loss and gradients, and computes what plain TensorFlow does."""
    found, expected = (_gradients(trained, base / str(xla), xla=xla)[0] for xla in (True, None))
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(
            one, other, rtol=1e-3, atol=1e-4 * max(1.0, float(tf.reduce_max(tf.abs(other))))
        )


def check_bfloat16(trained: Trained, base: Path) -> None:
    """In bfloat16 parameters and gradients are float32 and finite, and the loss is near."""
    (grads, sums), values = _gradients(trained, base / "half", "--precision", "bfloat16")
    assert all(
        t.dtype == tf.float32 and np.isfinite(t).all() for t in (*tf.nest.flatten(grads), *values)
    )
    loss = sum(
        total / weight
        for total, weight in zip(
            tf.nest.flatten(sums.loss), tf.nest.flatten(sums.weight), strict=True
        )
    )
    np.testing.assert_allclose(loss, trained.losses()[0], rtol=3e-2)


def check_replicas(trained: Trained, base: Path) -> None:
    """Two mirrored replicas make the run of one, step by step, metrics included.

    In a process of its own, which splits the processor into two devices.
    """
    flags = trained.flags(
        base / "two", "--distribute", "mirror", "--logical_cpus", "2", "--xla", "false"
    )
    done = preloaded.run(
        [sys.executable, "-m", "tpu_tlm.train", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CPU:0, CPU:1" in done.stdout
    records = read_metrics(str(base / "two" / "metrics.jsonl"))
    assert len(records) == len(trained.records)
    for one, two in zip(trained.records, records, strict=True):
        for name in ("loss", *trained.metrics):
            np.testing.assert_allclose(
                two[name] or 0.0,
                one[name] or 0.0,
                rtol=1e-3,
                atol=1e-6,
                err_msg=f"step {one['step']}: {name}",
            )


def check_continued(trained: Trained, base: Path) -> None:
    """A run killed by SIGKILL after its first save, and continued, has the bits of an uninterrupted
    one."""
    saves = base / "killed" / "checkpoints"
    command = [
        sys.executable,
        "-m",
        "tpu_tlm.train",
        *trained.flags(base / "killed", "--xla", "false", "--valid_dir", "none"),
    ]
    process = preloaded.popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and not (saves / "checkpoint").exists():
        assert time.monotonic() < deadline, "no save was made"
        time.sleep(0.0005)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (-signal.SIGKILL, 0), errors
    if process.returncode == 0:
        # It finished before the signal: its last save is made incomplete instead.
        (saves / f"step-{STEPS:08d}" / "manifest.json").unlink()
    assert trainer(trained.options(base / "killed", "--valid_dir", "none")).fit().made in (
        STEPS - SAVE,
        0,
    )
    arrays, expected = (
        Checkpoints(str(run / "checkpoints")).at(STEPS).load()
        for run in (base / "killed", trained.run)
    )
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def measured(trained: Trained, path: Path, batch_size: int = BATCH) -> Totals:
    """The evaluation of a model on the held-out examples."""
    saved, dataset = load(str(path)), open_dataset(str(trained.valid))
    return evaluate_saved(
        saved, dataset, batch_size, ObjectiveOptions(), device(xla=False), trained.case.measure
    )


def check_exported(trained: Trained, base: Path) -> None:
    """An NPZ of the checkpoint has the model's bits, and is evaluated like in the run."""
    saved = load(str(trained.run))
    save(saved, str(base / "model.npz"), "npz")
    assert check_same(saved, load(str(base / "model.npz"))) > 5
    totals = measured(trained, base / "model.npz")
    np.testing.assert_allclose(totals.loss, trained.losses("valid")[-1], rtol=1e-5)


def check_batch_size(trained: Trained, base: Path) -> None:
    """An evaluation does not depend on the batch size, although the last batch is not full."""
    names = trained.case.same if trained.case.whole_batch else ("loss", *trained.metrics)
    few, many = measured(trained, trained.run, 4), measured(trained, trained.run, HELD_OUT)
    for name in names:
        a, b = (t.loss if name == "loss" else t.mean(name) for t in (few, many))
        np.testing.assert_allclose(a, b, rtol=1e-5, equal_nan=True, err_msg=name)


CHECKS = (
    check_static,
    check_compiled,
    check_bfloat16,
    check_replicas,
    check_continued,
    check_exported,
    check_batch_size,
)
