"""The trainer: restores a run, trains, evaluates and saves it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm.checkpoints.manager import Checkpoints, LoadedCheckpoint
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.data.dataset.stream import Stream
from tpu_tlm.devices.peaks import peak_flops
from tpu_tlm.devices.select import Devices
from tpu_tlm.distributed.preemption import PreemptionWatcher, metadata_host
from tpu_tlm.errors import Preempted, TlmError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.training import stop_messages
from tpu_tlm.training.callbacks import (
    Callback,
    CallbackList,
    EvaluationReport,
    RunStart,
    SaveReport,
    StepReport,
)
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.evaluation import evaluate, naming_input
from tpu_tlm.training.initial_model import InitialModel
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.setup import Experiment
from tpu_tlm.training.speed import SpeedMeter
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.steps_per_call import StepsPerCall
from tpu_tlm.training.warm_start import warm_start


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    run_dir: its directory; steps: of the whole run; made: those of this process; valid: sums of the
    last evaluation, `validation` as means by name; checkpoint: directory of the last one;
    input_wait: share of the steps' time in which the devices had no batch, None if there was only
    one device call.
    """

    run_dir: str
    steps: int
    made: int
    valid: Totals | None
    checkpoint: str
    input_wait: float | None = None

    @property
    def summary(self) -> str:
        """One line about the run."""
        waited = self.input_wait
        wait = "" if waited is None else f"; input wait {100.0 * waited:.1f} % of the time"
        return (
            f"{self.made} steps made, {self.steps} in all; last checkpoint {self.checkpoint}{wait}"
        )

    @property
    def validation(self) -> dict[str, float]:
        """Loss and metrics of the last evaluation; empty without validation data."""
        if self.valid is None:
            return {}
        return {"loss": self.valid.loss, **{n: self.valid.mean(n) for n in self.valid.metrics}}


@dataclass(frozen=True)
class Intervals:
    """When a trainer does what, in optimizer steps.

    steps_per_call: most steps per device call; grace_seconds: longest time from a preemption notice
    to the end of the process, 0 = no limit.
    """

    save_steps: int
    eval_steps: int
    steps_per_call: int = 100
    grace_seconds: float = 0.0


class Trainer:
    """One process of a run.

    stream: the training data; checkpoints: those of the run in `directory`; eval_batch_size: None =
    the stream's; init_from: weights to start from; xla: whether to compile the step.
    """

    def __init__(
        self,
        experiment: Experiment,
        devices: Devices,
        directory: RunDir,
        checkpoints: Checkpoints,
        stream: Stream,
        intervals: Intervals,
        *,
        eval_batch_size: int | None = None,
        init_from: InitialModel | None = None,
        xla: bool = True,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.experiment, self.devices, self.team = experiment, devices, devices.team
        self.directory, self.checkpoints, self.stream = directory, checkpoints, stream
        self.intervals, self.init_from = intervals, init_from
        self.eval_batch_size = eval_batch_size or stream.batch_size
        self.callbacks = CallbackList(callbacks)
        self.step, self.total = experiment.step, experiment.total_steps
        self.fingerprint = experiment.datasets.tokenizer.fingerprint()
        self.state = TrainState(self.step, devices.strategy)
        self.loop = Loop(
            self.step, self.state, xla=xla and devices.xla, on_tpu=devices.kind == "tpu"
        )
        self.committed = ""
        # Steps made so far, and those in the last checkpoint.
        self.at = self.saved_at = 0
        self.pace = StepsPerCall(intervals.steps_per_call, intervals.grace_seconds)
        self.notice = PreemptionWatcher(
            intervals.grace_seconds, self._late, metadata_host(os.environ), self._abandoned
        )
        self.speed = self._speed_meter()
        self.valid: Totals | None = None

    def _speed_meter(self) -> SpeedMeter:
        batch, objective = self.stream.batch_size, self.experiment.objective
        peak = peak_flops(self.devices.name, self.experiment.precision)
        return SpeedMeter(
            tokens=objective.tokens(self.experiment.spec) * batch,
            flops=objective.flops(self.experiment.spec) * batch,
            peak=peak * self.devices.replicas if peak is not None else None,
        )

    # Where to begin

    def restore(self) -> int:
        """Restore the state to start from and return its step.

        In this order: the run's newest good checkpoint, `init_from`, the random initial values.
        """
        found = self._found()
        if found is not None:
            self.state.restore(found.load(), found.step, found.path)
            self.committed, self.at, self.saved_at = found.path, found.step, found.step
            self.notice.known = found.state.get("stopped_by", "")
            self._say(f"continuing at step {found.step} from {found.path}")
            return found.step
        if self.init_from:
            self._warm_start(self.init_from)
            return 0
        self._say(f"starting at step 0 from random values (--seed {self.step.seed})")
        return 0

    def _found(self) -> LoadedCheckpoint | None:
        """The checkpoint to continue from: the chief chooses, so that all workers agree."""
        found = self.checkpoints.newest() if self.devices.is_chief else None
        for skipped in self.checkpoints.skipped:
            self._say(str(skipped))
        step = self.team.gather(found and found.step)[0]
        if step is None or self.devices.is_chief:
            return found
        try:
            return self.checkpoints.at(step)
        except TlmError as error:
            raise TlmError(f"{error}; all workers must see the same --run_dir") from None

    def _warm_start(self, initial: InitialModel) -> None:
        spec, tokenizer = self.experiment.spec, self.experiment.datasets.tokenizer
        saved, values, table = warm_start(initial, spec, tokenizer, self.state.model_arrays())
        self.state.set_model(values)
        self._say("\n".join([f"starting at step 0 from {saved.source}, fresh optimizer", *table]))

    # Training

    def fit(self) -> TrainResult:
        """Make the remaining steps.

        Raises `Preempted` after SIGTERM, SIGINT, SIGHUP or Google Cloud's notice, with everything
        saved; `TlmError` when the loss is not finite or a checkpoint cannot be written; the error
        of TensorFlow when another worker ended, which the context of `devices.team` turns into
        `PeerLost`.
        """
        start = self.restore()
        if start >= self.total:
            self._say(
                f"nothing to do: step {start} of {self.total} is reached; give more --steps to"
                " continue"
            )
            return TrainResult(self.directory.path, start, 0, None, self.committed)
        try:
            self.callbacks.on_start(RunStart(start, self.total, self.directory.path))
            with self.notice:
                self._train_from(start)
        finally:
            self.callbacks.on_end()
        return TrainResult(
            self.directory.path,
            self.total,
            self.total - start,
            self.valid,
            self.committed,
            self.speed.input_wait,
        )

    def _train_from(self, step: int) -> None:
        with self._interruptible():
            self._make_steps(step)
        if self.at < self.total:
            self._save(self.at)
            self._agree()
            raise Preempted(
                stop_messages.stopped(self.notice.reason, self.at, self.committed),
                self.notice.exit_code,
            )

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """A KeyboardInterrupt, which a callback or a debugger may raise, stops like SIGINT."""
        try:
            yield
        except KeyboardInterrupt:
            if self.team.size > 1:
                raise
            self.at = self.state.updates()
            self.notice.give("SIGINT")

    def _make_steps(self, step: int) -> None:
        start = step * self.stream.batch_size
        iterator = iter(
            feed(
                lambda hosts, host: self.stream.batches(start, hosts=hosts, host=host),
                self.state.strategy,
            )
        )
        while step < self.total and (agreed := self._agree()):
            steps = min(agreed, self._next_stop(step) - step)
            began = time.perf_counter()
            with naming_input(self.experiment.datasets.train, self.experiment.objective):
                totals = self.loop.train(iterator, steps)
            seconds = time.perf_counter() - began
            self.pace.called(steps, seconds)
            if totals.bad_step >= 0:
                raise TlmError(
                    f"the loss or its gradient is not finite at step {totals.bad_step + 1} (steps"
                    f" {step + 1} to {step + steps}); {stop_messages.last_good(self.committed)}"
                )
            step = self.at = step + steps
            self._report(steps, seconds, totals)
            self._evaluate_and_save(step)

    def _report(self, steps: int, seconds: float, totals: Totals) -> None:
        values = {
            "loss": totals.loss,
            "grad_norm": totals.grad_norm,
            **{name: totals.mean(name) for name in totals.metrics},
            "lr": float(self.step.schedule(np.int64(self.at - 1))),
        }
        speeds = self.speed.add(steps, seconds, totals.waited)
        self.callbacks.on_step(StepReport(self.at, steps, self.total, seconds, values, speeds))

    def _agree(self) -> int:
        """All-gather step budget and stop flags; returns the steps of the next call, 0 = stop."""
        mine = {
            "steps": self.pace.steps,
            "stop": self.notice.reason,
            "saved_at": self.saved_at,
            "committed": self.committed,
        }
        workers = self.team.gather(mine)
        self.saved_at, self.committed = workers[0]["saved_at"], workers[0]["committed"]
        for host, other in enumerate(workers):
            if other["stop"]:
                own = host == self.team.host
                self.notice.give(
                    other["stop"] if own else f"{self.team.title(host)}: {other['stop']}"
                )
        stopping = any(other["stop"] for other in workers)
        return 0 if stopping else int(min(other["steps"] for other in workers))

    def _next_stop(self, step: int) -> int:
        """The next step after which to save or evaluate, or the last one."""
        saves, evaluations = self.intervals.save_steps, self.intervals.eval_steps
        stops = [self.total, (step // saves + 1) * saves]
        if self.experiment.datasets.valid is not None:
            stops.append((step // evaluations + 1) * evaluations)
        return min(stops)

    # Evaluating and saving

    def _evaluate_and_save(self, step: int) -> None:
        last = step == self.total
        valid = self.experiment.datasets.valid
        if valid is not None and (last or step % self.intervals.eval_steps == 0):
            trained, batch = self.stream.batch_size, self.eval_batch_size
            totals = evaluate(self.loop, valid, batch, lambda: -(-self._agree() * trained // batch))
            if totals is None:
                self.callbacks.on_message(f"step {step}: validation is left out: stopping")
            else:
                self.valid = totals
                self.callbacks.on_evaluate(self._evaluation(step, totals))
        if last or step % self.intervals.save_steps == 0:
            self._save(step)

    def _evaluation(self, step: int, totals: Totals) -> EvaluationReport:
        values = {"loss": totals.loss}
        if self.experiment.objective.perplexity:
            values["perplexity"] = math.exp(min(totals.loss, 700.0))
        values |= {name: totals.mean(name) for name in totals.metrics}
        return EvaluationReport(step, values, int(totals.weight))

    def _save(self, step: int) -> None:
        """Commit a checkpoint, unless this step has one; other workers wait for the chief."""
        self.callbacks.before_save(step)
        if not self.devices.is_chief or (self.committed and self.saved_at == step):
            return
        with self.team.undisturbed(), self.notice.saving():
            began = time.perf_counter()
            self._commit(step)
            if text := self.pace.saved(time.perf_counter() - began):
                self.callbacks.on_message(f"warning: {text}")

    def _commit(self, step: int) -> None:
        arrays = self.state.arrays()
        for name, array in arrays.items():
            # Refused, so that the last good checkpoint is not rotated out.
            if not np.isfinite(array).all():
                raise TlmError(
                    f"step {step}: {name!r} has values that are not finite;"
                    f" {stop_messages.last_good(self.committed)}"
                )
        state: dict[str, Any] = {
            "position": step * self.stream.batch_size,
            "batch_size": self.stream.batch_size,
            "seed": self.step.seed,
            "tokenizer": self.fingerprint,
            "spec": json.loads(self.experiment.spec.to_json()),
            "stopped_by": self.notice.reason,
        }
        try:
            path = self.checkpoints.save(step, arrays, state)
        except TlmError as error:
            raise TlmError(stop_messages.unsaved(str(error), self.committed)) from error
        self.committed, self.saved_at = path, step
        self.directory.note_commit()
        self.callbacks.on_save(
            SaveReport(step, path, tuple(self.checkpoints.steps()), self._pretrained)
        )

    def _pretrained(self) -> PretrainedModel:
        """The model with its present values."""
        return PretrainedModel(
            self.state.model_arrays(),
            self.experiment.spec,
            self.directory.path,
            self.fingerprint,
            self.directory.tokenizer,
        )

    # Stopping; the two functions are called in another thread

    def _late(self) -> TlmError:
        """The error to end with when the grace period is over."""
        error: TlmError
        if self.saved_at == self.at:
            error = Preempted(
                stop_messages.late_saved(self.notice, self.at, self.committed),
                self.notice.exit_code,
            )
        else:
            error = TlmError(stop_messages.late_unsaved(self.notice, self.at, self.committed))
        self.team.fail(error)
        return error

    def _abandoned(self) -> TlmError:
        """The error to end with after a second SIGINT."""
        error = Preempted(
            stop_messages.abandoned(self.at, self.saved_at, self.committed), self.notice.exit_code
        )
        self.team.fail(error)
        return error

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, flush=True)
