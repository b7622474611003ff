"""How many steps the device runs before the host is heard."""

from __future__ import annotations

# So long a call may take: the host writes metrics and hears signals between calls.
CALL_SECONDS = 5.0
# What is kept back of the time that a notice leaves: for the end of the process, and for a call that takes longer than the last.
_ENDING = 2.0
_SLOWER = 2.0
_SLOWER_SAVE = 1.5


class StepsPerCall:
    """Steps per call from how long calls and saves took.

    At most `most` steps, about `CALL_SECONDS`, and so few that a call and a save fit into `grace` seconds (0 = no limit).
    """

    def __init__(self, most: int, grace: float) -> None:
        self.most, self.grace = most, grace
        self.steps = 1
        self._calls = 0
        self._save = 0.0

    @property
    def seconds(self) -> float:
        """How long a call may take."""
        if not self.grace:
            return CALL_SECONDS
        return min(
            CALL_SECONDS, max(0.0, self.grace - _ENDING - _SLOWER_SAVE * self._save) / _SLOWER
        )

    def called(self, steps: int, seconds: float) -> None:
        """A call of so many steps took so long."""
        self._calls += 1
        if self._calls > 1:  # the first one compiles
            self.steps = max(1, min(self.most, int(self.seconds * steps / max(seconds, 1e-9))))

    def saved(self, seconds: float) -> str:
        """A save took so long; gives a warning where that is too long for a notice."""
        fitted = self._fits()
        self._save = max(self._save, seconds)
        if not fitted or self._fits():
            return ""
        return f"a save took {seconds:.0f} s, too long for --grace_seconds {self.grace:g}: after a notice it may not be done in time"

    def _fits(self) -> bool:
        return not self.grace or self.grace > _ENDING + _SLOWER_SAVE * self._save
