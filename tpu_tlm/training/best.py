"""Keeping the checkpoint with the best validation loss beside the newest ones."""

from __future__ import annotations

import threading

from tpu_tlm.checkpoints.best import note_best, read_best
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import TlmError
from tpu_tlm.training.callbacks import Callback, EvaluationReport, RunStart, SaveReport
from tpu_tlm.training.recorders import warn


class KeepBest(Callback):
    """Pins the checkpoint whose evaluation was the best, and notes its step (`RUN@best`).

    Only steps that are both evaluated and saved count.
    """

    background = True

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._best: tuple[int, float] | None = None
        self._waiting: dict[int, float] = {}
        # Evaluations are told by the thread that trains, saves by the one that saves.
        self._lock = threading.Lock()

    def on_start(self, start: RunStart) -> None:
        self._best = read_best(self._checkpoints.directory)
        if self._best is not None and self._best[0] > start.step:
            self._best = None  # this run goes on from before it
        self._pin()

    def on_evaluate(self, report: EvaluationReport) -> None:
        loss = report.values["loss"]
        with self._lock:
            if self._best is None or loss < self._best[1]:
                self._waiting[report.step] = loss
                self._pin()

    def on_save(self, report: SaveReport) -> None:
        best, loss = self._best, self._waiting.get(report.step)
        if loss is not None and (best is None or loss < best[1]):
            try:
                note_best(self._checkpoints.directory, report.step, loss)
            except (OSError, TlmError) as error:
                warn(f"{self._checkpoints.directory}: the best step was not noted ({error})")
            else:
                best = (report.step, loss)
        with self._lock:
            self._best = best
            # Those before, evaluated but not saved, cannot be the best any more.
            self._waiting = {s: value for s, value in self._waiting.items() if s > report.step}
            self._pin()

    def _pin(self) -> None:
        best = set() if self._best is None else {self._best[0]}
        self._checkpoints.pinned = best | set(self._waiting)
