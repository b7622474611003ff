"""Which example a step begins with, where the batch size changed in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class DataPosition:
    """A step and the position of its first example in the stream; later steps take `batch_size`."""

    batch_size: int
    step: int = 0
    position: int = 0

    def of(self, step: int) -> int:
        """The position of the first example of a step from `self.step` on."""
        return self.position + (step - self.step) * self.batch_size

    def continued(self, step: int, state: Mapping[str, Any]) -> DataPosition:
        """The position where a checkpoint of `step` steps goes on, from what it says of itself."""
        return replace(self, step=step, position=int(state.get("position", self.of(step))))
