"""Search for the largest batch that fits: guessed from few layers, confirmed on the whole model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from tpu_tlm.planning.compiler import Refused
from tpu_tlm.planning.figures import Figures

Answer = Figures | Refused
TRIES = 5
# Relative accuracy of the result, where it is not exact to one step.
CLOSE = 0.07


@dataclass(frozen=True)
class SearchResult:
    """The largest compiled batch that fits (None: none), and the smallest that does not."""

    best: Figures | None
    refused: int | None


def fits(answer: Answer) -> TypeGuard[Figures]:
    """Whether the memory suffices; an accepted program may still be too large with its
    arguments.
    """
    return not isinstance(answer, Refused) and answer.fits


def needs(answer: Answer) -> float:
    """Bytes of HBM per chip."""
    return answer.hbm if isinstance(answer, Refused) else answer.program.hbm


def _fixed(answer: Answer) -> float:
    """Bytes that do not grow with the batch (the batch itself is small)."""
    return (
        answer.arguments
        if isinstance(answer, Refused)
        else answer.program.state + answer.program.code
    )


def _crossing(points: dict[int, float], limit: float, fixed: float) -> float:
    """The batch where the line through the two points nearest to the limit crosses it.

    With one point, the line through it and `fixed` at batch 0.
    """
    near = sorted(points, key=lambda batch: abs(points[batch] - limit))[:2]
    (a, b) = near if len(near) == 2 else (near[0], 0)
    of_a, of_b = points[a], points.get(b, fixed)
    if (of_a - of_b) * (a - b) <= 0:  # not increasing: no usable line
        of_b, b = fixed, 0
    slope = max((of_a - of_b) / (a - b), 1.0)
    return a + (limit - of_a) / slope


def largest(
    batch: int,
    first: Answer,
    limit: float,
    unit: int,
    compile_: Callable[[int], Answer],
    extrapolate: Callable[[int], Answer | None],
) -> SearchResult:
    """Search from a batch whose compilation gave `first`; batches are multiples of `unit`.

    Memory is assumed to grow linearly with the batch near the limit; where the compiler saves
    memory near it, the compilations show that. At most `TRIES` whole models are compiled.
    """
    fixed = _fixed(first)
    if fixed >= limit:
        return SearchResult(None, batch)
    best: Figures | None = None
    refused: int | None = None
    if fits(first):
        best = first
    else:
        refused = batch
    points = {batch: needs(first)}

    def inside(target: float) -> int | None:
        """The nearest untried batch between what fits and what does not; None without one."""
        # Eight rows of a chip are one tile; below four tiles every row counts.
        step = 8 * unit if target >= 32 * unit else unit
        low = best.batch if best is not None else 0
        if best is not None:
            target = max(target, low * (1 + CLOSE) if low >= 32 * unit else low + unit)
        if refused is not None and target >= refused:
            target = (low + refused) / 2
        guess = max(int(target) // step * step, low + unit)
        return guess if refused is None or guess < refused else None

    guess = inside(_crossing(points, limit, fixed))
    if (
        guess is not None
        and guess != batch
        and (quick := extrapolate(guess)) is not None
        and not isinstance(quick, Refused)
    ):
        guess = inside(_crossing({**points, guess: needs(quick)}, limit, fixed))
    for _ in range(TRIES):
        if guess is None or (
            best is not None
            and refused is not None
            and refused - best.batch <= max(unit, CLOSE * best.batch)
        ):
            break
        answer = compile_(guess)
        points[guess] = needs(answer)
        if fits(answer):
            best = answer
        else:
            refused = guess
        guess = inside(_crossing(points, limit, fixed))
    return SearchResult(best, refused)
