"""What every file system offers: whole files, listings, and no renaming of directories."""

from __future__ import annotations

import abc
import contextlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import BinaryIO

from tpu_tlm.filesystem.inside import safe_join

WORKERS = 8  # files copied at a time; requests keeps ten connections to a host
Progress = Callable[[int, int], None]  # (bytes done, bytes in all)


class FileSystem(abc.ABC):
    """Operations that a local disk and object storage both do safely.

    Paths are strings, with their scheme where they have one. Failures are raised as `OSError`s:
    `FileNotFoundError`, `PermissionError`, `FileExistsError`, or `StoreError` with the cause.
    """

    @abc.abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of a file."""

    @abc.abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open for reading bytes: `read(n)`, `seek`, `close`; a missing file is found here."""

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """`size` bytes of a file from `start` on; fewer where it ends before."""
        with contextlib.closing(self.open(path)) as stream:
            stream.seek(start)
            return stream.read(size)

    def open_local(self, path: str, progress: Progress | None = None) -> BinaryIO:
        """Open for reading a file of the local disk: the file itself, or a download without a name.

        The result has a file descriptor (`fileno`). progress: called while a file is downloaded.
        """
        handle, local = tempfile.mkstemp(prefix="tpu_tlm_")
        os.close(handle)
        try:
            self.fetch(path, local, progress)
            return open(local, "rb")
        finally:
            os.remove(local)

    @abc.abstractmethod
    def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
        """Replace a whole file, durably: a reader sees the old file or the new one, never a part.

        version: what `version(path)` was; where the file system knows versions and another process
        wrote the file since, `FileExistsError` is raised. Returns the new version.
        """

    @abc.abstractmethod
    def version(self, path: str) -> int | None:
        """Version of a file, 0 where there is none; None on file systems without versions."""

    @abc.abstractmethod
    def replacing(self, path: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A stream to write a large file to, which takes its name when the block ends well."""

    @abc.abstractmethod
    def sizes(self, directory: str) -> dict[str, int | None]:
        """Name -> bytes of what is in a directory, None for directories; empty if it is missing."""

    @abc.abstractmethod
    def make(self, directory: str) -> None:
        """Create a directory and its parents; one that exists is fine."""

    @abc.abstractmethod
    def is_directory(self, path: str) -> bool:
        """Whether the path is a directory (object storage: a prefix with objects under it)."""

    @abc.abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of that name."""

    @abc.abstractmethod
    def size(self, path: str) -> int:
        """Bytes in a file."""

    @abc.abstractmethod
    def find(self, pattern: str) -> list[str]:
        """Files that a glob matches, sorted; `**` crosses directories."""

    @abc.abstractmethod
    def remove(self, path: str) -> None:
        """Delete a file; one that is missing is fine."""

    @abc.abstractmethod
    def remove_tree(self, directory: str) -> None:
        """Delete a directory and what it holds; one that is missing is fine."""

    @abc.abstractmethod
    def staged(self, directory: str) -> contextlib.AbstractContextManager[str]:
        """A local directory to write files into; they are durable in `directory` when it ends.

        The directory must be new: object storage refuses to replace a file of another process.
        """

    @abc.abstractmethod
    def local_copy(self, path: str) -> contextlib.AbstractContextManager[str]:
        """A local path with the content of a file or directory, for code that needs one."""

    def names(self, directory: str) -> list[str]:
        """Names of what is in a directory, sorted; none where it is missing."""
        return sorted(self.sizes(directory))

    def tree(self, directory: str) -> dict[str, int]:
        """Relative path -> bytes of every file below a directory."""
        found: dict[str, int] = {}
        for name, size in sorted(self.sizes(directory).items()):
            if size is not None:
                found[name] = size
                continue
            below = self.tree(f"{directory.rstrip('/')}/{name}")
            found |= {f"{name}/{inside}": bytes_ for inside, bytes_ in below.items()}
        return found

    @abc.abstractmethod
    def send(self, local: str, path: str) -> None:
        """Copy a local file to a new file here."""

    @abc.abstractmethod
    def fetch(self, path: str, local: str, progress: Progress | None = None) -> None:
        """Copy a file from here to a local file; a large one may come in several pieces at a time.

        progress: called with (bytes done, bytes in all).
        """

    def upload(self, local: str, directory: str, progress: Progress | None = None) -> list[str]:
        """Copy every file below a local directory, several at a time; returns relative paths."""
        sizes = {
            os.path.relpath(os.path.join(place, name), local).replace(os.sep, "/"): os.path.getsize(
                os.path.join(place, name)
            )
            for place, _, names in os.walk(local)
            for name in names
        }
        for place in sorted({os.path.dirname(name) for name in sizes}):
            self.make(f"{directory.rstrip('/')}/{place}".rstrip("/"))

        def one(name: str) -> None:
            self.send(os.path.join(local, name), f"{directory.rstrip('/')}/{name}")

        return _in_parallel(one, sizes, progress)

    def download(self, directory: str, local: str, progress: Progress | None = None) -> list[str]:
        """Copy every file below a directory to a local one; returns relative paths.

        Raises `UsageError` for a name that leads out of the local directory.
        """
        sizes = self.tree(directory)
        targets = {}
        for name in sizes:
            target = local
            for part in name.split("/"):
                target = safe_join(target, part, directory)
            targets[name] = target
        for place in sorted({os.path.dirname(target) for target in targets.values()}):
            os.makedirs(place, exist_ok=True)
        base = directory.rstrip("/")
        return _in_parallel(
            lambda name: self.fetch(f"{base}/{name}", targets[name]), sizes, progress
        )


def _in_parallel(
    one: Callable[[str], None], sizes: dict[str, int], progress: Progress | None
) -> list[str]:
    """Call `one` for every name, largest files first; `progress` hears of each that is done."""
    total, done = sum(sizes.values()), 0
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting = {
            pool.submit(one, name): name
            for name in sorted(sizes, key=lambda name: sizes[name], reverse=True)
        }
        try:
            for finished in as_completed(waiting):
                finished.result()
                done += sizes[waiting[finished]]
                if progress is not None:
                    progress(done, total)
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
    return sorted(sizes)
