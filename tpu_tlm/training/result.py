"""What a training run returns."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.training.loop import Totals


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    run_dir: its directory; steps: of the whole run; made: those of this process; valid: sums of the
    last evaluation, `validation` as means by name; checkpoint: directory of the last one;
    input_wait: share of the steps' time in which the devices had no batch, None if there was only
    one device call.
    """

    run_dir: str
    steps: int
    made: int
    valid: Totals | None
    checkpoint: str
    input_wait: float | None = None

    @property
    def summary(self) -> str:
        """One line about the run."""
        waited = self.input_wait
        wait = "" if waited is None else f"; input wait {100.0 * waited:.1f} % of the time"
        # Of several workers the first one writes.
        saved = f"; last checkpoint {self.checkpoint}" if self.checkpoint else ""
        return f"{self.made} steps made, {self.steps} in all{saved}{wait}"

    @property
    def validation(self) -> dict[str, float]:
        """Loss and metrics of the last evaluation; empty without validation data."""
        if self.valid is None:
            return {}
        return {"loss": self.valid.loss, **{n: self.valid.mean(n) for n in self.valid.metrics}}
