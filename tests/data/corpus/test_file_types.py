"""What a file is, by its first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from tpu_tlm.data.corpus.byte_blocks import part_range, raw_blocks
from tpu_tlm.data.corpus.file_types import HEAD, NotText, file_type
from tpu_tlm.data.corpus.inputs import InputFile, Slice
from tpu_tlm.errors import TlmError

TEXT = ("Plain text, déjà vu, 東京. " * 60 + "\n").encode() * 4
RUSSIAN = "Съешь ещё этих мягких французских булок.\n" * 50


def tar(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", data)
    return stream.getvalue()


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_text(suffix: str) -> None:
    assert file_type(PACKERS[suffix](TEXT)).compression == suffix
    assert file_type(PACKERS[suffix](b"a\rb\r")).line_end == "\r"
    assert file_type(PACKERS[suffix](b"")).compression == suffix
    long = bytes(random.Random(0).choices(b"abcdefgh \n", k=3_000_000))
    assert file_type(PACKERS[suffix](long)[:HEAD]).compression == suffix
    for inner in (tar(TEXT), zipped(TEXT), "\ufeff".join(RUSSIAN).encode("utf-16")):
        with pytest.raises(NotText, match=f"inside {suffix[1:]}"):
            file_type(PACKERS[suffix](inner))
    with pytest.raises(NotText, match="holds gz data"):
        file_type(PACKERS[suffix](gzip.compress(TEXT)))


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_what_stands_behind_a_compressed_stream(suffix: str, tmp_path: Path) -> None:
    path, one = tmp_path / "a.txt", PACKERS[suffix](b"one\n")

    def read(data: bytes) -> bytes:
        path.write_bytes(data)
        piece = Slice(InputFile(str(path), len(data), "text", suffix), 0, len(data))
        blocks = raw_blocks(piece, *part_range(piece), lambda count: None)
        return b"".join(block for block, _ in blocks)

    assert read(one + bytes(8) + PACKERS[suffix](b"") + one) == b"one\none\n"
    for end in (b"junk and more of it", gzip.compress(b"two\n")):
        with pytest.raises(TlmError, match="a.txt: damaged.*behind the first stream"):
            read(one + end)
    for length in range(len(one) + 1, 2 * len(one)):
        with pytest.raises(TlmError, match="a.txt: damaged"):
            read((one + one)[:length])


@pytest.mark.parametrize("note", [b"", b"abcd", b"x" * 1000])
def test_zstd_behind_notes(note: bytes) -> None:
    frame = b"\x5a\x2a\x4d\x18" + len(note).to_bytes(4, "little") + note
    assert file_type(frame * 2 + zstandard.compress(TEXT)).compression == ".zst"
    with pytest.raises(NotText, match="holds gz data"):
        file_type(frame + zstandard.compress(gzip.compress(TEXT)))
    with pytest.raises(NotText, match="binary"):
        file_type(frame)


def test_old_lzma_is_named() -> None:
    with pytest.raises(NotText, match="compressed by lzma"):
        file_type(lzma.compress(TEXT, format=lzma.FORMAT_ALONE))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (tar(TEXT), "tar"),
        (zipped(TEXT), "zip"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "7z"),
        (b"Rar!\x1a\x07\x01\x00", "RAR"),
        (b"PAR1\x15\x00", "Parquet"),
        (b"ARROW1\x00\x00\xff\xff", "Arrow"),
        (b"ORC\x08\x03\x10\x00", "ORC"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "PDF"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (b"{\\rtf1\\ansi text}", "RTF"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS"),
        (b"!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n", "ar arch"),
        (b"%!PS-Adobe-3.0\n", "PostScript"),
        (b"bplist00\xd1\x01\x02", "property list"),
        ("東京都は日本の首都です。\n".encode("iso-2022-jp") * 20, "ISO-2022"),
        (b"text\x00with a NUL", "binary"),
        (bytes(4096), "binary"),
        (bytes(range(1, 32)) * 9, "binary"),
        (random.Random(0).randbytes(9000).replace(b"\0", b"\1"), "not UTF-8"),
        (RUSSIAN.encode("koi8-r"), "not UTF-8"),
        ("東京都は日本の首都です。\n".encode("shift-jis") * 20, "not UTF-8"),
        (TEXT.decode().encode("utf-16"), "UTF-16 text"),
        (TEXT.decode().encode("utf-32"), "UTF-32 text"),
        (b"some plain text\n".decode().encode("utf-16-le") * 9, "UTF-16 text without a mark"),
        (b"some plain text\n".decode().encode("utf-16-be") * 9, "UTF-16 text without a mark"),
        ("这是没有换行的一段文字，".encode("utf-16-le") * 9, "UTF-16 text .*UTF-16LE"),
        ("中文的文字没有换行。".encode("utf-16-be") * 9, "UTF-16 text .*UTF-16BE"),
        ("새로운 글자를 쓴다. ".encode("utf-16-be") * 9, "UTF-16 text .*UTF-16BE"),
        (RUSSIAN.encode("utf-16-le"), "UTF-16 text without a mark: .*UTF-16LE"),
        (RUSSIAN.encode("utf-32-be"), "UTF-32 text without a mark: .*UTF-32BE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_text(data: bytes, what: str) -> None:
    with pytest.raises(NotText, match=what):
        file_type(data[:HEAD])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        TEXT,
        TEXT[: HEAD - 1],
        "\ufeff".encode() + TEXT,
        b"ORCHESTRA and PAR1 are words",
        b"PAR1 is a word",
        b"BZhere we are",
        b"\x1b[31mred\x1b[0m\ttab\x0cpage\n" * 9,
        "Une page en français, enregistrée en latin-1 : déjà vu.\n".encode("latin-1") * 9,
        b"abc \xff def\n",
    ],
    ids=range(11),
)
def test_what_is_text(data: bytes) -> None:
    found = file_type(data)
    assert (found.compression, found.line_end, found.container) == ("", "\n", "")


def test_line_ends() -> None:
    assert file_type(b"one\rtwo\r").line_end == "\r"
    assert file_type(b"one\r\ntwo\r\n").line_end == "\n"
    assert file_type(b"one\rtwo\n").line_end == "\n"
