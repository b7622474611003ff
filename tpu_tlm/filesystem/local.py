"""The local disk, and network disks and buckets that are mounted."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from typing import BinaryIO

from tpu_tlm.filesystem.base import FileSystem, Progress
from tpu_tlm.filesystem.regular import check_replaceable, open_regular

TEMPORARY = ".tmp"
_REMOVALS = 100


class LocalDisk(FileSystem):
    """Files are flushed to the disk, with their directory entry, before anything refers to them."""

    def read(self, path: str) -> bytes:
        with open_regular(path) as file:
            return file.read()

    def open(self, path: str) -> BinaryIO:
        return open_regular(path)

    def open_local(self, path: str, progress: Progress | None = None) -> BinaryIO:
        return self.open(path)

    def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
        with self.replacing(path) as file:
            file.write(data)
        return None

    def version(self, path: str) -> int | None:
        return None

    @contextlib.contextmanager
    def replacing(self, path: str) -> Iterator[BinaryIO]:
        check_replaceable(path)
        temporary = f"{path}.{os.getpid()}{TEMPORARY}"
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            # Whatever the first error was, it is the one to report.
            with contextlib.suppress(OSError, ValueError):
                os.remove(temporary)
            raise
        flush(os.path.dirname(path))

    def sizes(self, directory: str) -> dict[str, int | None]:
        try:
            with os.scandir(directory or ".") as entries:
                return {entry.name: _size(entry) for entry in entries}
        except FileNotFoundError:
            return {}

    def make(self, directory: str) -> None:
        if os.path.isdir(directory):
            return
        os.makedirs(directory, exist_ok=True)
        flush(os.path.dirname(os.path.abspath(directory)))

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def find(self, pattern: str) -> list[str]:
        found = glob.glob(pattern, recursive=True)
        return sorted(path for path in found if not os.path.isdir(path))

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)

    def remove_tree(self, directory: str) -> None:
        # Another process may remove the same directory meanwhile, or put a lock into it.
        for left in reversed(range(_REMOVALS)):
            try:
                shutil.rmtree(directory)
                return
            except OSError as error:
                if not os.path.lexists(directory):
                    return
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY) or not left:
                    raise

    @contextlib.contextmanager
    def staged(self, directory: str) -> Iterator[str]:
        self.make(directory)
        yield directory
        for name in os.listdir(directory):
            flush(os.path.join(directory, name))
        flush(directory)

    def send(self, local: str, path: str) -> None:
        with open_regular(local) as source, self.replacing(path) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def fetch(self, path: str, local: str, progress: Progress | None = None) -> None:
        self.send(path, local)

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        yield path


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return None if entry.is_dir() else entry.stat().st_size
    except FileNotFoundError:  # removed meanwhile, or a link to nothing
        return 0


def flush(path: str) -> None:
    """Flush a file or a directory's entries to the disk."""
    handle = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Mounted buckets and some network disks cannot flush a directory; they make its entries
        # durable by themselves.
        unable = error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
        if not unable or not os.path.isdir(path or "."):
            raise
    finally:
        os.close(handle)
