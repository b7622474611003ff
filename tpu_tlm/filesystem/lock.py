"""A lock for one process at a time: the kernel's on a disk, a lease on an object in a bucket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tpu_tlm.filesystem import owner

if TYPE_CHECKING:
    from tpu_tlm.filesystem.cloud_storage import CloudStorage

LEASE = 60.0  # seconds after its last renewal for which a holder counts as alive
_TURN = 0.5


class Held(Exception):
    """Another process holds the lock; the text says which."""


class Lock(Protocol):
    """`acquire` raises `Held` when the lock is not free within `patience` seconds.

    waiting: called once with the holder's title before waiting. `taken_over`: the lock was left
    behind by a holder that died.
    """

    taken_over: bool

    def acquire(self, patience: float, waiting: Callable[[str], None]) -> None: ...

    def release(self) -> None: ...


class DiskLock:
    """The kernel's lock (flock) on a file, which a process that dies does not keep.

    On a network disk a machine that went down keeps it for a while. Mounted buckets may have no
    locks: a warning on standard error says so, and no process is kept out.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken_over = False
        self._file: TextIO | None = None

    def acquire(self, patience: float, waiting: Callable[[str], None]) -> None:
        file = open(self.path, "a+")
        try:
            self._take(file, patience, waiting)
            while not self._is(file):
                # Its holder removed it in the meantime: a lock on it keeps nobody out.
                file.close()
                os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
                file = open(self.path, "a+")
                self._take(file, patience, waiting)
        except OSError as error:
            print(
                f"warning: {self.path}: cannot be locked ({error.strerror}); make sure that no "
                "other process uses this directory",
                file=sys.stderr,
            )
        except BaseException:
            file.close()
            raise
        self._file = file
        file.truncate(0)
        file.write(owner.describe())
        file.flush()

    def _take(self, file: TextIO, patience: float, waiting: Callable[[str], None]) -> None:
        deadline, announced = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            file.seek(0)
            text = file.read()
            if owner.lives(text) or time.monotonic() >= deadline:
                raise Held(owner.title(text))
            if not announced:
                waiting(owner.title(text))
                announced = True
            time.sleep(_TURN)

    def _is(self, file: TextIO) -> bool:
        """Whether the open file is the one that has the lock's name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Lease:
    """An object that its holder writes anew every few seconds, under preconditions.

    A holder counts as dead when the object did not change for the length of the lease, measured by
    the clock of whoever waits, or when its process is seen to be gone on this machine. `lost`: the
    lease was taken over by another process, or could not be renewed in time.
    """

    def __init__(self, path: str, files: CloudStorage, seconds: float | None = None) -> None:
        self.path = path
        self.taken_over = False
        self.lost = ""
        self._files = files
        self._seconds = LEASE if seconds is None else seconds
        self._token = uuid.uuid4().hex
        self._version = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _body(self) -> bytes:
        body = {
            "owner": owner.describe(),
            "renewed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "lease_seconds": self._seconds,
            "token": self._token,
        }
        return (json.dumps(body, indent=1) + "\n").encode()

    def _write(self, version: int) -> bool:
        try:
            written = self._files.write(self.path, self._body(), version)
        except FileExistsError:
            return False
        self._version = int(written or 0)
        return True

    def _holder(self) -> tuple[str, int]:
        """Description and version of what is there; version 0 where there is nothing."""
        version = int(self._files.version(self.path) or 0)
        text = ""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found: Any = json.loads(self._files.read(self.path))
            text = str(found["owner"])
        return text, version

    def acquire(self, patience: float, waiting: Callable[[str], None]) -> None:
        deadline, seen, since = time.monotonic() + patience, 0, 0.0
        while not self._write(0):
            text, version = self._holder()
            now = time.monotonic()
            if version == 0:
                continue  # released meanwhile
            alive = owner.lives(text)
            if alive or (seen and version != seen) or now >= deadline:
                raise Held(owner.title(text))
            if alive is False or (seen and now - since >= self._seconds):
                if self._write(version):
                    self.taken_over = True
                    break
                seen = 0
                continue
            if not seen:
                seen, since = version, now
                waiting(owner.title(text))
            time.sleep(min(_TURN, self._seconds / 4))
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._stop.wait(self._seconds / 4):
            try:
                if not self._write(self._version):
                    self.lost = "another process took the lock over"
                else:
                    renewed = time.monotonic()
            except OSError as error:
                if time.monotonic() - renewed > self._seconds:
                    self.lost = f"the lock could not be renewed: {error.strerror or error}"
            if self.lost:
                print(
                    f"warning: {self.path}: {self.lost}; this process can commit no more once "
                    "another has begun",
                    file=sys.stderr,
                )
                return

    def release(self) -> None:
        self._stop.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if not self.lost:
            with contextlib.suppress(OSError):
                self._files.remove_version(self.path, self._version)


def lock(path: str) -> Lock | None:
    """The lock at a path; None on file systems that have none (other schemes than gs://)."""
    if "://" not in path:
        return DiskLock(path)
    if not path.startswith("gs://"):
        return None
    from tpu_tlm.filesystem.cloud_storage import CloudStorage

    return Lease(path, CloudStorage())
