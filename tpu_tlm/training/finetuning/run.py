"""A fine-tuning run: epochs, evaluation, best checkpoint, continuing where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints, SavedElsewhere
from tpu_tlm.checkpoints.run_dir import PROGRESS, RunDir
from tpu_tlm.data.progress import ProgressBar, duration
from tpu_tlm.devices.select import Devices
from tpu_tlm.distributed.preemption import PreemptionWatcher, metadata_host
from tpu_tlm.errors import OptionError, Preempted, TlmError
from tpu_tlm.formats.task_head import EXTRA
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.tasks import metrics as scoring
from tpu_tlm.tasks.batches import batch_stream
from tpu_tlm.tasks.model import HEAD, head_suffices
from tpu_tlm.tasks.options import FinetuneOptions, default_epochs, default_lr
from tpu_tlm.training import stop_messages
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.finetuning.features import cached_vectors
from tpu_tlm.training.finetuning.history import History, Pace
from tpu_tlm.training.finetuning.outputs import Outputs
from tpu_tlm.training.finetuning.prepare import Prepared, Split, describe
from tpu_tlm.training.finetuning.setup import make_step, training_batches
from tpu_tlm.training.finetuning.source import Source
from tpu_tlm.training.loop import Loop
from tpu_tlm.training.state import TrainState, not_finite
from tpu_tlm.training.steps_per_call import StepsPerCall


@dataclass(frozen=True)
class Finished:
    """A finished run: metrics and outputs of its best model on validation and test data."""

    run_dir: str
    history: History
    metric: str
    valid: dict[str, float]
    valid_outputs: list[np.ndarray]
    test: dict[str, float] | None
    test_outputs: list[np.ndarray] | None


class FinetuneRun:
    """Trains the model of one seed in one run directory."""

    def __init__(
        self, options: FinetuneOptions, source: Source, prepared: Prepared, devices: Devices
    ) -> None:
        self.options, self.source, self.prepared, self.devices = options, source, prepared, devices
        fit, head = options.fit, options.head
        task = prepared.task
        self.metric = fit.metric or scoring.default_metric(task.name, task.labels, task.metric)
        gold = [task.gold(row) for row in prepared.valid.rows]
        names = scoring.metric_names(task.name, task.labels, gold)
        if self.metric not in names:
            raise OptionError(f"--metric {self.metric}: not one of {', '.join(names)}")
        self.epochs = fit.epochs or default_epochs(len(prepared.train.rows))
        self.lr = fit.lr or default_lr(source.parameters, head.finetune)
        self.directory = RunDir(options.run.run_dir)
        identity = {
            "training data": prepared.fingerprint,
            "tokenizer": source.tokenizer.fingerprint(),
            "model": _fingerprint(source),
        }
        for change in self.directory.prepare(options.parts(), identity, write=devices.is_chief):
            print(f"continuing with another option: {change}")
        if devices.is_chief:
            source.tokenizer.save(self.directory.tokenizer)
        self.best = RunCheckpoints(self.directory.checkpoints, 1)
        self.progress = RunCheckpoints(f"{self.directory.path}/{PROGRESS}", 1)
        # Vectors that need no training after the encoder are computed once.
        self.head_only = not head.finetune and head_suffices(prepared.spec, prepared.head)
        self.vectors = self._vectors() if self.head_only else {}
        self.buckets, self.plan = training_batches(
            options, prepared, devices.replicas, self._own_vectors(), self.epochs
        )
        self.total = len(self.plan.order)
        self.step = make_step(
            options, source, prepared, devices.kind, self.lr, self.total, head_only=self.head_only
        )
        self.state = TrainState(self.step, devices.strategy)
        self.loop = Loop(
            self.step,
            self.state,
            xla=options.runtime.xla and devices.xla,
            on_tpu=devices.kind == "tpu",
        )
        self.outputs = Outputs(
            self._forward,
            lengths=[b.length for b in self.buckets],
            limit=prepared.framer.max_length,
            pad_id=prepared.spec.pad_id,
            batch=max(fit.batch_size, 64),
            # On a processor compiling takes longer than it saves.
            xla=options.runtime.xla and devices.kind == "gpu",
            strategy=devices.strategy,
        )
        self.history = History()
        self.at = 0
        self.committed = ""
        self._display = ProgressBar()
        self._pace = Pace()
        self._calls = StepsPerCall(100, options.runtime.grace_seconds)
        self._calls.called(1, 0.0)  # the first is not measured, and here none is that compiles
        self.notice = PreemptionWatcher(
            options.runtime.grace_seconds, self._late, metadata_host(os.environ)
        )

    # Parts

    def _vectors(self) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        splits = [self.prepared.train, self.prepared.valid, self.prepared.test]
        for split in splits:
            if split is not None:
                found[split.name] = cached_vectors(
                    self.source,
                    self.prepared.spec,
                    self.prepared.head,
                    split.examples,
                    f"{self.directory.path}/features",
                    split.name,
                )
        return found

    def _own_vectors(self) -> dict[str, np.ndarray] | None:
        return self.vectors[self.prepared.train.name] if self.head_only else None

    def _forward(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        import keras

        values = self.state.read()[0]
        mapping = list(zip(named_variables(self.step.model).values(), values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return self.step.model(features)

    # Running

    def fit(self) -> Finished:
        """Train to the last epoch, or until nothing improves; returns the best model's outputs.

        Raises `Preempted` after SIGTERM with everything saved, `TlmError` when the loss is not
        finite.
        """
        self._restore()
        fit = self.options.fit
        if self.at < self.total and not self._over():
            lengths = " ".join(f"{b.length} ({b.batch} a batch)" for b in self.buckets)
            print(
                f"{self.epochs:g} epochs of {len(self.prepared.train.rows):,} texts, "
                f"{self.total:,} steps, learning rate {self.lr:g}, "
                f"{'vectors' if self.head_only else f'lengths {lengths}'}; best by {self.metric}",
                flush=True,
            )
        iterators = self._iterators()
        with self.notice:
            while self.at < self.total and not self._over():
                self._epoch(iterators)
        if fit.patience and self.at < self.total:
            print(f"stopped: {self.metric} has not improved for {fit.patience} epochs")
        return self._finish()

    def _over(self) -> bool:
        patience = self.options.fit.patience
        return bool(patience) and len(self.history.epochs) - self.history.best_epoch >= patience

    def _iterators(self) -> list[Iterator[Any]]:
        before = self.plan.before(self.at)
        return [self._iterator(b, done) for b, done in enumerate(before)]

    def _iterator(self, b: int, done: int) -> Iterator[Any]:
        """The batches of bucket `b` after its first `done`."""
        rows, positions = self.plan.rows[b][done:], self.plan.positions[b][done:]
        if not len(rows):
            return iter(())

        def source(hosts: int, host: int) -> tf.data.Dataset:
            return batch_stream(self.buckets[b], rows, positions, hosts, host)

        return iter(feed(source, self.state.strategy))

    def _epoch(self, iterators: list[Iterator[Any]]) -> None:
        """The rest of the current epoch, its evaluation, and a checkpoint."""
        end = next(end for end in self.plan.ends if end > self.at)
        history = self.history
        while self.at < end:
            if self._told():
                self._save_progress()
                raise Preempted(
                    f"stopped by {self.notice.reason} at step {self.at}; saved in "
                    f"{self.directory.path}: the same command continues",
                    self.notice.exit_code,
                )
            bucket = int(self.plan.order[self.at])
            steps, most = 1, min(end - self.at, self._budget)
            while steps < most and self.plan.order[self.at + steps] == bucket:
                steps += 1
            began = time.perf_counter()
            totals = self.loop.train(iterators[bucket], steps)
            if totals.bad_step >= 0:
                raise TlmError(
                    f"the loss or its gradient is not finite at step {totals.bad_step + 1}; try a "
                    "smaller --lr"
                )
            seconds = time.perf_counter() - began
            if self._pace.called(bucket, steps, seconds):
                self._calls.called(steps, seconds)
                history.seconds += seconds
                history.texts += steps * self.buckets[bucket].batch
            history.loss += sum(total for total, _ in totals.losses)
            history.weight += sum(weight for _, weight in totals.losses)
            self.at += steps
            self._show(end)
        self._evaluate_epoch()

    def _told(self) -> bool:
        """Whether a worker is to stop; agrees on the steps of the next call, too."""
        told = self.devices.peers.gather([self.notice.reason, self._calls.steps])
        reasons = [reason for reason, _ in told]
        self._budget = min(steps for _, steps in told)
        for reason in reasons:
            if reason and not self.notice.reason:
                self.notice.give(reason)
        return any(reasons)

    def _show(self, end: int) -> None:
        if self.at >= end:
            return
        h, left = self.history, self._pace.seconds_left(self.at, self.total)
        self._display.status(
            lambda: (
                f"step {self.at}/{self.total}  "
                f"{'compiling' if left is None else f'{duration(left)} left'}  "
                f"loss {h.loss / max(h.weight, 1e-9):.4f}{h.shown_speed}"
            )
        )

    def _evaluate_epoch(self) -> None:
        history, split = self.history, self.prepared.valid
        found = self.scores(split, self.split_outputs(split))
        value = found[self.metric]
        number = len(history.epochs) + 1
        better = scoring.improves(self.metric, value, history.best)
        speed, shown = history.speed, history.shown_speed
        history.epochs.append(
            {
                "epoch": number,
                "step": self.at,
                "texts_per_second": speed,
                "train_loss": history.loss / max(history.weight, 1e-9),
                "valid": found,
            }
        )
        history.loss = history.weight = history.seconds = 0.0
        history.texts = 0
        if better or history.best is None:
            history.best, history.best_epoch = value, number
            self._save_best()
        self._save_progress()
        last = history.epochs[-1]
        self._display.clear()
        print(
            f"epoch {number}  loss {last['train_loss']:.4f}  valid {self.metric} {value:.4f}"
            f"{' (best)' if better else ''}{shown}",
            flush=True,
        )

    def split_outputs(self, split: Split) -> list[np.ndarray]:
        """Logits of a split's rows under the present values."""
        return self.outputs.rows(split.examples, self.vectors.get(split.name))

    def scores(self, split: Split, outputs: list[np.ndarray]) -> dict[str, float]:
        """The task's metrics of a split."""
        task = self.prepared.task
        decoded = [task.decode(values) for values in outputs]
        gold = [task.gold(row) for row in split.rows]
        return scoring.metrics_of(
            task.name, task.labels, gold, [g for g, _ in decoded], [p for _, p in decoded]
        )

    # Saving

    def _model_values(self) -> dict[str, np.ndarray]:
        """Encoder as `model/...`, where every command finds it, and head as `task/...`."""
        values = dict(self.state.model_arrays())
        if self.head_only:
            values = {**self.source.encoder, **values}
        arrays = {
            path if path.startswith(HEAD) else f"model/{path}": value
            for path, value in values.items()
        }
        arrays |= {f"model/{path}": value for path, value in self.source.rest.items()}
        return arrays | {f"{EXTRA}{name}": v for name, v in self.source.extras.items()}

    def _checkpoint_state(self) -> dict[str, Any]:
        return {
            "position": self.at,
            "seed": self.options.fit.seed,
            "tokenizer": self.source.tokenizer.fingerprint(),
            "spec": json.loads(self.prepared.spec.to_json()),
            "task": {**describe(self.prepared), "family": self.source.family},
            "history": vars(self.history),
        }

    def _checked(self, values: dict[str, Any]) -> dict[str, Any]:
        if name := not_finite(values):
            raise TlmError(f"step {self.at}: {name!r} is not finite; try a smaller --lr")
        return values

    def _save_best(self) -> None:
        if self.devices.is_chief:
            self._commit(self.best, self._model_values())

    def _save_progress(self) -> None:
        if self.devices.is_chief:
            self.committed = self._commit(self.progress, self.state.snapshot())

    def _commit(self, checkpoints: RunCheckpoints, arrays: dict[str, Any]) -> str:
        with self.devices.peers.undisturbed(), self.notice.saving():
            arrays = self._checked(arrays)
            try:
                return checkpoints.save(self.at, arrays, self._checkpoint_state())
            except SavedElsewhere as error:
                if not self.notice.reason:
                    raise
                print(f"warning: {error}", flush=True)
                return error.path
            except TlmError as error:
                raise TlmError(stop_messages.unsaved(str(error), self.committed)) from error

    def _restore(self) -> None:
        found = self.progress.newest()
        for skipped in self.progress.skipped:
            print(f"skipped {skipped.path}: {skipped.reason}")
        if found is None:
            return
        self.state.restore(found.load(), found.step, found.path)
        self.history = History(**found.state["history"])
        self.at, self.committed = found.step, found.path
        self._pace = Pace(self.at)
        print(f"continuing at step {found.step} of {self.total} from {found.path}")

    def _late(self) -> TlmError:
        error = TlmError(
            f"stopped {self.notice.grace:g} s after {self.notice.reason}: step {self.at} could "
            "not be saved in that time; the same command continues from the epoch before"
        )
        self.devices.peers.fail(error)
        return error

    def _finish(self) -> Finished:
        """Load the best model, and predict validation and test with it."""
        found = self.best.newest()
        if found is None:
            raise TlmError(f"{self.best.directory}: holds no checkpoint of the best epoch")
        arrays = found.load()
        self.state.set_model(
            {
                path: arrays[path if path.startswith(HEAD) else f"model/{path}"]
                for path in self.state.paths
            }
        )
        prepared = self.prepared
        valid = self.split_outputs(prepared.valid)
        test = self.split_outputs(prepared.test) if prepared.test is not None else None
        return Finished(
            self.directory.path,
            self.history,
            self.metric,
            self.scores(prepared.valid, valid),
            valid,
            self.scores(prepared.test, test) if prepared.test is not None and test else None,
            test,
        )


def _fingerprint(source: Source) -> str:
    """SHA-256 over the encoder's values."""
    parts = [
        f"{path} {value.shape} {filesystem.sha256(np.ascontiguousarray(value).tobytes())}"
        for path, value in sorted(source.encoder.items())
    ]
    return filesystem.sha256("\n".join(parts).encode())
