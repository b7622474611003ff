"""The trainer: restores a run, trains, evaluates and saves it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm.checkpoints.manager import Checkpoints, LoadedCheckpoint
from tpu_tlm.checkpoints.run_checkpoints import SavedElsewhere
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.data.dataset.stream import Stream
from tpu_tlm.devices import program_cache
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
    StepReport,
)
from tpu_tlm.training.data_position import DataPosition
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.evaluation import evaluate, naming_input
from tpu_tlm.training.initial_model import InitialModel
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.result import TrainResult
from tpu_tlm.training.saving import Saver
from tpu_tlm.training.setup import Experiment
from tpu_tlm.training.speed import SpeedMeter
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.steps_per_call import StepsPerCall
from tpu_tlm.training.warm_start import warm_start


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
    the stream's; init_from: weights to start from; new_token_init: "mean" or "random", the values
    of tokens that they lack; xla: whether to compile the step.
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
        new_token_init: str = "mean",
        xla: bool = True,
        callbacks: Iterable[Callback] = (),
    ) -> None:
        self.experiment, self.devices, self.peers = experiment, devices, devices.peers
        self.directory, self.checkpoints, self.stream = directory, checkpoints, stream
        self.intervals, self.init_from = intervals, init_from
        self.new_token_init = new_token_init
        self.eval_batch_size = eval_batch_size or stream.batch_size
        self.examples = DataPosition(stream.batch_size)
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
        self.saver = Saver(
            checkpoints,
            directory,
            self._protected,
            lambda: self.committed,
            self._note_commit,
            self._pretrained,
            self.callbacks.in_background,
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
        """Restore the newest good checkpoint, `init_from` or random values; returns its step."""
        found = self._found()
        if found is not None:
            self.state.restore(found.load(), found.step, found.path)
            self.committed, self.at, self.saved_at = found.path, found.step, found.step
            self.examples = self.examples.continued(found.step, found.state)
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
        step = self.peers.gather(found and found.step)[0]
        if step is None or self.devices.is_chief:
            return found
        try:
            return self.checkpoints.at(step)
        except TlmError as error:
            raise TlmError(f"{error}; all workers must see the same --run_dir") from None

    def _warm_start(self, initial: InitialModel) -> None:
        values, lines = warm_start(
            initial,
            self.experiment.spec,
            self.experiment.datasets.tokenizer,
            self.state.model_arrays(),
            self.new_token_init,
        )
        self.state.set_model(values)
        self._say("\n".join(lines))

    # Training

    def fit(self) -> TrainResult:
        """Make the remaining steps.

        Raises `Preempted` after SIGTERM, SIGINT, SIGHUP or Google Cloud's notice, with everything
        saved; `TlmError` when the loss is not finite or a checkpoint cannot be written; the error
        of TensorFlow when another worker ended, which the context of `devices.peers` turns into
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
            with self.notice, self._finishing_saves():
                self._train_from(start)
        finally:
            self.callbacks.on_end()
            program_cache.publish()
        made, wait = self.total - start, self.speed.input_wait
        return TrainResult(self.directory.path, self.total, made, self.valid, self.committed, wait)

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
            if self.peers.size > 1:
                raise
            self.at = self.state.updates()
            self.notice.give("SIGINT")

    def _make_steps(self, step: int) -> None:
        start = self.examples.of(step)
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
            if self.pace.called(steps, seconds) == 1:
                program_cache.publish()
            if totals.bad_step >= 0:
                raise TlmError(
                    f"the loss or its gradient is not finite at step {totals.bad_step + 1} (steps"
                    f" {step + 1} to {step + steps}); {stop_messages.last_good(self.committed)}"
                )
            step = self.at = step + steps
            self._report(steps, seconds, totals)
            self._settle()
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
        workers = self.peers.gather(mine)
        if self.peers.host:  # on the chief a save may have ended meanwhile
            self.saved_at, self.committed = workers[0]["saved_at"], workers[0]["committed"]
        for host, other in enumerate(workers):
            if other["stop"]:
                own = host == self.peers.host
                self.notice.give(
                    other["stop"] if own else f"{self.peers.title(host)}: {other['stop']}"
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
            self._save(step, background=not last)

    def _evaluation(self, step: int, totals: Totals) -> EvaluationReport:
        values = {"loss": totals.loss}
        if self.experiment.objective.perplexity:
            values["perplexity"] = math.exp(min(totals.loss, 700.0))
        values |= {name: totals.mean(name) for name in totals.metrics}
        return EvaluationReport(step, values, int(totals.weight))

    def _save(self, step: int, background: bool = False) -> None:
        """Save a checkpoint, unless this step has one; other workers wait for the chief.

        background: return when the values are copied, and the save before this one is complete.
        """
        self.callbacks.before_save(step, everyone=not self.devices.is_chief)
        if not self.devices.is_chief:
            if self.state.communicates:
                self.state.snapshot(keep=False)
            return
        self._settle(wait=True)
        new = not self.committed or self.saved_at != step
        # The others, which may not know that it is done, wait for this process to take part.
        values = self.state.snapshot(new, background) if self.state.communicates or new else {}
        if not new:
            return
        state: dict[str, Any] = {
            "position": self.examples.of(step),
            "batch_size": self.stream.batch_size,
            "seed": self.step.seed,
            "tokenizer": self.fingerprint,
            "spec": json.loads(self.experiment.spec.to_json()),
            "stopped_by": self.notice.reason,
        }
        self.saver.start(step, values, state, background)
        self._settle(wait=not background)

    def _settle(self, wait: bool = False) -> None:
        """Report a background save that has ended; raises its error."""
        try:
            done = self.saver.finished(wait)
        except SavedElsewhere as error:
            if not self.notice.reason:
                raise
            return self.callbacks.on_message(f"warning: {error}")
        if done is None:
            return
        if text := self.pace.saved(done.seconds):
            self.callbacks.on_message(f"warning: {text}")
        self.callbacks.on_save(done.report(self._pretrained))

    @contextlib.contextmanager
    def _finishing_saves(self) -> Iterator[None]:
        """After an error, complete the save in flight; the error counts for more than its own."""
        try:
            yield
        except BaseException:
            try:
                self._settle(wait=True)
            except TlmError as unsaved:
                self.callbacks.on_message(f"warning: {unsaved}")
            raise

    @contextlib.contextmanager
    def _protected(self) -> Iterator[None]:
        with self.peers.undisturbed(), self.notice.saving():
            yield

    def _note_commit(self, step: int, path: str) -> None:
        self.committed, self.saved_at = path, step

    def _pretrained(self, values: Mapping[str, np.ndarray]) -> PretrainedModel:
        """The model with the values that were saved."""
        return PretrainedModel(
            dict(values),
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
        self.peers.fail(error)
        return error

    def _abandoned(self) -> TlmError:
        """The error to end with after a second SIGINT."""
        error = Preempted(
            stop_messages.abandoned(self.at, self.saved_at, self.committed), self.notice.exit_code
        )
        self.peers.fail(error)
        return error

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, flush=True)
