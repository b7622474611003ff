"""The progress of a run: what its line says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from tpu_tlm.data.progress import LINE_SECONDS, ProgressBar, duration, quantity
from tpu_tlm.training.callbacks import Callback, EvaluationReport, RunStart, StepReport

_WINDOW = 20
# Seconds of calls after which the expected time is said.
_MEASURED = 5.0


class _Ticker:
    """Calls a function with the seconds so far, every `every` seconds, until it is stopped."""

    def __init__(self, function: Callable[[float], None], every: float) -> None:
        self._stopped = threading.Event()
        self._function, self._every, self._begun = function, every, time.monotonic()
        # Does not keep a process alive whose run ended by an error.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self._function(time.monotonic() - self._begun)

    def stop(self) -> None:
        """End it, and wait for a call that runs."""
        self._stopped.set()
        self._thread.join()


def _step_time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms/step" if seconds < 1.0 else f"{seconds:.3g} s/step"


class Progress(Callback):
    """Shows step, time left, losses and speeds of a run by `ProgressBar`.

    stream, every, clock: as `ProgressBar` takes them.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        every: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._display = ProgressBar(stream, every=every, clock=clock)
        # (time, step) after each call: the time left includes saves and evaluations.
        self._history: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._expected = False
        self._waiting: _Ticker | None = None

    def on_start(self, start: RunStart) -> None:
        self._history.clear()
        self._expected = False
        self._waiting = _Ticker(self._compiling, 1.0 if self._display.is_terminal else 30.0)

    def on_step(self, report: StepReport) -> None:
        now = self._clock()
        self._stop_waiting()
        self._history.append((now, report.step))
        last = report.step >= report.total
        if not self._expected and not last:
            self._say_expected(now, report)
        self._display.status(lambda: self._line(report), last=last)

    def on_evaluate(self, report: EvaluationReport) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in report.values.items())
        self.on_message(f"step {report.step}: validation {shown} over {report.targets:,} targets")

    def on_message(self, text: str) -> None:
        """Print a line that the rewritten line does not overwrite."""
        self._display.message(text)

    def _compiling(self, seconds: float) -> None:
        text = f"compiling the training step ... ({duration(seconds)})"
        if self._display.is_terminal:
            self._display.status(lambda: text)
        else:
            self._display.message(text)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _say_expected(self, now: float, report: StepReport) -> None:
        """The expected time, once some calls were measured."""
        left = self.seconds_left(report.total)
        if left is None or now - self._history[0][0] < _MEASURED:
            return
        self._expected = True
        if left >= 60.0:
            end = time.strftime("%a %H:%M", time.localtime(time.time() + left))
            self.on_message(
                f"expected: {duration(left)} for the {report.total - report.step:,} steps that are "
                f"left, until about {end}"
            )

    def on_end(self) -> None:
        """Leave the last state on its line."""
        self._stop_waiting()
        self._display.clear()

    def seconds_left(self, total: int) -> float | None:
        """Wall time to step `total` at the speed of the last calls; None while it is unknown."""
        if len(self._history) < 2:
            return None
        (then, before), (now, step) = self._history[0], self._history[-1]
        return (total - step) * (now - then) / (step - before) if step > before else None

    def _line(self, report: StepReport) -> str:
        step, total, speeds = report.step, report.total, report.speeds
        parts = [f"step {step}/{total} {100.0 * step / total:.0f}%"]
        # Early in the line: a narrow terminal cuts its end off.
        left = self.seconds_left(total)
        if left is not None and step < total:
            parts.append(f"{duration(left)} left")
        parts += [f"{name} {value:.4g}" for name, value in report.values.items()]
        if speeds:
            parts.append(f"{quantity(speeds['tokens_per_second'])} tokens/s")
            parts.append(_step_time(speeds["step_time"]))
            parts.append(f"input wait {100.0 * speeds['input_wait']:.1f}%")
        else:
            parts.append(f"{duration(report.seconds)} with compilation")
        if "mfu" in speeds:
            parts.append(f"MFU {100.0 * speeds['mfu']:.1f}%")
        return "  ".join(parts)
