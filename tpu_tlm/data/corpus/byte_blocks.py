"""Bytes of a slice of a file, decompressed, in blocks that end between lines or characters."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from tpu_tlm.data.corpus.blank_lines import is_blank
from tpu_tlm.data.corpus.file_types import BOM
from tpu_tlm.data.corpus.inputs import InputFile, Slice
from tpu_tlm.errors import TlmError
from tpu_tlm.filesystem import naming, open_read

BLOCK = 1 << 20
# Bytes decompressed at a time: repetitive text can grow a thousandfold.
_ZSTD_STEP = 16 << 10


@dataclass(frozen=True)
class Cut:
    """Where a slice really begins or ends, and whether a document or a line begins there."""

    offset: int
    is_document: bool
    in_line: bool


def cut_point(data: bytes, limit: int) -> int:
    """A place in (0, limit] to cut a line that has no end: after white space, else a character."""
    space = max(data.rfind(b" ", 0, limit), data.rfind(b"\t", 0, limit))
    if space > 0:
        return space + 1
    while limit > 1 and limit < len(data) and (data[limit] & 0xC0) == 0x80:
        limit -= 1
    return limit


def _find_cut(stream: IO[bytes], file: InputFile, offset: int, document: str) -> Cut:
    """The real cut for a nominal one; the slices on both sides of it find the same."""
    if offset <= 0:
        return Cut(0, True, False)
    if offset >= file.size:
        return Cut(file.size, True, False)
    stream.seek(offset - 1)
    window = _with_line_feeds(stream.read(BLOCK + 1), file)
    if file.kind == "json":
        base = offset - 1
        while (end := window.find(b"\n")) < 0:
            base += len(window)
            window = _with_line_feeds(stream.read(BLOCK), file)
            if not window:
                return Cut(file.size, True, False)
        return Cut(base + end + 1, True, False)
    first = window.find(b"\n")
    if first < 0:
        return _cut_in_line(window, file, offset)
    if document != "blank-line":
        return Cut(offset + first, document == "line", False)
    position = first + 1
    while (end := window.find(b"\n", position)) >= 0:
        line = window[position:end]
        if is_blank(line):
            return Cut(offset - 1 + end + 1, True, False)
        position = end + 1
    # No document begins nearby: a document this long is cut between two lines.
    return Cut(offset + first, False, False)


def _with_line_feeds(data: bytes, file: InputFile) -> bytes:
    return data.replace(b"\r", b"\n") if file.line_end == "\r" else data


def _cut_in_line(window: bytes, file: InputFile, offset: int) -> Cut:
    if offset - 1 + len(window) >= file.size:
        return Cut(file.size, True, False)
    spaces = [found for found in (window.find(b" ", 1), window.find(b"\t", 1)) if found > 0]
    place = min(spaces) + 1 if spaces else 1
    while place < len(window) and (window[place] & 0xC0) == 0x80:
        place += 1
    return Cut(offset - 1 + place, False, True)


def part_range(piece: Slice, document: str = "blank-line") -> tuple[Cut, Cut]:
    """Where the slice really begins and ends; of a compressed file, 0 and -1 (the stream's end)."""
    if not piece.file.can_be_cut:
        return Cut(0, True, False), Cut(-1, True, False)
    with naming(piece.file.path), contextlib.closing(open_read(piece.file.path)) as stream:
        start = _find_cut(stream, piece.file, piece.start, document)
        return start, _find_cut(stream, piece.file, piece.end, document)


class _Counting:
    """A file that remembers how much of it was read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        return data


def _decompressed(file: InputFile, stream: Any) -> Any:
    if file.compression == ".gz":
        return gzip.GzipFile(fileobj=stream, mode="rb")
    if file.compression == ".bz2":
        return _Streams(stream, bz2.BZ2Decompressor)
    if file.compression == ".xz":
        return _Streams(stream, lzma.LZMADecompressor)
    return _ZstdFrames(stream)


class _Streams:
    """Reads a .bz2 or .xz file of any number of streams, between which zeros may stand.

    Unlike the library's own readers it raises `OSError` for anything else behind a stream.
    """

    def __init__(self, stream: _Counting, kind: Callable[[], Any]) -> None:
        self._stream, self._kind = stream, kind
        self._decompressor = kind()
        self._first = True

    def read(self, size: int) -> bytes:
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data.lstrip(b"\0")
                while not data:
                    data = self._stream.read(BLOCK)
                    if not data:
                        return b""
                    data = data.lstrip(b"\0")
                self._decompressor, self._first = self._kind(), False
            elif self._decompressor.needs_input:
                data = self._stream.read(BLOCK)
                if not data:
                    raise EOFError("the last stream has no end")
            try:
                found: bytes = self._decompressor.decompress(data, size)
            except (OSError, lzma.LZMAError) as error:
                behind = "" if self._first else " (in what stands behind the first stream)"
                raise OSError(f"{error}{behind}") from None
            if found:
                return found


class _ZstdFrames:
    """Reads a .zst file of any number of frames.

    Unlike the library's own reader it raises `EOFError` when the last frame is cut off.
    """

    def __init__(self, stream: _Counting) -> None:
        import zstandard

        # Files made with --long=31 need a window of 2 GiB; others take no more memory for the
        # permission.
        self._library = zstandard.ZstdDecompressor(max_window_size=2**31)
        self._stream = stream
        self._frame: Any = None
        self._ready = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._ready) < size and (data := self._stream.read(_ZSTD_STEP)):
            while data:
                self._frame = self._frame or self._library.decompressobj()
                self._ready += self._frame.decompress(data)
                data = self._frame.unused_data if self._frame.eof else b""
                if self._frame.eof:
                    self._frame = None
        if not self._ready and self._frame:
            raise EOFError("the last frame has no end")
        taken = bytes(self._ready[:size])
        del self._ready[:size]
        return taken


@contextlib.contextmanager
def _naming_damage(file: InputFile) -> Iterator[None]:
    """Name the file when its compressed stream is damaged."""
    try:
        yield
    except Exception as error:
        damaged = isinstance(error, EOFError | zlib.error | lzma.LZMAError | OSError)
        # bz2 and gzip report damage as an `OSError` without a number, unlike the file system.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not damaged and type(error).__name__ != "ZstdError":
            raise
        raise TlmError(
            f"{file.path}: damaged or cut off: {error}: make it again or leave it out"
        ) from None


def raw_blocks(
    piece: Slice, start: Cut, end: Cut, consumed: Callable[[int], None]
) -> Iterator[tuple[bytes, bool]]:
    """Blocks of about `BLOCK` bytes from one cut to another, and whether each ends with a line end.

    Every line end is a line feed (before it, a carriage return may stand); one is added to the end
    of a file that has none. A line longer than a block is cut at white space, else between two
    characters. A byte-order mark at the start of the file is dropped. `consumed` is called with the
    number of bytes read since the call before. Raises `TlmError` for a damaged compressed file.
    """
    file = piece.file
    left = end.offset - start.offset if file.can_be_cut else None
    if left is not None and left <= 0:
        return
    with naming(file.path), contextlib.closing(open_read(file.path)) as opened:
        if start.offset:
            opened.seek(start.offset)
        raw = _Counting(opened)
        stream = _decompressed(file, raw) if file.compression else raw
        held = b""
        reported, at_start = 0, start.offset == 0
        while left is None or left > 0:
            with _naming_damage(file):
                data = stream.read(BLOCK if left is None else min(BLOCK, left))
            consumed(raw.count - reported)
            reported = raw.count
            if not data:
                if left:
                    raise TlmError(
                        f"{file.path}: became shorter while it was read: "
                        "run again when it is complete"
                    )
                break
            if left is not None:
                left -= len(data)
            if at_start:
                data, at_start = data.removeprefix(BOM), False
            data = held + _with_line_feeds(data, file)
            place = data.rfind(b"\n") + 1
            if not place and len(data) >= BLOCK:
                place = cut_point(data, len(data) - 1)
            block, held = data[:place], data[place:]
            if block:
                yield block, block.endswith(b"\n")
        if held:
            yield (held, False) if end.in_line else (held + b"\n", True)
