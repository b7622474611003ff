"""Bytes on a local disk or behind a `scheme://` path (gs://), which TensorFlow's file system then reads and writes."""

from __future__ import annotations

import contextlib
import glob as local_glob
import hashlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from tpu_tlm.errors import TlmError, UsageError


def is_remote(path: str) -> bool:
    """Whether the path names another file system (`gs://…`) rather than the local disk."""
    return "://" in path


def _gfile() -> Any:
    # TensorFlow takes seconds and half a gigabyte: only paths that need it pay for it.
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def naming(path: str) -> Any:
    """Turn the file system's own exceptions into one line that names the file (`UsageError` when it is not there)."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except OSError as error:
        raise TlmError(f"{path}: input/output failed: {error.strerror or error}") from None
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow"):
            raise
        kind = (
            UsageError
            if type(error).__name__ in ("NotFoundError", "PermissionDeniedError")
            else TlmError
        )
        reason = " ".join(str(error).split()) or type(error).__name__
        raise kind(f"{path}: cannot be used: {reason}") from None


def open_read(path: str) -> BinaryIO:
    """Open for reading bytes; the result has `read(n)`, `seek`, `close`. Raises `UsageError` naming a missing file."""
    with naming(path):
        if is_remote(path):
            stream = _gfile().GFile(path, "rb")
            stream.size()  # GFile opens lazily: find a missing file here, not at the first read
            return cast(BinaryIO, stream)
        return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """The whole file."""
    with naming(path), contextlib.closing(open_read(path)) as stream:
        return stream.read()


def write_bytes(path: str, data: bytes) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part."""
    with naming(path):
        if is_remote(path):  # an object appears when its upload is complete
            with _gfile().GFile(path, "wb") as stream:
                stream.write(data)
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)


def make_directory(path: str) -> None:
    """Make a directory and those above it; one that exists is fine."""
    with naming(path):
        if is_remote(path):
            _gfile().makedirs(path)
        else:
            os.makedirs(path, exist_ok=True)


def is_directory(path: str) -> bool:
    """Whether the path is a directory (on an object store: a prefix with objects under it)."""
    with naming(path):
        return bool(_gfile().isdir(path)) if is_remote(path) else os.path.isdir(path)


def exists(path: str) -> bool:
    """Whether there is a file or directory of that name."""
    with naming(path):
        return bool(_gfile().exists(path)) if is_remote(path) else os.path.exists(path)


def file_size(path: str) -> int:
    """Bytes in the file."""
    with naming(path):
        return int(_gfile().stat(path).length) if is_remote(path) else os.stat(path).st_size


def find(pattern: str) -> list[str]:
    """The files that a glob matches, sorted; directories are left out."""
    with naming(pattern):
        if is_remote(pattern):
            gfile = _gfile()
            return sorted(path for path in gfile.glob(pattern) if not gfile.isdir(path))
        return sorted(
            path for path in local_glob.glob(pattern, recursive=True) if not os.path.isdir(path)
        )


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream to write a large file to, which takes its name (replacing an older one) when the block ends without an error."""
    if is_remote(path):  # an object appears when its upload is complete
        with _gfile().GFile(path, "wb") as stream:
            yield cast(BinaryIO, stream)
        return
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def list_names(directory: str) -> list[str]:
    """Names of the files and directories in a directory, sorted; empty when it is not there."""
    with naming(directory):
        if not is_remote(directory):
            return sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        gfile = _gfile()
        return (
            sorted(name.rstrip("/") for name in gfile.listdir(directory))
            if gfile.isdir(directory)
            else []
        )


def remove(path: str) -> None:
    """Remove a file."""
    with naming(path):
        if is_remote(path):
            _gfile().remove(path)
        else:
            os.remove(path)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of the bytes."""
    return hashlib.sha256(data).hexdigest()
