"""A training run from its first step, or from where it stopped, to its last."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manager import Checkpoints, LoadedCheckpoint
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.dataset.stream import Stream
from tpu_tlm.devices.peaks import peak_flops
from tpu_tlm.devices.select import Devices
from tpu_tlm.distributed.preemption import PreemptionWatcher, metadata_host
from tpu_tlm.errors import Preempted, TlmError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.npz import described_by_options
from tpu_tlm.formats.positions import with_positions_of
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training import setup
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.evaluation import check_data, evaluate, naming_input
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.metrics import Metrics
from tpu_tlm.training.progress import Progress
from tpu_tlm.training.schedules import warmup_of
from tpu_tlm.training.setup import Options
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.steps_per_call import StepsPerCall
from tpu_tlm.training.warm_start import check_start, start_values, without_foreign_head
from tpu_tlm.training.worker_agreement import check_same

# (step, values by path, spec, fingerprint of the tokenizer): called after every checkpoint with --export_npz.
Export = Callable[[int, dict[str, np.ndarray], ModelSpec, str], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves. `made`: steps of this process; `valid`: its last evaluation; `checkpoint`: directory of the last one.

    `input_wait`: share of the time of its steps in which the devices had no batch, None where there was but one call.
    """

    steps: int
    made: int
    valid: Totals | None
    checkpoint: str
    input_wait: float | None = None


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 over what decides the order and content of the examples: shards, their sizes and checksums."""
    shards = [(s.name, s.samples, s.bytes, s.sha256) for s in dataset.shards]
    return filesystem.sha256(json.dumps([dataset.num_samples, dataset.seq_length, shards]).encode())


class Trainer:
    """One process's part of a run: restores, trains, evaluates, saves."""

    def __init__(self, options: Options, devices: Devices, export: Export | None = None) -> None:
        self.options, self.devices, self.export, self.team = options, devices, export, devices.team
        data, run = options.data, options.run
        setup.check_batch(options, devices.replicas)
        self.corpora = setup.open_corpora(options)
        self.total = setup.total_steps(options, self.corpora.train.num_samples)
        self.precision = setup.precision_of(options.runtime, devices.kind)
        self.fingerprint = self.corpora.tokenizer.fingerprint()
        self.directory = RunDir(run.run_dir)
        self.step = setup.make_step(options, self.corpora, self.total, self.precision)
        self.spec: ModelSpec = setup.spec_of(options, self.corpora)
        for dataset in (self.corpora.train, self.corpora.valid):
            if dataset is not None:
                check_data(self.step.objective, dataset)
        identity = {
            "tokenizer": self.fingerprint,
            "training data": data_fingerprint(self.corpora.train),
        }
        check_same(self.team, options.parts(), identity)
        for change in self.directory.prepare(options.parts(), identity, write=devices.is_chief):
            print(f"continuing with another option: {change}")
        if devices.is_chief:
            self.corpora.tokenizer.save(self.directory.tokenizer)
        self.checkpoints = Checkpoints(self.directory.checkpoints, run.keep, run.keep_every)
        self.state = TrainState(self.step, devices.strategy)
        self.loop = Loop(
            self.step,
            self.state,
            xla=options.runtime.xla and devices.xla,
            on_tpu=devices.kind == "tpu",
        )
        self.stream = Stream(
            self.corpora.train,
            seed=run.seed,
            batch_size=data.batch_size,
            window_shards=data.window_shards,
            readers=data.num_train_workers,
        )
        epoch = max(1, self.corpora.train.num_samples // data.batch_size)
        self.save_steps = run.save_steps or max(1, epoch // max(1, run.saves_per_epoch))
        self.eval_steps = run.eval_steps or self.save_steps
        self.committed = ""
        # Steps made so far, and those that the last checkpoint holds.
        self.at = self.saved_at = 0
        self.pace = StepsPerCall(run.steps_per_call, options.runtime.grace_seconds)
        self.notice = PreemptionWatcher(
            options.runtime.grace_seconds, self._late, metadata_host(os.environ)
        )
        self.valid: Totals | None = None

    def restore(self) -> int:
        """Find where to begin, in this order: this run's newest good checkpoint, --init_from, random values. Returns the step."""
        found = self._found()
        if found is not None:
            self.state.restore(found.load(), found.step, found.path)
            self.committed, self.at, self.saved_at = found.path, found.step, found.step
            self.notice.known = found.state.get("stopped_by", "")
            print(f"continuing at step {found.step} from {found.path}")
            return found.step
        if self.options.run.init_from:
            self._init_from(self.options.run.init_from)
            return 0
        print(f"starting at step 0 from random values (--seed {self.options.run.seed})")
        return 0

    def _found(self) -> LoadedCheckpoint | None:
        """The checkpoint to continue from: the chief chooses, so that all take the same."""
        found = self.checkpoints.newest() if self.devices.is_chief else None
        for skipped in self.checkpoints.skipped:
            print(f"passed over {skipped.path}: {skipped.reason}")
        step = self.team.gather(found and found.step)[0]
        if step is None or self.devices.is_chief:
            return found
        try:
            return self.checkpoints.at(step)
        except TlmError as error:
            raise TlmError(f"{error}; all workers must see the same --run_dir") from None

    def _init_from(self, path: str) -> None:
        spec, where = self.spec, f"--init_from {path}"
        saved = load(path, describe=described_by_options(spec.config, spec.kind, spec.seq_length))
        saved = with_positions_of(saved, spec)
        check_start(saved, spec, self.corpora.tokenizer, where)
        values, table = start_values(
            without_foreign_head(saved, spec.kind), self.state.model_arrays(), where
        )
        self.state.set_model(values)
        print(f"starting at step 0 from {saved.source}, fresh optimizer")
        print("\n".join(table))

    def _save(self, step: int) -> None:
        """Commit a checkpoint, unless a value is not finite: that would bury the last good one. The others wait for the chief."""
        if not self.devices.is_chief or (self.committed and self.saved_at == step):
            return
        with self.team.undisturbed():
            began = time.perf_counter()
            self._commit(step)
            if text := self.pace.saved(time.perf_counter() - began):
                print(f"warning: {text}")

    def _commit(self, step: int) -> None:
        arrays = self.state.arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise TlmError(
                    f"step {step}: {name!r} holds values that are not finite; {self._last_good()}"
                )
        batch = self.options.data.batch_size
        state: dict[str, Any] = {
            "position": step * batch,
            "batch_size": batch,
            "seed": self.options.run.seed,
            "tokenizer": self.fingerprint,
            "spec": json.loads(self.spec.to_json()),
            "stopped_by": self.notice.reason,
        }
        self.committed, self.saved_at = self.checkpoints.save(step, arrays, state), step
        if self.export is not None:
            self.export(step, self.state.model_arrays(), self.spec, self.fingerprint)

    def _last(self) -> str:
        return (
            f"the last good checkpoint is {self.committed}"
            if self.committed
            else "there is no checkpoint yet"
        )

    def _last_good(self) -> str:
        return f"{self._last()}; try a smaller --lr, more --warmup_steps or a smaller --clip"

    def _late(self) -> TlmError:
        """What to end with when the time after a notice is over; called in another thread."""
        grace = f"--grace_seconds {self.notice.grace:g} after {self.notice.reason}"
        error: TlmError
        if self.saved_at == self.at:
            error = Preempted(
                f"stopped {grace} with nothing to save since step {self.at}: {self._last()}; the same command continues"
            )
        else:
            error = TlmError(
                f"stopped {grace}: step {self.at} could not be saved in that time; {self._last()}; the same command continues from there; "
                "give more --grace_seconds, or a smaller --steps_per_call"
            )
        self.team.fail(error)
        return error

    def _agree(self) -> int:
        """Hear the others between calls: the steps of the next call, the same for all; 0 where one of them was told to stop."""
        mine = {
            "steps": self.pace.steps,
            "stop": self.notice.reason,
            "saved_at": self.saved_at,
            "committed": self.committed,
        }
        everybody = self.team.gather(mine)
        self.saved_at, self.committed = everybody[0]["saved_at"], everybody[0]["committed"]
        for host, other in enumerate(everybody):
            if other["stop"]:
                own = host == self.team.host
                self.notice.give(
                    other["stop"] if own else f"{self.team.title(host)}: {other['stop']}"
                )
        stopping = any(other["stop"] for other in everybody)
        return 0 if stopping else int(min(other["steps"] for other in everybody))

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

    def train(self) -> TrainResult:
        """Make the steps that are left.

        Raises `Preempted` after SIGTERM or Google Cloud's notice, with everything saved; `TlmError` when the loss is not finite; what
        TensorFlow raises when another worker died, which the team's context turns into `PeerLost`.
        """
        begun = step = self.restore()
        if step >= self.total:
            print(
                f"nothing to do: step {step} of {self.total} is reached; give more --steps to go on"
            )
            return TrainResult(step, 0, None, self.committed)
        optim, batch = self.options.optim, self.options.data.batch_size
        if self.step.objective.cross_replica and optim.grad_accum > 1:
            others = batch // optim.grad_accum - 1
            print(
                f"--grad_accum {optim.grad_accum}: each example is told from the {others} others of its micro-batch"
            )
        print(
            f"learning rate {optim.lr:g}, {optim.lr_schedule}, after {warmup_of(optim, self.total)} of {self.total} steps of warm-up"
        )
        progress = self._progress()
        tb = self.directory.tb if self.options.run.tensorboard else None
        metrics = (
            Metrics(self.directory.metrics, start=step, tb=tb) if self.devices.is_chief else None
        )
        try:
            with self.notice:
                self._train_from(step, progress, metrics)
        finally:
            progress.close()
            if metrics is not None:
                metrics.close()
        return TrainResult(
            self.total, self.total - begun, self.valid, self.committed, progress.input_wait
        )

    def _train_from(self, step: int, progress: Progress, metrics: Metrics | None) -> None:
        start = step * self.options.data.batch_size
        iterator = iter(
            feed(
                lambda hosts, host: self.stream.batches(start, hosts=hosts, host=host),
                self.state.strategy,
            )
        )
        while (agreed := self._agree()) and step < self.total:
            steps = min(agreed, self._next_stop(step) - step)
            began = time.perf_counter()
            totals = self._call(iterator, steps)
            seconds = time.perf_counter() - began
            self.pace.called(steps, seconds)
            if totals.bad_step >= 0:
                window = f"steps {step + 1} to {step + steps}"
                raise TlmError(
                    f"the loss or its gradient is not finite at step {totals.bad_step + 1} ({window}); {self._last_good()}"
                )
            step = self.at = step + steps
            shown = {
                "loss": totals.loss,
                "grad_norm": totals.grad_norm,
                **{name: totals.mean(name) for name in totals.metrics},
            }
            shown["lr"] = float(self.step.schedule(np.int64(step - 1)))
            speeds = progress.update(
                step, steps=steps, seconds=seconds, waited=totals.waited, values=shown
            )
            if metrics is not None:
                metrics.write("train", step, {**shown, **speeds})
            self._after(step, progress, metrics)
        if step < self.total:
            self._write(step, metrics)
            self._agree()
            raise Preempted(
                f"stopped by {self.notice.reason} at step {step}; saved in {self.committed}: the same command continues"
            )

    def _call(self, iterator: Any, steps: int) -> Totals:
        with naming_input(self.corpora.train, self.step.objective):
            return self.loop.train(iterator, steps)

    def _after(self, step: int, progress: Progress, metrics: Metrics | None) -> None:
        """Evaluate and save where it is time."""
        last = step == self.total
        valid = self.corpora.valid
        if valid is not None and (last or step % self.eval_steps == 0):
            trained = self.options.data.batch_size
            batch = self.options.data.eval_batch_size or trained
            totals = evaluate(self.loop, valid, batch, lambda: -(-self._agree() * trained // batch))
            if totals is None:
                progress.message(f"step {step}: validation left out, stopping")
            else:
                self.valid = totals
                self._show_validation(step, totals, progress, metrics)
        if last or step % self.save_steps == 0:
            self._write(step, metrics)

    def _show_validation(
        self, step: int, totals: Totals, progress: Progress, metrics: Metrics | None
    ) -> None:
        loss = totals.loss
        perplexity = (
            {"perplexity": math.exp(min(loss, 700.0))} if self.step.objective.perplexity else {}
        )
        values = {"loss": loss, **perplexity, **{n: totals.mean(n) for n in totals.metrics}}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        progress.message(f"step {step}: validation {shown} over {int(totals.weight):,} targets")
        if metrics is not None:
            metrics.write("valid", step, values)

    def _write(self, step: int, metrics: Metrics | None) -> None:
        if metrics is not None:
            metrics.flush()
        self._save(step)
