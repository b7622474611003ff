"""Only regular files are read and replaced: no pipe is waited for, no device read without end."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from tpu_tlm.errors import UsageError


def check_regular(path: str, mode: int) -> None:
    """Raise `IsADirectoryError` or `UsageError` unless `mode` is that of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise UsageError(
            f"{path}: is not a regular file (a device, a pipe or a socket): give a file"
        )


def open_regular(path: str, flags: int = 0) -> BinaryIO:
    """Open a regular file for reading, without a moment between check and opening.

    flags: further flags of `os.open`. Raises as `check_regular`, and `OSError`.
    """
    check_regular(path, os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        check_regular(path, os.fstat(handle).st_mode)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_replaceable(path: str) -> None:
    """Raise `UsageError` where a file would take the place of a device, a pipe or a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not stat.S_ISDIR(mode):
        check_regular(path, mode)
