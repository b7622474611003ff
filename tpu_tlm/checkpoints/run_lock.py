"""One run at a time in one run directory."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from pathlib import Path

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.manager import POINTER
from tpu_tlm.checkpoints.run_dir import CHECKPOINTS
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.lock import Held, lock

_NAME = "lock"
# A network disk releases the lock of a machine that went down after some 90 s, a lease in object
# storage ends after 60 s.
PATIENCE = 120.0


@contextlib.contextmanager
def locked(run_dir: str, wanted: bool = True, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a run directory in this block.

    A process that died holds none, or none for long: it is waited for (`patience` seconds), unless
    its holder is seen to live on this machine. wanted: False in the processes of a job that do not
    write. A directory that was made for the lock, and holds nothing else at the end, is removed.
    Raises `UsageError` when another process holds it.
    """
    path = posixpath.join(run_dir, _NAME)
    found = lock(path) if wanted else None
    if found is None:
        yield
        return
    made = [] if filesystem.is_remote(run_dir) else _make(Path(run_dir))

    def waiting(holder: str) -> None:
        print(
            f"{run_dir}: {holder} holds the lock, which outlives a machine that went down for a "
            f"while; waiting up to {patience:g} s",
            flush=True,
        )

    with filesystem.naming(path):
        try:
            found.acquire(patience, waiting)
        except Held as held:
            raise UsageError(
                f"{run_dir}: {held} trains here now: wait for its end, or take another --run_dir"
            ) from None
    try:
        if found.taken_over:
            _fence(posixpath.join(run_dir, CHECKPOINTS, POINTER))
        yield
    finally:
        if made and filesystem.list_names(run_dir) == [_NAME]:
            with contextlib.suppress(OSError):
                Path(path).unlink()
                for directory in made:
                    directory.rmdir()
        found.release()


def _make(directory: Path) -> list[Path]:
    """Make a directory; returns it and those above it that were missing, innermost first."""
    missing = []
    for one in (directory, *directory.parents):
        if one.exists():
            break
        missing.append(one)
    filesystem.make_directory(str(directory))
    return missing


def _fence(pointer: str) -> None:
    """Give the pointer a new version, so that a holder that was only slow commits no more."""
    with filesystem.naming(pointer):
        files = filesystem.of(pointer)
        version = files.version(pointer)
        if version:
            # Refused where a commit came in between: that one counts.
            with contextlib.suppress(FileExistsError):
                files.write(pointer, files.read(pointer), version)
