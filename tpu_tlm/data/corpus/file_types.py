"""What a file is, by its first bytes: text, compressed text, or something that is not read."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
from dataclasses import dataclass
from typing import Any

HEAD = 64 << 10  # bytes of a file that are looked at
BOM = b"\xef\xbb\xbf"
_COMPRESSIONS = {
    b"\x1f\x8b\x08": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
}
_UNPACK = "unpack it and give the text files in it"
_CONVERT = "convert it to plain text or JSON lines"
_COLUMNS = (
    "install pyarrow (extra `parquet`) and name the column with --text_column, or " + _CONVERT
)
_DECOMPRESS = "decompress it first (gzip, bzip2, xz and zstd are read as they are)"
_KNOWN: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive (or an office document)", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x1f\x9d", "compressed by compress (.Z)", _DECOMPRESS),
    (b"\x04\x22\x4d\x18", "compressed by lz4", _DECOMPRESS),
    (b"\xff\x06\x00\x00sNaPpY", "compressed by snappy", _DECOMPRESS),
    (b"\x5d\x00\x00", "compressed by lzma (.lzma, older than xz)", _DECOMPRESS),
    (b"LZIP", "compressed by lzip", _DECOMPRESS),
    (b"ARROW1\x00\x00", "an Arrow file", _COLUMNS),
    (b"%PDF-", "a PDF document", _CONVERT),
    (b"{\\rtf", "an RTF document", _CONVERT),
    (b"\xd0\xcf\x11\xe0", "an office document", _CONVERT),
    (b"SQLite format 3\x00", "an SQLite database", _CONVERT),
    (b"Obj\x01", "an Avro file", _CONVERT),
    (b"\x89HDF\r\n", "an HDF5 file", _CONVERT),
    (b"\x93NUMPY", "a NumPy array", _CONVERT),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS", "get it: git lfs pull"),
    (b"!<arch>\n", "an ar archive or a Debian package", _UNPACK),
    (b"%!PS-", "a PostScript document", _CONVERT),
    (b"bplist00", "a property list", _CONVERT),
    (b"\x7fELF", "a program", "leave it out"),
    (b"\x89PNG\r\n", "a picture", "leave it out"),
    (b"\xff\xd8\xff", "a picture", "leave it out"),
    (b"GIF8", "a picture", "leave it out"),
)
# These begin like a word could, so other bytes of theirs must show that they are no text.
_KNOWN_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", _COLUMNS),
    (b"ORC", "an ORC file", _CONVERT),
)
# How text in ISO-2022-JP, -KR and -CN, all of it ASCII bytes, changes to another set of letters.
_ISO_2022 = re.compile(rb"\x1b\$[@AB()*+]")
_EAST_ASIAN = re.compile("[ -~\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7af\uff00-\uffef]")
_UTF8 = "convert it to UTF-8, as with: iconv -f {} -t UTF-8"
# Beyond this share of undecodable characters a file is in another encoding, or no text.
_UNDECODABLE = 0.3
_CONTROLS = bytes({*range(32), 127} - {8, 9, 10, 11, 12, 13, 27})


class NotText(Exception):
    """A file is no text; the message says what it is and what to do."""


@dataclass(frozen=True)
class FileType:
    """How a text file is read.

    `compression`: "", ".gz", ".bz2", ".xz" or ".zst"; `line_end`: "\\n", or "\\r" where no other
    line end is in the first block; `container`: "", "parquet", "arrow" or
    "arrow-stream".
    """

    compression: str = ""
    line_end: str = "\n"
    container: str = ""


def file_type(head: bytes, tables: bool = False) -> FileType:
    """The type of a file that begins with these bytes (`HEAD` of them, or the whole file).

    `tables`: Parquet and Arrow files can be read. Raises `NotText` for what is not text.
    """
    compression = _compression(head)
    if compression:
        inner = _decompressed_head(head, compression)
        if inner and (second := _compression(inner)):
            raise NotText(f"is {compression[1:]} data that holds {second[1:]} data: {_DECOMPRESS}")
        try:
            return FileType(compression, _text_line_end(inner))
        except NotText as error:
            raise NotText(f"holds, inside {compression[1:]}, what {error}") from None
    if tables and head.startswith(b"ARROW1\x00\x00"):
        return FileType(container="arrow")
    if tables and head.startswith(b"\xff\xff\xff\xff") and b"\0" in head:
        return FileType(container="arrow-stream")
    if tables and head.startswith(b"PAR1") and not _looks_like_text(head):
        return FileType(container="parquet")
    return FileType("", _text_line_end(head))


def _compression(head: bytes) -> str:
    head = _behind_skippable_frames(head)
    for magic, name in _COMPRESSIONS.items():
        if head.startswith(magic) and (name != ".bz2" or head[3:4] in b"123456789"):
            if name != ".bz2" or head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
                return name
    return ""


def _behind_skippable_frames(head: bytes) -> bytes:
    """What follows zstd's frames of notes, with which pzstd and others begin a file."""
    while head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50 and len(head) > 8:
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    return head


def _decompressed_head(head: bytes, compression: str) -> bytes:
    """The beginning of what is compressed; damage is left for the reader to find and name."""
    stream: Any
    with contextlib.suppress(Exception):
        if compression == ".gz":
            stream = gzip.GzipFile(fileobj=io.BytesIO(head), mode="rb")
        elif compression == ".bz2":
            # A block of bzip2 is up to 900 kB: `head` may hold no whole one.
            return bz2.BZ2Decompressor().decompress(head, HEAD)
        elif compression == ".xz":
            return lzma.LZMADecompressor().decompress(head, HEAD)
        else:
            import zstandard

            decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
            stream = decompressor.stream_reader(io.BytesIO(head))
        found = b""
        with contextlib.suppress(Exception):
            while len(found) < HEAD and (data := stream.read(1024)):
                found += data
        return found
    return b""


def _looks_like_text(head: bytes) -> bool:
    return not head.translate(None, bytes(set(range(256)) - set(_CONTROLS)))


def _text_line_end(head: bytes) -> str:
    """The line end of a text that begins so; raises `NotText`."""
    for magic, what, fix in _KNOWN:
        if head.startswith(magic):
            raise NotText(f"is {what}, not text: {fix}")
    for magic, what, fix in _KNOWN_BINARY:
        if head.startswith(magic) and not _looks_like_text(head):
            raise NotText(f"is {what}, not text: {fix}")
    if head[257:262] == b"ustar":
        raise NotText(f"is a tar archive, not text: {_UNPACK}")
    _check_encoding(head)
    return "\r" if b"\r" in head and b"\n" not in head else "\n"


def _check_encoding(head: bytes) -> None:
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        raise NotText(f"is UTF-32 text: {_UTF8.format('UTF-32')}")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise NotText(f"is UTF-16 text: {_UTF8.format('UTF-16')}")
    if b"\0" in head:
        raise NotText(_with_nul(head))
    if _ISO_2022.search(head):
        raise NotText(f"is ISO-2022 text: {_UTF8.format('ISO-2022-JP')} (or -KR, -CN)")
    if not head.isascii():
        text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
        if text.count("\ufffd") > max(3, _UNDECODABLE * len(text)):
            raise NotText(
                "is not UTF-8 (text in another encoding, or binary data): "
                + _UTF8.format("ENCODING")
            )
        if "\ufffd" in text:
            _check_east_asian(head)
    controls = _controls(head)
    if controls > max(3, 0.1 * len(head)):
        raise NotText("is binary data (control characters), not text: leave it out")


def _with_nul(head: bytes) -> str:
    """What a file with NUL bytes is: UTF-16 and UTF-32 without a mark have them in fixed places."""
    zeros = [head[place::4].count(0) / max(1, len(head[place::4])) for place in range(4)]
    if zeros[0] < 0.1 and min(zeros[2:]) > 0.9 or zeros[3] < 0.1 and min(zeros[:2]) > 0.9:
        kind = "UTF-32LE" if zeros[0] < 0.1 else "UTF-32BE"
        return f"is UTF-32 text without a mark: {_UTF8.format(kind)}"
    even, odd = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    for low, high, kind in ((even, odd, "UTF-16LE"), (odd, even, "UTF-16BE")):
        if low < 0.02 < high and head.count(0) > 2 and _decodes(head, kind):
            return f"looks like UTF-16 text without a mark: {_UTF8.format(kind)}"
    _check_east_asian(head)
    return "is binary data (it has NUL bytes), not text: leave it out"


def _check_east_asian(head: bytes) -> None:
    """Raise `NotText` for Chinese, Japanese and Korean in UTF-16, which has few bytes of NUL.

    Two letters of ASCII are a Chinese character there, too, but one in twenty bytes of such a text
    is a control character.
    """
    if _controls(head) <= max(3, 0.01 * len(head)):
        return
    for kind in ("UTF-16LE", "UTF-16BE"):
        text = head[: len(head) // 2 * 2].decode(kind, "replace")
        if len(_EAST_ASIAN.findall(text)) > 0.9 * len(text):
            raise NotText(f"looks like UTF-16 text without a mark: {_UTF8.format(kind)}")


def _controls(head: bytes) -> int:
    return len(head) - len(head.translate(None, _CONTROLS))


def _decodes(head: bytes, encoding: str) -> bool:
    text = head[: len(head) // 2 * 2].decode(encoding, "replace")
    return sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(text)
