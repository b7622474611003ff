"""Speeds of training: step time, tokens per second, share of the peak, share of waiting."""

from __future__ import annotations


class SpeedMeter:
    """Computes the speeds of device calls.

    tokens, flops: of one step over all replicas; peak: FLOP/s over all replicas, None where it is
    unknown, and then there is no MFU. The first call of a process mostly compiles and is not
    counted.
    """

    def __init__(self, *, tokens: int, flops: float = 0.0, peak: float | None = None) -> None:
        self.tokens, self.flops, self.peak = tokens, flops, peak
        self._calls = 0
        self._seconds = self._waited = 0.0

    def add(self, steps: int, seconds: float, waited: float) -> dict[str, float]:
        """Record a call and return its speeds, empty for the first call.

        seconds: duration of the call; waited: of these, without a batch. Returns `step_time` in
        seconds, `tokens_per_second`, and as shares `input_wait` and, where known, `mfu`.
        """
        self._calls += 1
        if self._calls == 1 or seconds <= 0.0:
            return {}
        self._seconds, self._waited = self._seconds + seconds, self._waited + waited
        speeds = {
            "step_time": seconds / steps,
            "tokens_per_second": self.tokens * steps / seconds,
            "input_wait": waited / seconds,
        }
        if self.peak and self.flops:
            speeds["mfu"] = self.flops * steps / seconds / self.peak
        return speeds

    @property
    def input_wait(self) -> float | None:
        """Share of time without a batch over all calls but the first; None before the second."""
        return self._waited / self._seconds if self._seconds else None
