"""How far a long phase is: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 10.0  # between lines where the stream is no terminal
_BAR_SECONDS = 0.5


class ProgressBar:
    """Shows one phase after another; rates count from the start of a phase.

    stream: standard error unless given; clock: seconds, for tests.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bar: tqdm | None = None
        self._name, self._unit, self._total, self._initial = "", "", 0.0, 0.0
        self._begun = self._shown = clock()

    def start(self, name: str, total: float, unit: str = "B", initial: float = 0) -> None:
        """Begin a phase of `total` units, of which `initial` are done already."""
        self.clear()
        self._name, self._unit, self._total, self._initial = name, unit, total, initial
        self._begun = self._shown = self._clock()
        if self._stream.isatty():
            from tqdm import tqdm  # only here: short runs need no bar

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
            self._bar.update(done - self._bar.n)
            return
        now = self._clock()
        if now - self._shown >= LINE_SECONDS:
            self._shown = now
            print(self._line(done, now - self._begun), file=self._stream, flush=True)

    def message(self, text: str) -> None:
        """Print a line of its own beside the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self._stream, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def clear(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, done: float, elapsed: float) -> str:
        from tqdm import tqdm

        rate = (done - self._initial) / elapsed
        size = tqdm.format_sizeof
        left = tqdm.format_interval((self._total - done) / rate) if rate > 0 else "unknown"
        share = done / self._total if self._total else 1.0
        return (
            f"{self._name}: {share:.0%} of {size(self._total)}{self._unit}, "
            f"{size(rate)}{self._unit}/s, {left} left"
        )
