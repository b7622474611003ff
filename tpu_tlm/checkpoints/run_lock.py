"""One run at a time in one run directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from tpu_tlm.errors import UsageError

_NAME = "lock"
# A network disk takes a lock from a machine that went down when its lease is over, some 90 s later.
PATIENCE = 120.0
_TURN = 0.5


@contextlib.contextmanager
def locked(run_dir: str, wanted: bool = True, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of a run directory on a local or network disk in this block.

    The lock is the kernel's (flock), so a process that died holds none, or on a network disk none for long: it is waited for (`patience`
    seconds), unless its holder is seen to live on this machine. wanted: False in the processes of a job that do not write.
    Object storage (`gs://`) has no locks: there nobody is kept out. Raises `UsageError` when another process holds it.
    """
    if not wanted or "://" in run_dir:
        yield
        return
    os.makedirs(run_dir, exist_ok=True)
    path = os.path.join(run_dir, _NAME)
    with open(path, "a+") as file:
        try:
            _take(file, run_dir, patience)
        except OSError as error:
            # Some mounted buckets have no locks.
            print(
                f"warning: {path}: no lock to be had ({error.strerror}); see that no other run uses this directory",
                file=sys.stderr,
            )
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}\nbegun {_begun(os.getpid())}\n"
        )
        file.flush()
        yield


def _take(file: TextIO, run_dir: str, patience: float) -> None:
    deadline, waits = time.monotonic() + patience, False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        file.seek(0)
        text = file.read()
        holder = text.partition("\n")[0] or "another process"
        if _lives_here(text) or time.monotonic() >= deadline:
            raise UsageError(
                f"{run_dir}: {holder} trains here now: wait for its end, or take another --run_dir"
            )
        if not waits:
            why = "as a network disk has it for a while after its machine's end"
            print(
                f"{run_dir}: {holder} holds the lock, {why}; waiting up to {patience:g} s",
                flush=True,
            )
            waits = True
        time.sleep(_TURN)


def _begun(pid: int) -> str | None:
    """When a process of this machine began, in ticks of its clock; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _lives_here(text: str) -> bool:
    """Whether the process that a lock file names runs on this machine: a pod made anew has its name again, and often its numbers."""
    named = re.match(r"process (\d+) on (.*)\nbegun (\d+)\n", text)
    return (
        named is not None and named[2] == socket.gethostname() and named[3] == _begun(int(named[1]))
    )
