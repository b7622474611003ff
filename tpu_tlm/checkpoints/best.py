"""The step with the best validation loss: noted beside the checkpoints, read as RUN@best."""

from __future__ import annotations

import json
import math
import posixpath

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

NAME = "best.json"
SUFFIX = "@best"


def note_best(directory: str, step: int, loss: float) -> None:
    """Write the step and its loss into a directory of checkpoints."""
    text = json.dumps({"step": step, "loss": loss}) + "\n"
    filesystem.write_bytes(posixpath.join(directory, NAME), text.encode())


def read_best(directory: str) -> tuple[int, float] | None:
    """The noted step and loss; None where there is no note that can be read."""
    path = posixpath.join(directory, NAME)
    if not filesystem.exists(path):
        return None
    try:
        found = json.loads(filesystem.read_bytes(path))
        step, loss = found["step"], float(found["loss"])
    except (ValueError, KeyError, TypeError):
        return None
    return (step, loss) if isinstance(step, int) and math.isfinite(loss) else None


def best_step(run_dir: str, directory: str) -> int:
    """The step that `RUN@best` means. Raises `UsageError` where none was noted."""
    found = read_best(directory)
    if found is None:
        raise UsageError(
            f"{run_dir}{SUFFIX}: no best checkpoint was noted: the run has no --valid_dir, or was "
            "not evaluated at a checkpoint"
        )
    return found[0]
