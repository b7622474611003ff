"""Saves in the background: checked, written and committed while the next steps run."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.checkpoints.run_checkpoints import SavedElsewhere
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.training import stop_messages
from tpu_tlm.training.callbacks import Callback, SaveReport
from tpu_tlm.training.state import not_finite

# The thread of a save gives way to the steps where both need the processors.
_NICE = 10


class Committed(NamedTuple):
    """A checkpoint that is complete.

    step: steps made; path: its directory; steps_kept: steps of all checkpoints that are kept;
    model: the model's tensors by path, as they were saved; seconds: from the start of the save, and
    processor_seconds: of the thread that saved, both with the callbacks that it called.
    """

    step: int
    path: str
    steps_kept: tuple[int, ...]
    model: Mapping[str, tf.Tensor]
    seconds: float
    processor_seconds: float

    def report(self, model: Callable[[Mapping[str, np.ndarray]], PretrainedModel]) -> SaveReport:
        """The report to callbacks. model: makes the saved model from its values by path, which are
        read-only and share the memory of the tensors."""
        return SaveReport(
            self.step,
            self.path,
            self.steps_kept,
            lambda: model({path: _shown(tensor) for path, tensor in self.model.items()}),
            self.seconds,
            self.processor_seconds,
            self.model,
        )


class Saver:
    """Saves one checkpoint at a time, in a thread or in the caller's.

    protected: makes a context that is held while a checkpoint is written; last: the path of the
    last good checkpoint, for messages; on_commit: called with step and path in the saving thread;
    model: as `Committed.report` takes it; callbacks: those that are told in the saving thread.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        directory: RunDir,
        protected: Callable[[], contextlib.AbstractContextManager[Any]],
        last: Callable[[], str],
        on_commit: Callable[[int, str], None],
        model: Callable[[Mapping[str, np.ndarray]], PretrainedModel],
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._checkpoints, self._directory = checkpoints, directory
        self._protected, self._last, self._on_commit = protected, last, on_commit
        self._model, self._callbacks = model, callbacks
        self._thread: threading.Thread | None = None
        self._outcome: Committed | BaseException | None = None

    def start(
        self,
        step: int,
        values: dict[str, tf.Tensor],
        state: Mapping[str, Any],
        background: bool,
    ) -> None:
        """Begin to save `values`, which are cleared at the end; `finished` gives the result.

        background: False returns when it is done. No other save may be in flight.
        """
        if not background:
            self._save(step, values, state)
            return

        def run() -> None:
            with contextlib.suppress(OSError, AttributeError):
                # On Linux this is the priority of the thread.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            self._save(step, values, state)

        self._thread = threading.Thread(target=run, name="save")
        self._thread.start()

    def finished(self, wait: bool = False) -> Committed | None:
        """The result of a save, once. None while it is in flight (never with `wait`), or if there
        is none.

        Raises `TlmError` when it failed: the values are not finite, or cannot be written;
        `SavedElsewhere` when they are in the emergency directory.
        """
        if self._thread is not None:
            if self._thread.is_alive() and not wait:
                return None
            self._thread.join()
        self._thread, outcome = None, self._outcome
        self._outcome = None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _save(self, step: int, values: dict[str, tf.Tensor], state: Mapping[str, Any]) -> None:
        began, busy = time.perf_counter(), time.thread_time()
        try:
            for callback in self._callbacks:
                callback.before_save(step)
            with self._protected():
                path = self._commit(step, values, state)
                self._on_commit(step, path)
                self._directory.note_commit()
                kept = tuple(self._checkpoints.steps())
            model = {
                name.removeprefix("model/"): value
                for name, value in values.items()
                if name.startswith("model/")
            }
            values.clear()

            def done() -> Committed:
                took, used = time.perf_counter() - began, time.thread_time() - busy
                return Committed(step, path, kept, model, took, used)

            for callback in self._callbacks:
                callback.on_save(done().report(self._model))
            self._outcome = done()
        except BaseException as error:  # raised by `finished`, in the thread that trains
            self._outcome = error

    def _commit(self, step: int, values: Mapping[str, tf.Tensor], state: Mapping[str, Any]) -> str:
        # Refused, so that the last good checkpoint is not rotated out.
        if name := not_finite(values):
            raise TlmError(
                f"step {step}: {name!r} has values that are not finite;"
                f" {stop_messages.last_good(self._last())}"
            )
        try:
            return self._checkpoints.save(step, values, state)
        except SavedElsewhere as error:
            self._on_commit(step, error.path)
            raise
        except TlmError as error:
            raise TlmError(stop_messages.unsaved(str(error), self._last())) from error


def _shown(tensor: tf.Tensor) -> np.ndarray:
    """The values of a tensor in the host's memory, not copied."""
    array = np.asarray(tensor)
    array.flags.writeable = False
    return array
