"""The work directory of a preprocessing: whose it is, and who works in it now."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.dataset import WORK
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.lock import DiskLock, Held

_STATE = "made_from.json"
_LOCK = "lock"


def work_path(output: str, given: str | None) -> str:
    """Where the work is done: in the output, or in a local directory when the output is on an object store or one is given."""
    if given is None and not filesystem.is_remote(output):
        return f"{output.rstrip('/')}/{WORK}"
    if given is not None and filesystem.is_remote(given):
        raise UsageError(f"--work_dir {given}: must be a local directory")
    name = hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:16]
    return os.path.join(given or tempfile.gettempdir(), f"tpu_tlm-preprocess-{name}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between what two datasets are made from, such as "seed: 0 there, 1 now"."""
    return "; ".join(
        f"{key}: {old.get(key)} there, {new.get(key)} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )


class WorkDirectory:
    """Holds the finished parts of one preprocessing until its dataset is complete; locked while in use."""

    def __init__(self, path: str) -> None:
        self.path = path
        filesystem.make_directory(path)
        self._lock = DiskLock(os.path.join(path, _LOCK))
        try:
            with filesystem.naming(self._lock.path):
                self._lock.acquire(0.0, lambda holder: None)
        except Held:
            raise UsageError(
                f"{path}: another preprocess is writing this output: wait for it or take another --output"
            ) from None

    def claim(self, made_from: dict[str, Any]) -> str | None:
        """Keep what is there if it belongs to the same preprocessing, else empty the directory; gives the reason when emptied."""
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
                shutil.rmtree(whole) if os.path.isdir(whole) else os.remove(whole)
        filesystem.write_bytes(state, json.dumps(made_from).encode())
        return reason

    def remove(self) -> None:
        """Remove the directory: its work is done."""
        shutil.rmtree(self.path)

    def close(self) -> None:
        """Let others in."""
        self._lock.release()
