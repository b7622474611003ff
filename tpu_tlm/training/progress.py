"""The progress display of a run."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from tpu_tlm.training.callbacks import Callback, EvaluationReport, RunStart, StepReport

_WINDOW = 20
# Seconds of calls after which the expected time is said.
_MEASURED = 5.0


def duration(seconds: float) -> str:
    """A time span to read: 48 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def quantity(value: float) -> str:
    """A rate to read, with three digits: 950, 48.2k, 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return (
                f"{value / size:.3g}{letter}"
                if value < 999.5 * size
                else f"{value / size:.0f}{letter}"
            )
    return f"{value:.3g}"


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
    """Shows a run: one line that is rewritten on a terminal, else a line every `every` seconds.

    clock: seconds, for tests. Output that cannot be written (a closed terminal or pipe) is dropped:
    it must not end a run.
    """

    def __init__(
        self,
        *,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every = every
        self._stream = stream or sys.stderr
        self._clock = clock
        self._tty = self._stream.isatty()
        # (time, step) after each call: the time left includes saves and evaluations.
        self._history: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._shown_at = float("-inf")
        self._shown = 0
        self._expected = False
        self._waiting: _Ticker | None = None

    def on_start(self, start: RunStart) -> None:
        self._history.clear()
        self._expected = False
        self._waiting = _Ticker(self._compiling, 1.0 if self._tty else 30.0)

    def on_step(self, report: StepReport) -> None:
        now = self._clock()
        self._stop_waiting()
        self._history.append((now, report.step))
        last = report.step >= report.total
        if not self._expected and not last:
            self._say_expected(now, report)
        if last or now - self._shown_at >= (0.1 if self._tty else self.every):
            self._show(self._line(report), keep=last)
            self._shown_at = now

    def on_evaluate(self, report: EvaluationReport) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in report.values.items())
        self.on_message(f"step {report.step}: validation {shown} over {report.targets:,} targets")

    def on_message(self, text: str) -> None:
        """Print a line that the rewritten line does not overwrite."""
        self._show(text, keep=True)

    def _compiling(self, seconds: float) -> None:
        self._show(f"compiling the training step ... ({duration(seconds)})", keep=not self._tty)

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
        if self._shown:
            self._write("\n")
            self._shown = 0

    def seconds_left(self, total: int) -> float | None:
        """Wall time to step `total` at the speed of the last calls; None while it is unknown."""
        if len(self._history) < 2:
            return None
        (then, before), (now, step) = self._history[0], self._history[-1]
        return (total - step) * (now - then) / (step - before) if step > before else None

    def _line(self, report: StepReport) -> str:
        step, total, speeds = report.step, report.total, report.speeds
        parts = [f"step {step}/{total} {100.0 * step / total:.0f}%"]
        # In front, where a narrow terminal does not cut it off.
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

    def _show(self, line: str, *, keep: bool) -> None:
        if not self._tty:
            self._write(f"{time.strftime('%H:%M:%S')} {line}\n")
            return
        if not keep:
            line = line[: shutil.get_terminal_size().columns - 1]
        # Spaces instead of an escape sequence, which notebooks do not interpret.
        padded = line.ljust(self._shown)
        self._write(f"\r{padded}" + ("\n" if keep else ""))
        self._shown = 0 if keep else len(line)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
