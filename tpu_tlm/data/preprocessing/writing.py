"""Errors of writing scratch files as one line that names the file."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.errors import StoreError, one_line

_WRONG_USE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_LIMITS = {errno.EFBIG: "-f", errno.EMFILE: "-n"}


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn the operating system's errors into one line that names `path`.

    Raises `UsageError` where the path or its permissions are wrong, else `TlmError`: what is
    finished stays, and the same command continues.
    """
    try:
        yield
    except StoreError as error:
        raise one_line(path, error) from None
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _WRONG_USE:
            raise UsageError(f"{path}: cannot be written: {reason}") from None
        again = "run the same command again to continue"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            again = f"free some, then {again}"
        elif error.errno in (errno.EFBIG, errno.EMFILE):
            again = f"raise the limit (ulimit {_LIMITS[error.errno]}), then {again}"
        raise TlmError(f"{path}: input/output failed: {reason}: {again}") from None
