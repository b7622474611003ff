"""A start that fails before its first checkpoint leaves nothing in its run directory."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.run_dir import CONTENTS, RunDir
from tpu_tlm.errors import TlmError, UsageError


@contextlib.contextmanager
def removed_unless_saved(run_dir: str, wanted: bool = True) -> Iterator[None]:
    """Remove what the block makes in a run directory, when it raises and no checkpoint is there.

    Only names of `CONTENTS` are removed, and only those that were not there before, unless an
    earlier start that saved nothing made them. wanted: False in the processes of a job that do not
    write. The lock of the directory must be held.
    """
    run = RunDir(run_dir)
    if not wanted:
        yield
        return
    earlier = set(filesystem.list_names(run.path))
    try:
        if "config.yaml" in earlier and not run.saved():
            earlier = set()
    except UsageError:
        pass  # A damaged identity.json: whether it is a run is not known.
    try:
        yield
    except BaseException:
        # The first error is the one to report.
        with contextlib.suppress(OSError, TlmError):
            if not run.saved():
                _remove(run.path, [name for name in CONTENTS if name not in earlier])
        raise


def _remove(directory: str, names: list[str]) -> None:
    for name in set(filesystem.list_names(directory)) & set(names):
        path = posixpath.join(directory, name)
        if filesystem.is_directory(path):
            filesystem.remove_tree(path)
        else:
            filesystem.remove(path)
