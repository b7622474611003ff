"""The largest batch that fits, by compiling: few layers to guess it, the whole model to be sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tpu_tlm.planning.compiler import Refused
from tpu_tlm.planning.figures import Figures

Answer = Figures | Refused
TRIES = 5
# The answer is exact to this share of the batch, or to one step of it.
CLOSE = 0.07


@dataclass(frozen=True)
class Found:
    """The largest batch that was compiled and fits (None: none did), and the smallest that was compiled and does not."""

    best: Figures | None
    refused: int | None


def needs(answer: Answer) -> float:
    """Bytes of a chip's memory."""
    return answer.hbm if isinstance(answer, Refused) else answer.program.hbm


def _fixed(answer: Answer) -> float:
    """Bytes that do not grow with the batch: nearly so, the batch itself is small."""
    return answer.arguments if isinstance(answer, Refused) else answer.program.state + answer.program.code


def largest(
    batch: int,
    first: Answer,
    limit: float,
    unit: int,
    compile_: Callable[[int], Answer],
    extrapolate: Callable[[int], Answer | None],
) -> Found:
    """Search from a batch whose compilation gave `first`. `unit`: what a batch must be a multiple of.

    Memory is taken to grow with the batch in a straight line; where the compiler saves memory as it grows short, compilations correct it.
    """
    low, high = (None, batch) if isinstance(first, Refused) else (first, None)

    if _fixed(first) >= limit:
        return Found(None, batch)

    def rounded(target: float) -> int:
        # Eight rows of a chip are one tile; below four tiles every row counts.
        step = 8 * unit if target >= 32 * unit else unit
        inside = max(unit, int(target) // step * step)
        if high is not None:
            inside = min(inside, (high - 1) // unit * unit)
        return inside

    def proportional(at: int, answer: Answer) -> float:
        working = max(needs(answer) - _fixed(answer), 1.0)
        return at * (limit - _fixed(answer)) / working

    guess = rounded(proportional(batch, first))
    if guess != batch and guess > 0 and (quick := extrapolate(guess)) is not None:
        slope = (needs(quick) - needs(first)) / (guess - batch)
        if slope > 0 and not isinstance(quick, Refused):
            guess = rounded(guess + (limit - needs(quick)) / slope)
    for _ in range(TRIES):
        reached = low.batch if low is not None else 0
        if guess <= reached or (high is not None and guess >= high):
            break
        answer = compile_(guess)
        if isinstance(answer, Refused):
            high = guess
            target = proportional(guess, answer)
            guess = rounded(target if reached < target < guess else (reached + guess) / 2)
        else:
            low = answer
            guess = rounded(guess * (1 + CLOSE))
            if guess <= low.batch:
                guess = low.batch + unit
        if low is not None and high is not None and high - low.batch <= max(unit, CLOSE * low.batch):
            break
    return Found(low, high)
