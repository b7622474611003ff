"""Other schemes that TensorFlow knows (hdfs://, s3://, ram://), through tf.io.gfile."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from tpu_tlm.filesystem.base import FileSystem, Progress
from tpu_tlm.filesystem.errors import StoreError


def _gfile() -> Any:
    # TensorFlow takes seconds and half a gigabyte: only paths that need it pay for it.
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def translating() -> Iterator[None]:
    """Raise TensorFlow's file errors as Python's own."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow"):
            raise
        raise as_os_error(error) from None


# The local disk's own words at the end of TensorFlow's, whose kinds are fewer.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EMFILE)


def as_os_error(error: Exception) -> OSError:
    """An error of TensorFlow about a file as Python's own."""
    if type(error).__name__ == "NotFoundError":
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    denied = type(error).__name__ == "PermissionDeniedError"
    text = " ".join(str(getattr(error, "message", "") or error).split())
    for number in _LOCAL:
        if os.strerror(number) in text:
            return OSError(number, os.strerror(number))
    return StoreError(errno.EACCES if denied else errno.EIO, text[:300] or type(error).__name__)


class TensorFlowFiles(FileSystem):
    """No versions and no atomic creation: one process at a time may write."""

    def read(self, path: str) -> bytes:
        with translating(), _gfile().GFile(path, "rb") as file:
            return bytes(file.read())

    def open(self, path: str) -> BinaryIO:
        with translating():
            stream = _gfile().GFile(path, "rb")
            stream.size()  # it is opened lazily: find a missing file here
            return cast(BinaryIO, stream)

    def write(self, path: str, data: bytes, version: int | None = None) -> int | None:
        with self.replacing(path) as file:
            file.write(data)
        return None

    def version(self, path: str) -> int | None:
        return None

    @contextlib.contextmanager
    def replacing(self, path: str) -> Iterator[BinaryIO]:
        with translating(), _gfile().GFile(path, "wb") as stream:
            yield cast(BinaryIO, stream)

    def sizes(self, directory: str) -> dict[str, int | None]:
        with translating():
            gfile = _gfile()
            if not gfile.isdir(directory):
                return {}
            # Directories are listed with a slash at their end by some.
            names = [name.rstrip("/") for name in gfile.listdir(directory)]
            paths = {name: posixpath.join(directory, name) for name in names}
            return {
                name: None if gfile.isdir(path) else int(gfile.stat(path).length)
                for name, path in paths.items()
            }

    def make(self, directory: str) -> None:
        with translating():
            _gfile().makedirs(directory)

    def is_directory(self, path: str) -> bool:
        with translating():
            return bool(_gfile().isdir(path))

    def exists(self, path: str) -> bool:
        with translating():
            return bool(_gfile().exists(path))

    def size(self, path: str) -> int:
        with translating():
            return int(_gfile().stat(path).length)

    def find(self, pattern: str) -> list[str]:
        with translating():
            gfile = _gfile()
            return sorted(path for path in gfile.glob(pattern) if not gfile.isdir(path))

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), translating():
            _gfile().remove(path)

    def remove_tree(self, directory: str) -> None:
        with contextlib.suppress(FileNotFoundError), translating():
            _gfile().rmtree(directory)

    def send(self, local: str, path: str) -> None:
        with translating():
            _gfile().copy(local, path, overwrite=True)

    def fetch(self, path: str, local: str, progress: Progress | None = None) -> None:
        with translating():
            _gfile().copy(path, local, overwrite=True)

    @contextlib.contextmanager
    def staged(self, directory: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as local:
            yield local
            self.make(directory)
            self.upload(local, directory)

    @contextlib.contextmanager
    def local_copy(self, path: str) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as place:
            local = os.path.join(place, posixpath.basename(path.rstrip("/")) or "root")
            if self.is_directory(path):
                self.download(path, local)
            else:
                self.fetch(path, local)
            yield local
