"""The progress display of every long phase: a line that is rewritten on a terminal, else a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from tpu_tlm import filesystem

if TYPE_CHECKING:
    from tqdm import tqdm

_LARGE = 64 << 20  # bytes of a download that is shown
LINE_SECONDS = 10.0  # between lines where the stream is no terminal
_BAR_SECONDS = 0.5
_STATUS_SECONDS = 0.1


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
    """A number to read, with three digits: 950, 48.2k, 1.25M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return (
                f"{value / size:.3g}{letter}"
                if value < 999.5 * size
                else f"{value / size:.0f}{letter}"
            )
    return f"{value:.3g}"


@contextlib.contextmanager
def download(path: str) -> Iterator[Callable[[int, int], None] | None]:
    """What shows (bytes done, bytes in all) while a large remote file is downloaded; else None."""
    if not filesystem.is_remote(path):
        yield None
        return
    bar, begun = ProgressBar(), False

    def show(done: int, total: int) -> None:
        nonlocal begun
        if total >= _LARGE:
            if not begun:
                begun = True
                bar.start(f"downloading {path}", total)
            bar.update(done)

    try:
        yield show
    finally:
        bar.clear()


class ProgressBar:
    """Shows one phase after another; rates count from the start of a phase.

    A phase with a known amount of work is begun by `start` and shown by `update`; a phase that
    words its own state calls `status`. Lines of a log begin with the time of day. Output that
    cannot be written (a closed terminal or pipe) is dropped: it must not end the work.

    stream: standard error unless given; every: seconds between lines of a log; clock: seconds,
    for tests. `is_terminal`: whether lines are rewritten.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._every = every
        self._clock = clock
        self.is_terminal = not self._stream.closed and self._stream.isatty()
        self._bar: tqdm | None = None
        self._status: tqdm | None = None
        self._name, self._unit, self._total, self._initial = "", "", 0.0, 0.0
        self._begun = self._shown = clock()
        self._status_at = float("-inf")

    def start(self, name: str, total: float, unit: str = "B", initial: float = 0) -> None:
        """Begin a phase of `total` units, of which `initial` are done already."""
        self.clear()
        self._name, self._unit, self._total, self._initial = name, unit, total, initial
        self._begun = self._shown = self._clock()
        if self.is_terminal:
            from tqdm import tqdm  # only here: short runs need no bar

            with contextlib.suppress(OSError, ValueError):
                self._bar = tqdm(
                    total=total,
                    initial=initial,
                    desc=name,
                    unit=unit,
                    unit_scale=True,
                    leave=False,
                    file=self._stream,
                    mininterval=_BAR_SECONDS,
                    dynamic_ncols=True,
                )

    def update(self, done: float) -> None:
        """Show that `done` units of the phase are done."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.update(done - self._bar.n)
            return
        now = self._clock()
        if now - self._shown >= self._every:
            self._shown = now
            self._log(self._line(done, now - self._begun))

    def status(self, text: Callable[[], str], *, last: bool = False) -> None:
        """Show the line that `text()` returns, if one is due; the `last` of a phase always is."""
        now = self._clock()
        if not last and now - self._status_at < (
            _STATUS_SECONDS if self.is_terminal else self._every
        ):
            return
        self._status_at = now
        if not self.is_terminal:
            self._log(text())
            return
        with contextlib.suppress(OSError, ValueError):
            if self._status is None:
                from tqdm import tqdm

                self._status = tqdm(
                    bar_format="{desc}", file=self._stream, leave=False, dynamic_ncols=True
                )
            self._status.set_description_str(text())
            if last:
                self._status.leave = True
                self._status.close()
                self._status = None

    def message(self, text: str) -> None:
        """Print a line of its own, which a bar or a status does not overwrite."""
        if not self.is_terminal:
            self._log(text)
            return
        shown = [bar for bar in (self._bar, self._status) if bar is not None]
        with contextlib.suppress(OSError, ValueError):
            for bar in shown:
                bar.clear()
            print(text, file=self._stream, flush=True)
            for bar in shown:
                bar.refresh()

    def clear(self) -> None:
        """Remove the bar; a status stays as it was shown last."""
        with contextlib.suppress(OSError, ValueError):
            if self._status is not None:
                self._status.leave = True
                self._status.close()
            if self._bar is not None:
                self._bar.close()
        self._bar = self._status = None

    def _log(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(time.strftime("%H:%M:%S"), line, file=self._stream, flush=True)

    def _line(self, done: float, elapsed: float) -> str:
        rate = (done - self._initial) / elapsed
        left = duration((self._total - done) / rate) if rate > 0 else "unknown time"
        share = done / self._total if self._total else 1.0
        return (
            f"{self._name}: {share:.0%} of {quantity(self._total)}{self._unit}, "
            f"{quantity(rate)}{self._unit}/s, {left} left"
        )
