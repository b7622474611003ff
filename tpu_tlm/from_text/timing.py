"""A short measurement of the training step, and a watch on the time of a run."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable

from tpu_tlm.config import Config
from tpu_tlm.from_text.sizing import Timing, layer_parameters
from tpu_tlm.training.callbacks import Callback, StepReport

_STEPS_PER_CALL = 4


class _Enough(Exception):
    """The measurement is over."""


class _Clock(Callback):
    """Times device calls after the first, which compiles, until it has enough."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun: tuple[float, int] | None = None
        self.last: tuple[float, int] = (0.0, 0)

    def on_step(self, report: StepReport) -> None:
        now = (time.monotonic(), report.step)
        if self.begun is None:
            self.begun = now
            return
        self.last = now
        if now[0] - self.begun[0] >= self.seconds and now[1] - self.begun[1] >= _STEPS_PER_CALL:
            raise _Enough


def step_timing(config: Config, seconds: float = 6.0) -> tuple[Timing, float]:
    """Seconds of a training step of `config` on this machine, and those until the first was made.

    The run is made in a temporary directory and thrown away.
    """
    from tpu_tlm.devices import select
    from tpu_tlm.training import make_trainer

    started = time.monotonic()
    select.prepare(config.runtime)
    devices = select.connect(config.runtime)
    clock = _Clock(seconds)
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        trial = config.replace(
            run_dir=directory,
            valid_dir=None,
            steps=10**6,
            warmup_steps=1,
            steps_per_call=_STEPS_PER_CALL,
            report=False,
            tensorboard=False,
        )
        trainer = make_trainer(trial, devices, callbacks=[clock], display=False)
        with contextlib.suppress(_Enough):
            trainer.fit()
    assert clock.begun is not None
    spent, steps = clock.last[0] - clock.begun[0], clock.last[1] - clock.begun[1]
    objective, spec = trainer.experiment.objective, trainer.experiment.spec
    values = config.as_dict()
    timing = Timing(
        spent / steps,
        layer_parameters(values),
        objective.flops(spec) * config.data.batch_size,
    )
    return timing, clock.begun[0] - started


class KeepTime(Callback):
    """Ends a run, saved, where it will take much longer than planned; `steps` then fit the time.

    end: `clock()` at which training should be over; latest: share of the steps after which nothing
    is changed any more, since the learning rate falls there. Make it just before the run. After
    that `steps` is None or the number that fits.
    """

    def __init__(
        self, end: float, latest: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.end, self.latest, self._clock = end, latest, clock
        self._created = clock()
        self.steps: int | None = None
        self._begun: tuple[float, int] | None = None

    def on_step(self, report: StepReport) -> None:
        now = self._clock()
        if self._begun is None:
            self._begun = (now, report.step)
            return
        share = report.step / report.total
        made = report.step - self._begun[1]
        if not 0.25 <= share < self.latest - 0.1 or made < 1:
            return
        second = (now - self._begun[0]) / made
        planned = self.end - now
        # A run that is begun again compiles again: that must be worth it.
        again = self._begun[0] - self._created
        if (report.total - report.step) * second <= 1.15 * planned + 10 + again:
            return
        planned -= again
        # The steps so far must stay before the fall of the learning rate.
        least = int(report.step / self.latest) + 1
        fits = report.step + int(max(planned, 0.0) / second)
        steps = max(least, fits)
        if steps < 0.95 * report.total:
            self.steps = steps
            # Saves and stops, as Ctrl-C does.
            raise KeyboardInterrupt
