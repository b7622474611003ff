"""Files of a run on a local disk or in object storage, through the few operations that both can do safely."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from typing import Protocol


class Storage(Protocol):
    """What a run needs of a place for files: whole files only, and no renaming of directories (object storage has none)."""

    def read(self, path: str) -> bytes:
        """All bytes of a file; FileNotFoundError when there is none, OSError when it cannot be read."""

    def write(self, path: str, data: bytes) -> None:
        """Put a whole file in place at once and durably: a reader finds the old file or the new one, never a part."""

    def names(self, directory: str) -> list[str]:
        """Names in a directory, sorted; none when it does not exist."""

    def make(self, directory: str) -> None:
        """Create a directory and its parents."""

    def remove(self, path: str) -> None:
        """Delete a file; one that is not there is fine."""

    def remove_tree(self, directory: str) -> None:
        """Delete a directory with what it holds; one that is not there is fine."""

    def staged(self, directory: str) -> contextlib.AbstractContextManager[str]:
        """A local directory to write files into; when the block ends they lie durably in `directory`."""


class LocalStorage:
    """A local (or mounted) file system: files are flushed to the disk before anything refers to them."""

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        part = f"{path}.part"
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync(os.path.dirname(path))

    def names(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []

    def make(self, directory: str) -> None:
        os.makedirs(directory, exist_ok=True)
        _sync(os.path.dirname(os.path.abspath(directory)))

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)

    def remove_tree(self, directory: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)

    @contextlib.contextmanager
    def staged(self, directory: str) -> Iterator[str]:
        self.make(directory)
        yield directory
        for name in os.listdir(directory):
            _sync(os.path.join(directory, name))
        _sync(directory)


def _sync(path: str) -> None:
    """Flush a file or a directory's entries to the disk."""
    handle = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Mounted buckets and some network disks cannot flush a directory; they make its entries durable by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP) or not os.path.isdir(
            path or "."
        ):
            raise
    finally:
        os.close(handle)


class RemoteStorage:
    """Object storage (`gs://`) through TensorFlow's file systems: an object appears whole when its writer closes."""

    def read(self, path: str) -> bytes:
        import tensorflow as tf

        with os_errors(), tf.io.gfile.GFile(path, "rb") as file:
            return bytes(file.read())

    def write(self, path: str, data: bytes) -> None:
        import tensorflow as tf

        with os_errors(), tf.io.gfile.GFile(path, "wb") as file:
            file.write(data)

    def names(self, directory: str) -> list[str]:
        import tensorflow as tf

        with os_errors():
            try:
                # Directories are listed with a slash at their end there.
                return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(directory))
            except tf.errors.NotFoundError:
                return []

    def make(self, directory: str) -> None:
        import tensorflow as tf

        with os_errors():
            tf.io.gfile.makedirs(directory)

    def remove(self, path: str) -> None:
        import tensorflow as tf

        with os_errors(), contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.remove(path)

    def remove_tree(self, directory: str) -> None:
        import tensorflow as tf

        with os_errors(), contextlib.suppress(tf.errors.NotFoundError):
            tf.io.gfile.rmtree(directory)

    @contextlib.contextmanager
    def staged(self, directory: str) -> Iterator[str]:
        import tensorflow as tf

        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as local:
            yield local
            self.make(directory)
            with os_errors():
                for name in sorted(os.listdir(local)):
                    tf.io.gfile.copy(
                        os.path.join(local, name), posixpath.join(directory, name), overwrite=True
                    )


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """TensorFlow's file errors as Python's own, in one line."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(_first_line(error)) from None
    except tf.errors.OpError as error:
        raise OSError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (
        str(getattr(error, "message", "") or error).strip().splitlines() or [type(error).__name__]
    )[0]


def storage_of(path: str) -> Storage:
    """The storage that a path lives in: with a scheme (`gs://`) remote, else local."""
    return RemoteStorage() if "://" in path else LocalStorage()
