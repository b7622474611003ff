"""Callbacks of a training run: what is called after steps, evaluations and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

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
    saved, until `on_save` returns, in arrays that are read-only; seconds: from the start of the
    save; processor_seconds: of the thread that checked, wrote and committed; both with what
    callbacks took in that thread before; tensors: the values of `model` by path, as TensorFlow's
    tensors in the host's memory, until `on_save` returns.
    """

    step: int
    path: str
    steps_kept: tuple[int, ...]
    model: Callable[[], PretrainedModel]
    seconds: float = 0.0
    processor_seconds: float = 0.0
    tensors: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict, repr=False)


class Callback:
    """Base class of callbacks; every method does nothing.

    Methods run between device calls, in the order in which callbacks were given. With several
    workers each one calls its own callbacks, but only the chief saves. An error of a callback ends
    the run.

    background: True for a callback whose `before_save` and `on_save` on the chief are called in the
    thread that saves, before the first byte of the checkpoint is written and after it was
    committed, while the next steps run and the other methods may be called. They then take no time
    of the training. The last checkpoint of a run is saved without a thread.
    """

    background = False

    def on_start(self, start: RunStart) -> None:
        """Called once, before the first step of this process."""

    def on_step(self, report: StepReport) -> None:
        """Called after every device call, which makes one or more steps."""

    def on_evaluate(self, report: EvaluationReport) -> None:
        """Called after every evaluation."""

    def before_save(self, step: int) -> None:
        """Called before values are copied for a checkpoint, on the chief and the other workers.

        With `background`, on the chief, values are copied before.
        """

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
    """Several callbacks as one.

    in_background: those that `Saver` tells of saves on the chief, so that this does not.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = tuple(callbacks)
        self.in_background = tuple(c for c in self.callbacks if c.background)
        self._between_calls = tuple(c for c in self.callbacks if not c.background)

    def on_start(self, start: RunStart) -> None:
        for callback in self.callbacks:
            callback.on_start(start)

    def on_step(self, report: StepReport) -> None:
        for callback in self.callbacks:
            callback.on_step(report)

    def on_evaluate(self, report: EvaluationReport) -> None:
        for callback in self.callbacks:
            callback.on_evaluate(report)

    def before_save(self, step: int, *, everyone: bool = False) -> None:
        """everyone: also those in the background, on a worker that does not save."""
        for callback in self.callbacks if everyone else self._between_calls:
            callback.before_save(step)

    def on_save(self, report: SaveReport) -> None:
        for callback in self._between_calls:
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
