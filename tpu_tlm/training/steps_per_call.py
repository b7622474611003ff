"""Number of steps per device call, adapted to their duration."""

from __future__ import annotations

# Longest intended call: the host writes metrics and handles signals between calls.
CALL_SECONDS = 5.0
# Share of the grace period that is reserved: seconds for the end of the process, and factors by
# which a call or a save may take longer than the last one.
_ENDING = 2.0
_SLOWER = 2.0
_SLOWER_SAVE = 1.5
# Saves between a notice and the end: the one in flight, and that of the last step.
_SAVES = 2.0


class StepsPerCall:
    """Steps per call, from the duration of earlier calls and saves.

    At most `most` steps, about `CALL_SECONDS`, and few enough that a call and a save fit into
    `grace` seconds (0 = no limit).
    """

    def __init__(self, most: int, grace: float) -> None:
        self.most, self.grace = most, grace
        self.steps = 1
        self._calls = 0
        self._save = 0.0

    @property
    def seconds(self) -> float:
        """Longest intended call, in seconds."""
        if not self.grace:
            return CALL_SECONDS
        return min(
            CALL_SECONDS, max(0.0, self.grace - _ENDING - _SLOWER_SAVE * self._save) / _SLOWER
        )

    def called(self, steps: int, seconds: float) -> int:
        """Record a call: its steps and its duration in seconds; returns the number of calls."""
        self._calls += 1
        if self._calls > 1:  # the first one compiles
            self.steps = max(1, min(self.most, int(self.seconds * steps / max(seconds, 1e-9))))
        return self._calls

    def saved(self, seconds: float) -> str:
        """Record the duration of a save in seconds; returns a warning, or an empty string.

        The warning is given once saves take too long for the grace period.
        """
        fitted = self._fits()
        self._save = max(self._save, seconds)
        if not fitted or self._fits():
            return ""
        return (
            f"a save took {seconds:.0f} s, too long for --grace_seconds {self.grace:g}: after a"
            " preemption notice it may not finish in time"
        )

    def _fits(self) -> bool:
        return not self.grace or self.grace > _ENDING + _SAVES * self._save
