"""Callbacks that watch a run: a plateau at word frequencies, the cost of saves."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tpu_tlm.training.callbacks import Callback, EvaluationReport, SaveReport, StepReport

if TYPE_CHECKING:
    from tpu_tlm.training.trainer import Trainer

# A loss within this of that of word frequencies has not learned what stands beside what.
_NEAR = 0.25
_SOONEST_STEPS, _SOONEST_SHARE = 300, 0.25


class Plateau(Callback):
    """Says once that the loss stays at that of word frequencies, and what usually helps.

    unigram: computes that loss, when it is needed; warmup: steps; advice: flags to try.
    """

    def __init__(
        self,
        unigram: Callable[[], float],
        warmup: int,
        advice: str,
        say: Callable[[str], None],
    ) -> None:
        self._unigram, self._warmup, self._advice, self._say = unigram, warmup, advice, say
        self._said = False
        self._smooth: float | None = None

    def on_step(self, report: StepReport) -> None:
        loss = report.values["loss"]
        self._smooth = loss if self._smooth is None else 0.7 * self._smooth + 0.3 * loss
        soonest = max(_SOONEST_STEPS, 2 * self._warmup, int(_SOONEST_SHARE * report.total))
        if self._said or report.step < soonest:
            return
        self._said = True
        unigram = self._unigram()
        if self._smooth > unigram - _NEAR:
            self._say(
                f"step {report.step}: the loss {self._smooth:.2f} is still that of word "
                f"frequencies alone ({unigram:.2f}): the model has not learned from context yet. "
                f"What usually helps: {self._advice}"
            )


def advice(lr: float, width: int, weight_std: float, learned_positions: bool) -> str:
    """What usually ends a plateau, for these options."""
    found = [f"another --lr ({lr / 3:.1g} or {lr * 3:.1g})"]
    wanted = 0.6 / width**0.5
    if weight_std < 0.7 * wanted:
        found.append(f"--weight_std {wanted:.2g} for a width of {width}")
    if learned_positions:
        found.append("rotary positions (--preset modernbert-tiny), which learn sooner")
    return ", ".join([*found, "more steps, more text"])


class SpaceSaves(Callback):
    """Saves and evaluations at least `least` seconds apart, and at most `share` of the time.

    For intervals that were not given: they are multiplied once the step has been timed. A save
    costs the time in which its values are copied, and its processor time where the steps run on the
    processors too; saves are also so far apart that none waits for the one before. Only for a run
    of one process, since processes would not agree. `trainer` is set after it is made.
    """

    def __init__(
        self,
        least: float = 60.0,
        share: float = 0.01,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trainer: Trainer | None = None
        self._least, self._share, self._clock = least, share, clock
        self._last: tuple[float, int] | None = None
        self._copying: float | None = None
        self._cost = self._longest = 0.0

    def on_step(self, report: StepReport) -> None:
        now, before = self._clock(), self._last
        self._last = (now, report.step)
        if self._copying is not None:
            self._cost = max(self._cost, now - self._copying - report.seconds)
            self._copying = None
        trainer = self.trainer
        if before is None or trainer is None or trainer.peers.size > 1 or not report.speeds:
            return
        step = report.speeds["step_time"]
        wanted = max(self._least, self._cost / self._share, 1.5 * self._longest)
        intervals = trainer.intervals
        factor = -(-wanted // max(intervals.save_steps * step, 1e-9))
        if factor > 1:
            trainer.intervals = dataclasses.replace(
                intervals,
                save_steps=int(intervals.save_steps * factor),
                eval_steps=int(intervals.eval_steps * factor),
            )

    def on_evaluate(self, report: EvaluationReport) -> None:
        if self._last is not None:
            self._cost = max(self._cost, self._clock() - self._last[0])

    def before_save(self, step: int) -> None:
        self._copying = self._clock()

    def on_save(self, report: SaveReport) -> None:
        if self._copying is not None:
            # What was waited for is the save before, whose length counts instead.
            self._copying = self._clock()
        self._longest = max(self._longest, report.seconds)
        if self.trainer is not None and self.trainer.devices.kind == "cpu":
            self._cost = max(self._cost, report.processor_seconds)
