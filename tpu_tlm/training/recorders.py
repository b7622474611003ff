"""Callbacks that write a run's files: metrics, TensorBoard, NPZ exports."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.mead.npz import npz_bytes
from tpu_tlm.training.callbacks import (
    Callback,
    EvaluationReport,
    RunStart,
    SaveReport,
    StepReport,
)
from tpu_tlm.training.in_turn import InTurn


class Writer(Protocol):
    """What `RecordMetrics` writes with: `Metrics` or `TensorBoard`. Methods raise OSError."""

    path: str

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step."""

    def flush(self) -> None:
        """Write everything to the file."""

    def close(self) -> None:
        """Flush and close the file."""


def warn(text: str) -> None:
    """Print a warning on standard error, if that can be written."""
    try:
        print(f"warning: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


class RecordMetrics(Callback):
    """Writes the values of steps and evaluations with a writer.

    open_writer: makes it, given the number of steps made before; background: whether it is flushed
    in the thread that saves, for writers that do not depend on the thread. A file that cannot be
    written (full disk, no permission) is named in one warning and not written any more: the run
    itself can still be saved.
    """

    def __init__(
        self, path: str, open_writer: Callable[[int], Writer], *, background: bool = True
    ) -> None:
        self.path, self.background = path, background
        self._open = open_writer
        self._writer: Writer | None = None
        self._calls = InTurn()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        # The package has a class of its own for the same message.
        except (OSError, TlmError) as error:
            writer, self._writer = self._writer, None
            why = reason(error, self.path)
            warn(f"{self.path}: cannot be written ({why}); the run goes on without it")
            try:
                if writer is not None:
                    writer.close()
            except OSError:
                pass

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        def write() -> None:
            if (writer := self._writer) is not None:
                self._try(lambda: writer.write(kind, step, values))

        self._calls.soon(write)

    def on_start(self, start: RunStart) -> None:
        def begin() -> None:
            self._writer = self._open(start.step)

        self._try(begin)

    def on_step(self, report: StepReport) -> None:
        self._write("train", report.step, {**report.values, **report.speeds})

    def on_evaluate(self, report: EvaluationReport) -> None:
        self._write("valid", report.step, report.values)

    def before_save(self, step: int) -> None:
        """Flush before the checkpoint: after a kill in between, no line of a saved step is lost."""

        def flush() -> None:
            if (writer := self._writer) is not None:
                self._try(writer.flush)

        self._calls.now(flush)

    def on_end(self) -> None:
        def close() -> None:
            if (writer := self._writer) is not None:
                self._try(writer.close)

        self._calls.now(close)


def reason(error: Exception, path: str) -> str:
    """Why the file could not be written, without its name."""
    strerror = getattr(error, "strerror", None)
    text = strerror or " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix(f"{path}: ")  # which is named already


class ExportNpz(Callback):
    """Writes an NPZ in MEAD's layout at every save; it is deleted together with its checkpoint.

    An export that cannot be written is a warning: the checkpoint of that step is saved, and
    `convert` makes the NPZ from it.
    """

    background = True

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def on_save(self, report: SaveReport) -> None:
        path = posixpath.join(self.directory, f"checkpoint-step-{report.step}.npz")
        data = npz_bytes(report.model())
        try:
            filesystem.make_directory(self.directory)
            filesystem.write_bytes(path, data)
            kept = {f"checkpoint-step-{step}.npz" for step in report.steps_kept}
            for name in filesystem.list_names(self.directory):
                if name.startswith("checkpoint-step-") and name not in kept:
                    filesystem.remove(posixpath.join(self.directory, name))
        except (OSError, TlmError) as error:
            warn(
                f"{path}: cannot be written ({reason(error, path)}); the checkpoint"
                f" {report.path} is saved, and convert makes an NPZ from it"
            )
