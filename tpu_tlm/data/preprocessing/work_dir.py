"""The work directory of a preprocessing: whose it is, and which process uses it now."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.dataset import WORK
from tpu_tlm.data.made_from import differences
from tpu_tlm.data.preprocessing.writing import writing
from tpu_tlm.data.share import Share
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.lock import LEASE, Held, lock

_STATE = "made_from.json"
_LOCK = "lock"
_ALONE = Share()
_PATIENCE = 1.5 * LEASE  # seconds: a killed process's lease in a bucket ends within it


def work_path(output: str, given: str | None, shared: bool = False) -> str:
    """The work directory: below the one that is given, else in the output.

    What one process alone (not `shared`) makes in a bucket it prepares on the local disk.
    """
    if given is None and (shared or not filesystem.is_remote(output)):
        return f"{output.rstrip('/')}/{WORK}"
    name = hashlib.sha256(output.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{(given or tempfile.gettempdir()).rstrip('/')}/tpu_tlm-preprocess-{name}"


class OutputLock:
    """Keeps a second preprocess, whatever its work directory, out of a local output directory.

    shared: other processes of the same preprocessing may come in.
    """

    def __init__(self, output: str, shared: bool = False) -> None:
        self._handle: int | None = None
        if filesystem.is_remote(output):
            return
        with writing(output):
            os.makedirs(output, exist_ok=True)
            self._handle = os.open(output, os.O_RDONLY)
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            # Some network disks lock no directories: there the work directory's lock must do.
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                self.close()
                raise _in_use(output) from None

    def close(self) -> None:
        """Let other processes in."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _in_use(path: str) -> UsageError:
    return UsageError(
        f"{path}: another preprocess is writing this output: wait for it or take another --output"
    )


class WorkDirectory:
    """Holds the finished parts of one preprocessing until its dataset is complete.

    It is locked while in use; share: several processes use it, each locks its own index. notice:
    called with a line while the lock of a process that was killed runs out in a bucket.
    """

    def __init__(
        self, path: str, share: Share = _ALONE, notice: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path = path
        name = _LOCK if share.of == 1 else f"{_LOCK}-{share.index}"
        with writing(path):
            filesystem.make_directory(path)
        self._lock = lock(f"{path}/{name}")
        if self._lock is None:  # a file system without locks
            return
        try:
            with filesystem.naming(f"{path}/{name}"):
                self._lock.acquire(
                    _PATIENCE if filesystem.is_remote(path) else 0.0,
                    lambda holder: notice(f"{path}: waiting for the lock of {holder}"),
                )
        except Held:
            raise _in_use(path) from None

    def holds(self, made_from: dict[str, Any]) -> bool:
        """Whether what is there belongs to this preprocessing."""
        return self._state() == made_from

    def _state(self) -> Any:
        try:
            return json.loads(filesystem.read_bytes(f"{self.path}/{_STATE}"))
        except (UsageError, ValueError):
            return {}

    def claim(
        self, made_from: dict[str, Any], prepare: Callable[[], None] = lambda: None
    ) -> str | None:
        """Keep what belongs to the same preprocessing, else empty the directory.

        prepare: called before the directory counts as claimed. Returns what differed when it was
        emptied.
        """
        reason = None
        names = [n for n in filesystem.list_names(self.path) if not n.startswith(_LOCK)]
        if names:
            old = self._state()
            if old == made_from:
                return None
            reason = differences(old, made_from)
            for name in names:
                whole, files = f"{self.path}/{name}", filesystem.of(self.path)
                with writing(whole):
                    tree = files.is_directory(whole)
                    files.remove_tree(whole) if tree else files.remove(whole)
        prepare()
        filesystem.write_bytes(f"{self.path}/{_STATE}", json.dumps(made_from).encode())
        return reason

    def remove(self) -> None:
        """Remove the directory: its work is done. Another process may remove it, too."""
        with writing(self.path):
            filesystem.of(self.path).remove_tree(self.path)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()


def remove_finished(path: str) -> bool:
    """Remove the work directory of a run that was killed after its dataset was complete."""
    if not filesystem.is_directory(path):
        return False
    with contextlib.suppress(UsageError):
        directory = WorkDirectory(path)
        try:
            directory.remove()
        finally:
            directory.close()
        return True
    return False
