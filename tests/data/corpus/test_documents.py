"""Reading corpora: what a document is, parts, compression, bad input, huge lines and documents."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.documents import BadInput, Document, expand_inputs, plan_parts, read_part
from tpu_tlm.data.corpus.inputs import InputReport
from tpu_tlm.errors import TlmError, UsageError


def documents(
    path: Path, part_bytes: int = 1 << 24, bad: BadInput | None = None, **options: object
) -> list[Document]:
    inputs = expand_inputs(CorpusConfig(input_files=[str(path)], input_pattern="*"))
    return [
        found
        for part in plan_parts(inputs, part_bytes)
        for found in read_part(part, bad=bad, **options)
    ]  # type: ignore[arg-type]


def joined(found: list[Document]) -> list[bytes]:
    """Documents as one line each, their blocks and cut lines put together again."""
    whole: list[bytes] = []
    cut = False
    for block in found:
        text = b"\n".join(block.lines)
        if block.first:
            whole.append(text)
        else:
            whole[-1] += (b"" if cut or not whole[-1] or not block.lines else b"\n") + text
        cut = block.cut
    return whole


def test_empty_lines_part_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbf\n\none\ntwo\r\n  \t\nthree\n\n\nfour\r\n\r\nfive")
    found = documents(file)
    assert [block.lines for block in found] == [[b"one", b"two"], [b"three"], [b"four"], [b"five"]]
    assert all(block.first and block.last and not block.cut for block in found)


def test_the_end_of_a_file_ends_the_document(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"from {name}")
    assert [block.lines for block in documents(tmp_path)] == [[b"from a.txt"], [b"from b.txt"]]


@pytest.mark.parametrize("part_bytes", [1 << 24, 5000, 300, 64])
def test_parts_hold_every_line_once_in_order(tmp_path: Path, part_bytes: int) -> None:
    draw = random.Random(part_bytes)
    text = "".join(
        "".join(
            f"línea {draw.random()} {'x' * draw.randint(1, 200)}\n"
            for _ in range(draw.randint(1, 5))
        )
        + draw.choice(["\n", " \n\n"])
        for _ in range(100)
    )
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("short\n")
    found = documents(tmp_path, part_bytes)
    expected = [
        part.strip() for part in text.replace(" \n", "\n").split("\n\n") if part.strip()
    ] + ["short"]
    assert [b"\n".join(block.lines).decode().strip() for block in found] == expected


def test_a_document_that_nothing_ends_is_cut_between_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "".join(f"line {i} of one long document {'y' * 500}\n" for i in range(8000))
    )
    found = documents(tmp_path, 1 << 20)
    assert len(found) > 3 and found[0].first and found[-1].last
    assert not any(block.first for block in found[1:]) and not any(
        block.last for block in found[:-1]
    )
    assert [line.split()[1] for block in found for line in block.lines] == [
        str(i).encode() for i in range(8000)
    ]
    assert not any(block.cut for block in found)


@pytest.mark.parametrize("part_bytes", [1 << 24, 3 << 20])
def test_a_line_of_many_megabytes_comes_in_blocks_cut_at_white_space(
    tmp_path: Path, part_bytes: int
) -> None:
    text = " ".join(f"wörd{i}" for i in range(800_000))
    (tmp_path / "a.txt").write_text("before\n" + text + "\nafter\n\nnext\n")
    found = documents(tmp_path, part_bytes)
    assert max(sum(map(len, block.lines)) for block in found) < 3 << 20
    assert sum(block.cut for block in found) >= 8
    whole = joined(found)
    assert whole[0] == f"before\n{text}\nafter".encode() and whole[1] == b"next"
    assert [word for block in found for line in block.lines for word in line.split()] == b" ".join(
        whole
    ).split()


def test_a_huge_line_without_white_space_is_cut_between_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("中" * 1_000_000 + "\n" + "x")
    found = documents(tmp_path, 1 << 20)
    assert joined(found) == [("中" * 1_000_000 + "\nx").encode()]
    assert all(line.decode() for block in found for line in block.lines)


def test_reading_takes_constant_memory(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"word " * 8_000_000 + b"\n" + b"a line of text\n" * 200_000)
    part = plan_parts(expand_inputs(CorpusConfig(input_files=[str(tmp_path / "a.txt")])), 1 << 40)[
        0
    ]
    tracemalloc.start()
    size = sum(len(line) for block in read_part(part) for line in block.lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 42_800_000 and peak < 32 << 20


def test_the_plan_knows_files_only() -> None:
    from tpu_tlm.data.corpus.inputs import describe

    inputs = [
        describe("a.txt", 10),
        describe("b.txt", 95),
        describe("c.txt.gz", 500),
        describe("d.txt", 20),
        describe("e.txt", 30),
    ]
    parts = plan_parts(inputs, 50)
    assert [part.index for part in parts] == list(range(len(parts)))
    assert [
        [(piece.file.path, piece.start, piece.end) for piece in part.slices] for part in parts
    ] == [
        [("a.txt", 0, 10)],
        [("b.txt", 0, 47)],
        [("b.txt", 47, 95)],
        [("c.txt.gz", 0, 500)],
        [("d.txt", 0, 20), ("e.txt", 0, 30)],
    ]


def test_compressed_files_give_what_the_plain_one_gives(tmp_path: Path) -> None:
    text = "".join(f"líne {i}\n" + ("\n" if i % 7 == 0 else "") for i in range(60_000)).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "a.txt.gz").write_bytes(
        gzip.compress(text[:300_000]) + gzip.compress(text[300_000:])
    )
    (tmp_path / "a.txt.zst").write_bytes(
        zstandard.compress(text[:300_000]) + zstandard.compress(text[300_000:])
    )
    plain, gz, zst = (
        joined(documents(tmp_path / name)) for name in ("a.txt", "a.txt.gz", "a.txt.zst")
    )
    assert len(plain) > 8000 and plain == gz == zst


CHECKED = zstandard.ZstdCompressor(write_checksum=True)


@pytest.mark.parametrize(
    "name, damage", [("a.txt.gz", gzip.compress), ("a.txt.zst", CHECKED.compress)]
)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, name: str, damage: object) -> None:
    data = damage(random.Random(0).randbytes(200_000).hex().encode())  # type: ignore[operator]
    for broken in (
        data[: len(data) // 2],
        data[:5000] + b"\xff" * 5000 + data[10000:],
        b"not compressed",
    ):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(TlmError, match=f"{name}: .*make it again"):
            documents(tmp_path / name)


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "one\ntwo\n\nthree"}, {"text": "döc \ud800 2"}, {"text": ""}]
    data = "\n\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(data)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(data.encode()))
    bad = BadInput()
    found = documents(tmp_path, bad=bad)
    assert [block.lines for block in found] == 2 * [
        [b"one", b"two", b"three"],
        ["döc ? 2".encode()],
    ]
    assert all(block.first and block.last for block in found)
    assert dict(bad.counts) == {
        "half a surrogate pair, which is no character (replaced)": 2,
        "field 'text' of blank text (skipped)": 2,
    }


@pytest.mark.parametrize("part_bytes", [1 << 24, 1000])
def test_json_lines_in_parts(tmp_path: Path, part_bytes: int) -> None:
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"body": f"document {i} " + "z" * (i % 300)}) + "\n" for i in range(500))
    )
    found = documents(tmp_path, part_bytes, json_field="body")
    assert [int(block.lines[0].split()[1]) for block in found] == list(range(500))


def test_a_huge_json_document_comes_in_blocks(tmp_path: Path) -> None:
    text = " ".join(f"w{i}" for i in range(500_000)) + "\nlast line"
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": text}) + "\n" + json.dumps({"text": "small"})
    )
    found = documents(tmp_path, 1 << 20)
    assert len(found) > 3 and [(block.first, block.last) for block in found[-2:]] == [
        (False, True),
        (True, True),
    ]
    assert joined(found) == [text.encode(), b"small"]


def bad_corpus(tmp_path: Path) -> Path:
    corpus = tmp_path / "bad"
    corpus.mkdir()
    (corpus / "a.txt").write_bytes(b"good\nbad \xff\xfe here\n\nmore\n\xc3\n")
    (corpus / "b.txt").write_bytes(b"")
    (corpus / "c.jsonl").write_text('{"text": "fine"}\n{"txt": "no"}\nnot json\n{"text": 5}\n[1]\n')
    (corpus / "d.txt").write_bytes(b"\n \n")
    return corpus


def test_bad_input_is_counted_and_named(tmp_path: Path) -> None:
    corpus, bad = bad_corpus(tmp_path), BadInput()
    found = documents(corpus, bad=bad)
    assert [block.lines for block in found] == [
        [b"good", "bad \ufffd\ufffd here".encode()],
        [b"more", "\ufffd".encode()],
        [b"fine"],
    ]
    summary = "\n".join(bad.summary())
    assert f"not UTF-8 (replaced): 2 ({corpus}/a.txt:2, {corpus}/a.txt:5)" in summary
    assert f"empty file: 2 ({corpus}/b.txt, {corpus}/d.txt)" in summary
    assert f"without the field 'text' (skipped): 1 ({corpus}/c.jsonl:2)" in summary
    assert f"is an array, not an object (skipped): 1 ({corpus}/c.jsonl:5)" in summary
    assert f"not JSON (skipped): 1 ({corpus}/c.jsonl:3)" in summary
    assert f"not text (skipped): 1 ({corpus}/c.jsonl:4)" in summary


@pytest.mark.parametrize(
    "name, where",
    [("a.txt", "a.txt:2"), ("b.txt", "b.txt"), ("c.jsonl", "c.jsonl:2"), ("d.txt", "d.txt")],
)
def test_strict_refuses_the_first_bad_input(tmp_path: Path, name: str, where: str) -> None:
    with pytest.raises(UsageError, match=f"{where}: .*--strict"):
        documents(bad_corpus(tmp_path) / name, strict=True)


def test_line_numbers_hold_in_later_parts(tmp_path: Path) -> None:
    lines = [b"a line of some length\n"] * 4000
    lines[3500] = b"bad \xff\n"
    (tmp_path / "a.txt").write_bytes(b"".join(lines))
    bad = BadInput()
    documents(tmp_path / "a.txt", 10_000, bad)
    assert bad.summary() == [f"bytes that are not UTF-8 (replaced): 1 ({tmp_path}/a.txt:3501)"]


def test_counts_merge_and_keep_few_examples() -> None:
    total = BadInput()
    for part in range(4):
        tally = BadInput()
        for line in range(3):
            tally.add("odd", lambda part=part, line=line: f"f{part}:{line}", "fix it", False)  # type: ignore[misc]
        total.merge(tally)
    assert total.summary() == ["odd: 12 (f0:0, f0:1, f0:2, f1:0, f1:1, ...)"]


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("x")
    for given, message in (
        ("none.txt", "no such file"),
        ("*.txt", "no such file"),
        (".", r"matches '\*.txt'"),
    ):
        with pytest.raises(UsageError, match=message):
            expand_inputs(CorpusConfig(input_files=[str(tmp_path / given)]))


def test_files_are_listed_once_and_sorted_within_a_directory(tmp_path: Path) -> None:
    odd = tmp_path / "with [brackets]"
    odd.mkdir()
    for name in ("b.txt", "a.txt", "c.txt"):
        (odd / name).write_text(name)
    found = expand_inputs(CorpusConfig(input_files=[str(odd / "c.txt"), str(odd)]))
    assert [Path(file.path).name for file in found] == ["c.txt", "a.txt", "b.txt"]


def test_what_was_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"some text\n" * 400_000)
    told: list[int] = []
    part = plan_parts(expand_inputs(CorpusConfig(input_files=[str(tmp_path / "a.txt")])))[0]
    for _ in read_part(part, consumed=told.append):
        pass
    assert sum(told) == 4_000_000 and max(told) <= 1 << 20


@pytest.mark.parametrize("part_bytes", [1 << 24, 40])
def test_what_ends_a_document_can_be_chosen(tmp_path: Path, part_bytes: int) -> None:
    text = "one\ntwo\n\nthree\n  \nfour and some more words\n" * 20
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("last")
    words = [line.encode() for line in text.split("\n") if line.strip()]
    lines = documents(tmp_path, part_bytes, document="line")
    assert [block.lines for block in lines] == [[word] for word in [*words, b"last"]]
    assert all(block.first and block.last for block in lines)
    files = documents(tmp_path, part_bytes, document="file")
    assert joined(files) == [b"\n".join(words), b"last"]


@pytest.mark.parametrize("part_bytes", [1 << 24, 30])
def test_lone_carriage_returns_end_lines(tmp_path: Path, part_bytes: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r\rthree and\rfour\r" * 9)
    found = documents(tmp_path / "a.txt", part_bytes)
    assert joined(found) == [b"one\ntwo", *[b"three and\nfour\none\ntwo"] * 8, b"three and\nfour"]


def test_carriage_returns_and_nul_bytes_inside_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 70_000 + b"\none\rtwo\r\nn\0ul\n")
    bad = BadInput()
    found = documents(tmp_path / "a.txt", bad=bad)
    assert found[-1].lines[-2:] == [b"one\rtwo", b"nul"]
    assert len(bad.counts) == 2 and f"{tmp_path}/a.txt:2" in "".join(bad.summary())


def test_json_fields_can_be_nested(tmp_path: Path) -> None:
    rows = [{"a": {"b": {"c": "deep"}}}, {"a.b.c": "flat"}, {"a": {"b": 1}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    bad = BadInput()
    found = documents(tmp_path, bad=bad, json_field="a.b.c")
    assert [block.lines for block in found] == [[b"deep"], [b"flat"]]
    assert sum(bad.counts.values()) == 1


def test_what_json_can_write_and_a_corpus_cannot_hold_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a\\ud83d b"}\n{"text": "\\ud83d\\ude00"}\n{"text": "c\\u0000d"}\n')
    bad = BadInput()
    assert joined(documents(file, bad=bad)) == [b"a? b", "\U0001f600".encode(), b"cd"]
    assert bad.summary() == [
        f"NUL bytes (removed): 1 ({file}:3)",
        f"half a surrogate pair, which is no character (replaced): 1 ({file}:1)",
    ]
    with pytest.raises(UsageError, match="a.jsonl:1: half a surrogate"):
        documents(file, strict=True)


def test_hidden_files_are_told(tmp_path: Path) -> None:
    for name in ("a.txt", ".b.txt", ".c.txt"):
        (tmp_path / name).write_text("text\n")
    report = InputReport()
    found = expand_inputs(CorpusConfig(input_files=[str(tmp_path)]), report)
    assert [Path(file.path).name for file in found] == ["a.txt"]
    assert report.notes == [f"{tmp_path}: '*.txt' leaves out (2 hidden files) (--input_pattern)"]
