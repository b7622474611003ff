"""The progress line of a run, and the speeds in it."""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

_WINDOW = 20


def duration(seconds: float) -> str:
    """A time span for people: 48 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def quantity(value: float) -> str:
    """A rate for people, three digits: 950, 48.2k, 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return (
                f"{value / size:.3g}{letter}"
                if value < 999.5 * size
                else f"{value / size:.0f}{letter}"
            )
    return f"{value:.3g}"


def _step_time(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms/step" if seconds < 1.0 else f"{seconds:.3g} s/step"


class Progress:
    """Shows how a run goes: one line rewritten on a terminal, else a plain line every `every` seconds.

    total: steps of the run; tokens, flops: per step over all replicas; peak: FLOP/s over all replicas, None where not known (then
    no MFU); clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        *,
        tokens: int,
        flops: float = 0.0,
        peak: float | None = None,
        stream: TextIO | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.tokens, self.flops, self.peak, self.every = (
            total,
            tokens,
            flops,
            peak,
            every,
        )
        self._stream = stream or sys.stderr
        self._clock = clock
        self._tty = self._stream.isatty()
        # (time, step) after each update: the time left also counts what stands between updates, as saves and evaluations.
        self._history: deque[tuple[float, int]] = deque(maxlen=_WINDOW)
        self._seconds = self._waited = 0.0
        self._shown_at = float("-inf")
        self._shown = 0

    def update(
        self, step: int, *, steps: int, seconds: float, waited: float, values: Mapping[str, float]
    ) -> dict[str, float]:
        """Show the state after `step` steps and return the speeds of the last `steps` of them, for the metrics.

        seconds: they took; waited: of these, without a batch; values: what else to show, `loss` first. The speeds: `step_time`
        (seconds), `tokens_per_second`, `input_wait` (share), `mfu` (share, where known); none after the first call of a process,
        whose time is mostly compilation.
        """
        speeds: dict[str, float] = {}
        if self._history and seconds > 0.0:
            speeds = {
                "step_time": seconds / steps,
                "tokens_per_second": self.tokens * steps / seconds,
                "input_wait": waited / seconds,
            }
            self._seconds, self._waited = self._seconds + seconds, self._waited + waited
            if self.peak and self.flops:
                speeds["mfu"] = self.flops * steps / seconds / self.peak
        now = self._clock()
        self._history.append((now, step))
        last = step >= self.total
        if last or now - self._shown_at >= (0.1 if self._tty else self.every):
            self._show(self._line(step, seconds, values, speeds), keep=last)
            self._shown_at = now
        return speeds

    @property
    def input_wait(self) -> float | None:
        """Share of the time of all calls but the first without a batch; None before the second."""
        return self._waited / self._seconds if self._seconds else None

    def message(self, text: str) -> None:
        """Print a line of its own that the rewritten line does not touch."""
        self._show(text, keep=True)

    def close(self) -> None:
        """Leave the last state standing on its line."""
        if self._shown:
            print(file=self._stream, flush=True)
            self._shown = 0

    def seconds_left(self) -> float | None:
        """Wall time to the end at the pace of the last updates; None while that is not known."""
        if len(self._history) < 2:
            return None
        (then, before), (now, step) = self._history[0], self._history[-1]
        return (self.total - step) * (now - then) / (step - before) if step > before else None

    def _line(
        self, step: int, seconds: float, values: Mapping[str, float], speeds: Mapping[str, float]
    ) -> str:
        parts = [f"step {step}/{self.total} {100.0 * step / self.total:.0f}%"]
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        if speeds:
            parts.append(f"{quantity(speeds['tokens_per_second'])} tokens/s")
            parts.append(_step_time(speeds["step_time"]))
            parts.append(f"input wait {100.0 * speeds['input_wait']:.1f}%")
        else:
            parts.append(f"{duration(seconds)} with compilation")
        if "mfu" in speeds:
            parts.append(f"MFU {100.0 * speeds['mfu']:.1f}%")
        left = self.seconds_left()
        if left is not None and step < self.total:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _show(self, line: str, *, keep: bool) -> None:
        if not self._tty:
            print(line, file=self._stream, flush=True)
            return
        if not keep:
            line = line[: shutil.get_terminal_size().columns - 1]
        # Spaces instead of an escape sequence: works on every terminal, notebooks included.
        padded = line.ljust(self._shown)
        self._stream.write(f"\r{padded}" + ("\n" if keep else ""))
        self._stream.flush()
        self._shown = 0 if keep else len(line)
