"""A file of a checkpoint that stays open: verified once, then read in ranges."""

from __future__ import annotations

import hashlib
import os
import weakref
from typing import BinaryIO

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError

_BLOCK = 4 << 20  # bytes hashed at a time


class DataFile:
    """A local file, read at offsets. It is closed when nothing refers to it any more.

    What is deleted or replaced meanwhile is still read as it was; what is changed in place is
    noticed.
    """

    def __init__(self, stream: BinaryIO, path: str) -> None:
        self.path = path
        self._handle = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._state = self._now()

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._handle)
        return found.st_size, found.st_mtime_ns

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._state[0]

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file, which is read block by block. Raises `OSError`."""
        digest, at = hashlib.sha256(), 0
        while block := os.pread(self._handle, _BLOCK, at):
            digest.update(block)
            at += len(block)
        return digest.hexdigest()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes with those from `offset` on.

        Raises `TlmError` when the file cannot be read, or was changed since it was opened.
        """
        done = 0
        with filesystem.naming(self.path):
            while done < len(buffer):
                count = os.preadv(self._handle, [buffer[done:]], offset + done)
                if count == 0:
                    break
                done += count
        if done < len(buffer) or self._now() != self._state:
            raise TlmError(f"{self.path}: was changed by another program while it was read")
