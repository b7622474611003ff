"""Loading a trained model of any format: the one function that every command uses."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.best import SUFFIX, best_step
from tpu_tlm.errors import UsageError
from tpu_tlm.formats import registry
from tpu_tlm.formats.format import ReadOptions
from tpu_tlm.formats.run_directory import CHECKPOINTS
from tpu_tlm.formats.run_directory import FORMAT as RUN

if TYPE_CHECKING:
    import numpy as np

    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.models.spec import ModelSpec


def load(
    path: str,
    *,
    step: int | None = None,
    describe: Callable[[Mapping[str, np.ndarray], str], ModelSpec] | None = None,
) -> PretrainedModel:
    """The model at `path`, of any format in `registry.FORMATS`.

    path: a run directory (its newest good checkpoint, or that of `step`; `RUN@best`: that of the
    best validation loss; `RUN@400`: that of step 400), an NPZ file, a HuggingFace directory, a BERT
    checkpoint, a SavedModel, an ELMo. describe: gives the spec of an NPZ file of MEAD's, which
    holds none, from its arrays and its path.

    The result's `notes` and `skipped` say what a user should know; commands print its
    `report()`. Raises `UsageError` when there is no such model or its kind is not supported,
    `TlmError` when it is damaged or does not fit its configuration.
    """
    path, step = _chosen(path, step)
    found = registry.detect(path)
    if step is not None and found is not RUN:
        raise UsageError(f"--step: {path} is one model, only a run directory has several")
    return found.read(path, ReadOptions(step, describe))


def _chosen(path: str, step: int | None) -> tuple[str, int | None]:
    """`RUN@best` and `RUN@400` as the run and a step; other paths as they are."""
    plain = path.rstrip("/")
    run_dir = plain.removesuffix(SUFFIX)
    numbered = re.fullmatch(r"(.+)@([0-9]{1,18})", plain)
    if (run_dir == plain and numbered is None) or filesystem.exists(path):
        return path, step
    if filesystem.is_directory(path):
        return path, step
    if step is not None:
        raise UsageError(f"--step {step}: {path} names a step already; leave one of the two out")
    if numbered is not None:
        return numbered[1], int(numbered[2])
    return run_dir, best_step(run_dir, posixpath.join(run_dir, CHECKPOINTS))


def is_run(path: str) -> bool:
    """Whether a path is a run directory."""
    return registry.detect(_chosen(path, None)[0]) is RUN
