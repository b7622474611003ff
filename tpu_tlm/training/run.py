"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm.data import files
from tpu_tlm.data.dataset import Dataset
from tpu_tlm.data.stream import Stream
from tpu_tlm.errors import Preempted, TlmError
from tpu_tlm.formats.npz import described_by_options
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.runtime import Devices
from tpu_tlm.training import assemble
from tpu_tlm.training.assemble import Options
from tpu_tlm.training.checkpoints import Checkpoints
from tpu_tlm.training.evaluation import evaluate, input_error
from tpu_tlm.training.feeds import feed
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.metrics import Metrics
from tpu_tlm.training.peaks import peak_flops
from tpu_tlm.training.progress import Progress
from tpu_tlm.training.rundir import RunDir
from tpu_tlm.training.saved import load_saved
from tpu_tlm.training.start import check_start, start_values
from tpu_tlm.training.state import TrainState

# (step, values by path, spec, fingerprint of the tokenizer): called after every checkpoint with --npz.
Export = Callable[[int, dict[str, np.ndarray], ModelSpec, str], None]

# The device runs as many steps per call as fill about this time, at most --steps_per_call: the host must be heard now and then.
CALL_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """What a finished run leaves. `made`: steps of this process; `valid`: its last evaluation; `checkpoint`: directory of the last one."""

    steps: int
    made: int
    valid: Totals | None
    checkpoint: str


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over what decides the order and content of the examples: shards, their sizes and checksums."""
    shards = [(s.name, s.samples, s.bytes, s.sha256) for s in dataset.shards]
    return files.sha256(json.dumps([dataset.num_samples, dataset.nctx, shards]).encode())


@contextmanager
def _termination() -> Iterator[list[int]]:
    """Collects SIGTERM instead of dying of it."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


class Run:
    """One process's part of a run: restores, trains, evaluates, saves."""

    def __init__(self, options: Options, devices: Devices, export: Export | None = None) -> None:
        self.options, self.devices, self.export = options, devices, export
        data, run = options.data, options.run
        assemble.check_batch(options, devices.replicas)
        self.corpora = assemble.open_corpora(options)
        self.total = assemble.total_steps(options, self.corpora.train.num_samples)
        self.precision = assemble.precision_of(options.runtime, devices.kind)
        self.fingerprint = self.corpora.tokenizer.fingerprint()
        self.directory = RunDir(run.basedir)
        self.step = assemble.make_step(options, self.corpora, self.total, self.precision)
        self.spec: ModelSpec = assemble.spec_of(options, self.corpora)
        identity = {"tokenizer": self.fingerprint, "training data": data_fingerprint(self.corpora.train)}
        for change in self.directory.prepare(options.parts(), identity, write=devices.is_chief):
            print(f"continuing with another option: {change}")
        if devices.is_chief:
            self.corpora.tokenizer.save(self.directory.tokenizer)
        self.checkpoints = Checkpoints(self.directory.checkpoints, run.keep, run.keep_every)
        self.state = TrainState(self.step, devices.strategy)
        self.loop = Loop(self.step, self.state, xla=options.runtime.xla and devices.xla, on_tpu=devices.kind == "tpu")
        self.stream = Stream(
            self.corpora.train, seed=run.seed, batch_size=data.batch_size, window_shards=data.window_shards, readers=data.num_train_workers
        )
        epoch = max(1, self.corpora.train.num_samples // data.batch_size)
        self.save_steps = run.save_steps or max(1, epoch // max(1, run.saves_per_epoch))
        self.eval_steps = run.eval_steps or self.save_steps
        self.committed = ""
        self.valid: Totals | None = None

    def restore(self) -> int:
        """Find where to begin, in this order: this run's newest good checkpoint, --init_from, random values. Returns the step."""
        found = self.checkpoints.newest()
        for skipped in self.checkpoints.skipped:
            print(f"passed over {skipped.path}: {skipped.reason}")
        if found is not None:
            self.state.restore(found.load(), found.step, found.path)
            self.committed = found.path
            print(f"continuing at step {found.step} from {found.path}")
            return found.step
        if self.options.run.init_from:
            self._init_from(self.options.run.init_from)
            return 0
        print(f"starting at step 0 from random values (--seed {self.options.run.seed})")
        return 0

    def _init_from(self, path: str) -> None:
        spec, where = self.spec, f"--init_from {path}"
        saved = load_saved(path, describe=described_by_options(spec.config, spec.kind, spec.nctx))
        check_start(saved, spec, self.corpora.tokenizer, where)
        values, table = start_values(saved, self.state.model_arrays(), where)
        self.state.set_model(values)
        print(f"starting at step 0 from {saved.source}, fresh optimizer")
        print("\n".join(table))

    def _save(self, step: int) -> None:
        """Commit a checkpoint, unless a value is not finite: that would bury the last good one."""
        if not self.devices.is_chief:
            return
        arrays = self.state.arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise TlmError(f"step {step}: {name!r} holds values that are not finite; {self._last_good()}")
        batch = self.options.data.batch_size
        state: dict[str, Any] = {
            "position": step * batch,
            "batch_size": batch,
            "seed": self.options.run.seed,
            "tokenizer": self.fingerprint,
            "spec": json.loads(self.spec.to_json()),
        }
        self.committed = self.checkpoints.save(step, arrays, state)
        if self.export is not None:
            self.export(step, self.state.model_arrays(), self.spec, self.fingerprint)

    def _last_good(self) -> str:
        good = f"the last good checkpoint is {self.committed}" if self.committed else "there is no checkpoint yet"
        return f"{good}; try a smaller --lr, more --warmup_steps or a smaller --clip"

    def _next_stop(self, step: int) -> int:
        """The next step at which something stands to be done besides training."""
        stops = [self.total, (step // self.save_steps + 1) * self.save_steps]
        if self.corpora.valid is not None:
            stops.append((step // self.eval_steps + 1) * self.eval_steps)
        return min(stops)

    def _progress(self) -> Progress:
        batch, objective = self.options.data.batch_size, self.step.objective
        per_example = objective.flops(self.spec)
        peak = peak_flops(self.devices.name, self.precision)
        return Progress(
            self.total,
            tokens=objective.tokens(self.spec) * batch,
            flops=per_example * batch,
            peak=peak * self.devices.replicas if peak is not None else None,
        )

    def train(self) -> Outcome:
        """Make the steps that are left. Raises `Preempted` after SIGTERM, with everything saved; `TlmError` when the loss is not finite."""
        begun = step = self.restore()
        if step >= self.total:
            print(f"nothing to do: step {step} of {self.total} is reached; give more --steps to go on")
            return Outcome(step, 0, None, self.committed)
        progress = self._progress()
        tb = self.directory.tb if self.options.run.tb else None
        metrics = Metrics(self.directory.metrics, start=step, tb=tb) if self.devices.is_chief else None
        try:
            with _termination() as received:
                self._train_from(step, progress, metrics, received)
        finally:
            progress.close()
            if metrics is not None:
                metrics.close()
        return Outcome(self.total, self.total - begun, self.valid, self.committed)

    def _train_from(self, step: int, progress: Progress, metrics: Metrics | None, received: list[int]) -> None:
        start = step * self.options.data.batch_size
        iterator = iter(feed(lambda hosts, host: self.stream.batches(start, hosts=hosts, host=host), self.state.strategy))
        calls, pace = 0, 1
        while step < self.total:
            steps = min(pace, self._next_stop(step) - step)
            began = time.perf_counter()
            totals = self._call(iterator, steps)
            seconds = time.perf_counter() - began
            calls += 1
            if calls > 1:  # the first one compiles
                pace = max(1, min(self.options.run.steps_per_call, int(CALL_SECONDS * steps / seconds)))
            if totals.bad_step >= 0:
                window = f"steps {step + 1} to {step + steps}"
                raise TlmError(f"the loss or its gradient is not finite at step {totals.bad_step + 1} ({window}); {self._last_good()}")
            step += steps
            shown = {"loss": totals.loss, "grad_norm": totals.grad_norm, **{name: totals.mean(name) for name in totals.metrics}}
            shown["lr"] = float(self.step.schedule(np.int64(step - 1)))
            speeds = progress.update(step, steps=steps, seconds=seconds, waited=totals.waited, values=shown)
            if metrics is not None:
                metrics.write("train", step, {**shown, **speeds})
            self._after(step, progress, metrics, bool(received))
            if received and step < self.total:
                raise Preempted(f"stopped by a signal at step {step}; saved in {self.committed}: the same command continues")

    def _call(self, iterator: Any, steps: int) -> Totals:
        try:
            return self.loop.train(iterator, steps)
        except Exception as error:
            raise input_error(self.corpora.train, error) from error

    def _after(self, step: int, progress: Progress, metrics: Metrics | None, stopping: bool) -> None:
        """Evaluate and save where it is time."""
        last = step == self.total
        valid = self.corpora.valid
        if valid is not None and (last or step % self.eval_steps == 0) and not stopping:
            self.valid = evaluate(self.loop, valid, self.options.data.eval_batch_size or self.options.data.batch_size)
            loss = self.valid.loss
            values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **{n: self.valid.mean(n) for n in self.valid.metrics}}
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            progress.message(f"step {step}: validation {shown} over {int(self.valid.weight):,} targets")
            if metrics is not None:
                metrics.write("valid", step, values)
        if last or stopping or step % self.save_steps == 0:
            if metrics is not None:
                metrics.flush()
            self._save(step)
