"""One layer over the local disk and object storage.

A path without a scheme is local; gs:// is Google Cloud Storage through its own client; other
schemes are what TensorFlow makes of them. The functions here raise `UsageError` or `TlmError`, one
line that names the file; the methods of `of(path)` raise `OSError`s for code that handles them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import BinaryIO

from tpu_tlm.filesystem.base import FileSystem, Progress
from tpu_tlm.filesystem.errors import StoreError, naming, reason
from tpu_tlm.filesystem.inside import (
    check_inside,
    open_inside,
    plain_name,
    read_inside,
    safe_join,
)
from tpu_tlm.filesystem.local import LocalDisk

__all__ = [
    "FileSystem",
    "LocalDisk",
    "StoreError",
    "check_inside",
    "download",
    "exists",
    "file_size",
    "file_sizes",
    "find",
    "is_directory",
    "is_remote",
    "list_names",
    "local_copy",
    "make_directory",
    "naming",
    "of",
    "open_inside",
    "open_read",
    "read_bytes",
    "plain_name",
    "read_inside",
    "read_range",
    "reason",
    "remove",
    "remove_tree",
    "replacing",
    "safe_join",
    "sha256",
    "staged",
    "upload",
    "write_bytes",
]


def is_remote(path: str) -> bool:
    """Whether the path names another file system (`gs://...`) rather than the local disk."""
    return "://" in path


@functools.cache
def _made(scheme: str) -> FileSystem:
    if not scheme:
        return LocalDisk()
    if scheme == "gs":
        from tpu_tlm.filesystem.cloud_storage import CloudStorage

        return CloudStorage()
    from tpu_tlm.filesystem.tensorflow_files import TensorFlowFiles

    return TensorFlowFiles()


def of(path: str) -> FileSystem:
    """The file system of a path, by its scheme."""
    return _made(path.partition("://")[0] if is_remote(path) else "")


def open_read(path: str) -> BinaryIO:
    """Open for reading bytes: `read(n)`, `seek`, `close`. `UsageError` when it is missing."""
    with naming(path):
        return of(path).open(path)


def read_bytes(path: str) -> bytes:
    """The whole file."""
    with naming(path):
        return of(path).read(path)


def read_range(path: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on; fewer where it ends before."""
    with naming(path):
        return of(path).read_range(path, start, size)


def write_bytes(path: str, data: bytes) -> None:
    """Write a whole file durably: a reader sees the old one or the new one, never a part."""
    with naming(path):
        of(path).write(path, data)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A stream to write a large file to, which takes its name when the block ends well."""
    with naming(path), of(path).replacing(path) as stream:
        yield stream


def make_directory(path: str) -> None:
    """Make a directory and those above it; one that exists is fine."""
    with naming(path):
        of(path).make(path)


def is_directory(path: str) -> bool:
    """Whether the path is a directory (object storage: a prefix with objects under it)."""
    with naming(path):
        return of(path).is_directory(path)


def exists(path: str) -> bool:
    """Whether there is a file or directory of that name."""
    with naming(path):
        return of(path).exists(path)


def file_size(path: str) -> int:
    """Bytes in the file."""
    with naming(path):
        return of(path).size(path)


def file_sizes(directory: str) -> dict[str, int | None]:
    """Name -> bytes of what is in a directory by one listing, None for directories."""
    with naming(directory):
        return of(directory).sizes(directory)


def find(pattern: str) -> list[str]:
    """The files that a glob matches, sorted; directories are left out."""
    with naming(pattern):
        return of(pattern).find(pattern)


def list_names(directory: str) -> list[str]:
    """Names of what is in a directory, sorted; empty when it is missing."""
    with naming(directory):
        return of(directory).names(directory)


def remove(path: str) -> None:
    """Remove a file; one that is missing is fine."""
    with naming(path):
        of(path).remove(path)


def remove_tree(directory: str) -> None:
    """Remove a directory and what it holds; one that is missing is fine."""
    with naming(directory):
        of(directory).remove_tree(directory)


@contextlib.contextmanager
def staged(directory: str) -> Iterator[str]:
    """A local directory to write files into, which are in the (new) `directory` when it ends."""
    with naming(directory), of(directory).staged(directory) as local:
        yield local


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A local path with the content of a file or directory: itself, or a download for the block."""
    with naming(path), of(path).local_copy(path) as local:
        yield local


def upload(local: str, directory: str, progress: Progress | None = None) -> list[str]:
    """Copy all files below a local directory, several at a time; returns relative paths.

    Files that are there in object storage are not replaced. progress: called with (bytes done,
    bytes in all) after each file.
    """
    with naming(directory):
        return of(directory).upload(local, directory, progress)


def download(directory: str, local: str, progress: Progress | None = None) -> list[str]:
    """Copy all files below a directory to a local one, several at a time."""
    with naming(directory):
        return of(directory).download(directory, local, progress)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of the bytes."""
    return hashlib.sha256(data).hexdigest()
