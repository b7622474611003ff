"""Callbacks of a training run: what is called after steps, evaluations and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel


@dataclasses.dataclass(frozen=True)
class RunStart:
    """The beginning of training in this process.

    step: steps made before; total: steps of the whole run; run_dir: its directory.
    """

    step: int
    total: int
    run_dir: str


@dataclasses.dataclass(frozen=True)
class StepReport:
    """One device call.

    step: steps made so far; steps: those of this call; total: those of the whole run; seconds: wall
    time of the call; values: means over the call ("loss", "grad_norm", the objective's metrics) and
    "lr" of the last step; speeds: "step_time" in seconds, "tokens_per_second", "input_wait" and,
    where the peak of the device is known, "mfu", both shares; empty for the first call of a
    process, which mostly compiles.
    """

    step: int
    steps: int
    total: int
    seconds: float
    values: Mapping[str, float]
    speeds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """One evaluation on the validation data.

    step: steps made so far; values: "loss", the metrics and "perplexity" where it is one; targets:
    number of predictions that were measured.
    """

    step: int
    values: Mapping[str, float]
    targets: int


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """One committed checkpoint.

    step: steps made before it; path: directory of the checkpoint; steps_kept: steps of all
    checkpoints that are kept; model: a function that returns the model with the values that were
    saved, until `on_save` returns; seconds: from the start of the save; processor_seconds: of the
    thread that checked, wrote and committed.
    """

    step: int
    path: str
    steps_kept: tuple[int, ...]
    model: Callable[[], PretrainedModel]
    seconds: float = 0.0
    processor_seconds: float = 0.0


class Callback:
    """Base class of callbacks; every method does nothing.

    Methods run between device calls, in the order in which callbacks were given. With several
    workers each one calls its own callbacks, but only the chief saves. An error of a callback ends
    the run.
    """

    def on_start(self, start: RunStart) -> None:
        """Called once, before the first step of this process."""

    def on_step(self, report: StepReport) -> None:
        """Called after every device call, which makes one or more steps."""

    def on_evaluate(self, report: EvaluationReport) -> None:
        """Called after every evaluation."""

    def before_save(self, step: int) -> None:
        """Called before values are copied for a checkpoint, on the chief and the other workers."""

    def on_save(self, report: SaveReport) -> None:
        """Called on the chief only, between device calls, after a checkpoint was committed.

        Checkpoints are written while the next steps run, so that later steps may have been reported
        before; the last checkpoint of a run is reported before `on_end`.
        """

    def on_message(self, text: str) -> None:
        """Called with a line for the user."""

    def on_end(self) -> None:
        """Called once at the end, also after an error: close files here."""


class CallbackList(Callback):
    """Several callbacks as one."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)

    def on_start(self, start: RunStart) -> None:
        for callback in self.callbacks:
            callback.on_start(start)

    def on_step(self, report: StepReport) -> None:
        for callback in self.callbacks:
            callback.on_step(report)

    def on_evaluate(self, report: EvaluationReport) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(report)

    def before_save(self, step: int) -> None:
        for callback in self.callbacks:
            callback.before_save(step)

    def on_save(self, report: SaveReport) -> None:
        for callback in self.callbacks:
            callback.on_save(report)

    def on_message(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_message(text)

    def on_end(self) -> None:
        """Every callback is ended, also after an error of another one."""
        error: BaseException | None = None
        for callback in self.callbacks:
            try:
                callback.on_end()
            except BaseException as raised:
                error = error or raised
        if error is not None:
            raise error
