"""Errors of file systems as one line that names the file."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tpu_tlm.errors import TlmError, UsageError

# The operating system's own words, and what to do. True: wrong use (exit code 2).
_CAUSES = {
    errno.ENOENT: (True, "No such file or directory"),
    errno.EISDIR: (True, "Is a directory, where a file is needed"),
    errno.ENOTDIR: (True, "Not a directory: a part of the path is a file"),
    errno.EACCES: (True, "Permission denied"),
    errno.EPERM: (True, "Operation not permitted"),
    errno.EROFS: (True, "Read-only file system: name a directory that can be written"),
    errno.ENAMETOOLONG: (True, "File name too long"),
    errno.ELOOP: (True, "Too many levels of symbolic links"),
    errno.EEXIST: (True, "File exists"),
    errno.ENOSPC: (False, "No space left on device: free some, or name another directory"),
    errno.EDQUOT: (False, "Disk quota exceeded: free some, or name another directory"),
    errno.EMFILE: (False, "Too many open files in this process: raise the limit (ulimit -n)"),
    errno.ENFILE: (False, "Too many open files on this machine"),
    errno.EFBIG: (False, "File too large for the file system or the limit (ulimit -f)"),
}


class StoreError(OSError):
    """An error of object storage; `strerror` says the cause in words of its own."""


def one_line(path: str, error: Exception) -> TlmError:
    """The error to raise for `error`, which the file system raised about `path`."""
    if isinstance(error, StoreError):
        kind = UsageError if error.errno in (errno.ENOENT, errno.EACCES) else TlmError
        return kind(f"{path}: {error.strerror or error}")
    if isinstance(error, OSError):
        wrong_use, _ = _CAUSES.get(error.errno or 0, (False, ""))
        return (UsageError if wrong_use else TlmError)(f"{path}: {reason(error)}")
    if isinstance(error, UnicodeError):
        return UsageError(f"{path!a}: a file name that cannot be encoded: rename it")
    return UsageError(f"{path!a}: a file name cannot hold a NUL character")


def reason(error: OSError) -> str:
    """What went wrong, and what to do about it, without the file."""
    own = error.strerror or str(error)
    if own != os.strerror(error.errno or 0):
        return own  # the cause in words of the object store
    return _CAUSES.get(error.errno or 0, (False, own))[1]


def _about_a_name(error: ValueError) -> bool:
    return isinstance(error, UnicodeEncodeError) or "null byte" in str(error)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn a file system's exceptions into one line that names `path`.

    Raises `UsageError` where the path or its permissions are wrong, else `TlmError` (full disk,
    too many open files, network).
    """
    try:
        yield
    except OSError as error:
        raise one_line(path, error) from None
    except ValueError as error:
        if not _about_a_name(error):
            raise
        raise one_line(path, error) from None
