"""The work directory of a preprocessing: whose it is, and which process uses it now."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.dataset import WORK
from tpu_tlm.data.preprocessing.provenance import differences
from tpu_tlm.data.preprocessing.writing import writing
from tpu_tlm.errors import UsageError

_STATE = "made_from.json"
_LOCK = "lock"


def work_path(output: str, given: str | None) -> str:
    """The work directory: in the output, or local when one is given or the output is remote."""
    if given is None and not filesystem.is_remote(output):
        return f"{output.rstrip('/')}/{WORK}"
    if given is not None and filesystem.is_remote(given):
        raise UsageError(f"--work_dir {given}: must be a local directory")
    name = hashlib.sha256(output.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(given or tempfile.gettempdir(), f"tpu_tlm-preprocess-{name}")


class OutputLock:
    """Keeps a second preprocess, whatever its work directory, out of a local output directory."""

    def __init__(self, output: str) -> None:
        self._handle: int | None = None
        if filesystem.is_remote(output):
            return
        with writing(output):
            os.makedirs(output, exist_ok=True)
            self._handle = os.open(output, os.O_RDONLY)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
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

    It is locked while in use.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with writing(path):
            os.makedirs(path, exist_ok=True)
            self._lock = open(os.path.join(path, _LOCK), "a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise _in_use(path) from None

    def claim(self, made_from: dict[str, Any]) -> str | None:
        """Keep what belongs to the same preprocessing, else empty the directory.

        Returns what differed when it was emptied.
        """
        state = os.path.join(self.path, _STATE)
        reason = None
        names = [name for name in os.listdir(self.path) if name != _LOCK]
        if names:
            try:
                old = json.loads(filesystem.read_bytes(state))
            except (UsageError, ValueError):
                old = {}
            if old == made_from:
                return None
            reason = differences(old, made_from)
            for name in names:
                whole = os.path.join(self.path, name)
                with writing(whole):
                    shutil.rmtree(whole) if os.path.isdir(whole) else os.remove(whole)
        filesystem.write_bytes(state, json.dumps(made_from).encode())
        return reason

    def remove(self) -> None:
        """Remove the directory: its work is done."""
        with writing(self.path):
            shutil.rmtree(self.path)

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()


def remove_finished(path: str) -> bool:
    """Remove the work directory of a run that was killed after its dataset was complete."""
    if not os.path.isdir(path):
        return False
    with contextlib.suppress(UsageError):
        directory = WorkDirectory(path)
        try:
            directory.remove()
        finally:
            directory.close()
        return True
    return False
