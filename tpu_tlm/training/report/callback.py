"""Callback that writes report.html in the run directory at every save."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.errors import TlmError
from tpu_tlm.training.callbacks import (
    Callback,
    EvaluationReport,
    RunStart,
    SaveReport,
    StepReport,
)
from tpu_tlm.training.in_turn import InTurn
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.recorders import reason, warn
from tpu_tlm.training.report.collect import (
    RunData,
    checkpoints_in,
    data_of,
    read_options,
    saved_step,
)
from tpu_tlm.training.report.page import page
from tpu_tlm.training.samples import NAME as SAMPLES
from tpu_tlm.training.samples import read_samples

NAME = "report.html"


class WriteReport(Callback):
    """Keeps the curves of the run in memory, so that a save only formats and writes the page.

    A report that cannot be written is named in one warning and not written any more.
    """

    background = True

    def __init__(self, directory: RunDir) -> None:
        self.directory = directory
        self.path = posixpath.join(directory.path, NAME)
        self._run: RunData | None = None
        self._calls = InTurn()

    def _try(self, action: Callable[[RunData], None]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except (OSError, TlmError) as error:
            self._run = None
            why = reason(error, self.path)
            warn(f"{self.path}: cannot be written ({why}); the run goes on without it")

    def on_start(self, start: RunStart) -> None:
        def read(run: RunData) -> None:
            run.options = read_options(self.directory)
            run.data = data_of(run.options)
            if start.step:
                run.checkpoints = checkpoints_in(self.directory.checkpoints)
                for record in read_metrics(self.directory.metrics):
                    if record["step"] <= start.step:
                        run.history.add(record)

        path = self.directory.path
        self._run = RunData(path, {}, name=posixpath.basename(path) or path)
        self._try(read)

    def _add(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        record = {"step": step, "kind": kind, "time": time.time(), **values}

        def add() -> None:
            if self._run is not None:
                self._run.history.add(record)

        self._calls.soon(add)

    def on_step(self, report: StepReport) -> None:
        self._add("train", report.step, {**report.values, **report.speeds})

    def on_evaluate(self, report: EvaluationReport) -> None:
        self._add("valid", report.step, report.values)

    def on_save(self, report: SaveReport) -> None:
        def write(run: RunData) -> None:
            # Of the checkpoints only the new one is looked at: listings take time in object
            # storage.
            kept = set(report.steps_kept) - {report.step}
            run.checkpoints = [saved for saved in run.checkpoints if saved.step in kept]
            if (new := saved_step(report.path)) is not None:
                run.checkpoints.append(new)
            run.samples = read_samples(posixpath.join(self.directory.path, SAMPLES))
            filesystem.write_bytes(self.path, page([run]))

        self._calls.now(lambda: self._try(write))
