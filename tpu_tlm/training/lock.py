"""One run at a time in one run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator

from tpu_tlm.errors import UsageError

_NAME = "lock"


@contextlib.contextmanager
def locked(basedir: str, wanted: bool = True) -> Iterator[None]:
    """Hold the lock of a run directory on a local or network disk in this block.

    The lock is the kernel's (flock), so a process that died holds none. wanted: False in the processes of a job that do not write.
    Object storage (`gs://`) has no locks: there nobody is kept out. Raises `UsageError` when another process holds it.
    """
    if not wanted or "://" in basedir:
        yield
        return
    os.makedirs(basedir, exist_ok=True)
    path = os.path.join(basedir, _NAME)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UsageError(f"{basedir}: {holder} trains here now: wait for its end, or take another --basedir") from None
            # Some mounted buckets have no locks.
            print(f"warning: {path}: no lock to be had ({error.strerror}); see that no other run uses this directory", file=sys.stderr)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
