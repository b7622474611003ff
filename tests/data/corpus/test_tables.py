"""Documents in columns of tables: CSV, TSV, Parquet, Arrow."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.documents import read_part
from tpu_tlm.data.corpus.inputs import about_columns, expand_inputs, plan_parts
from tpu_tlm.errors import TlmError, UsageError

TEXTS = ["one, two", 'say "three"\nfour', "", "fünf"]
LINES = [[b"one, two"], [b'say "three"', b"four"], ["fünf".encode()]]


def read(path: Path, column: str | None = "body", bad: BadInput | None = None) -> list[list[bytes]]:
    inputs = expand_inputs(CorpusConfig(input_files=[str(path)], text_column=column))
    parts = plan_parts(inputs, 10)
    found = [block for part in parts for block in read_part(part, bad=bad, text_column=column)]
    assert all(block.first and block.last for block in found)
    return [block.lines for block in found]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    rows = "".join(
        f'{i}{delimiter}"{text.replace(chr(34), chr(34) * 2)}"\r\n' for i, text in enumerate(TEXTS)
    )
    path = tmp_path / "a.csv"
    path.write_text(f"id{delimiter}body\r\n{rows}", newline="")
    assert read(path) == LINES and read(path, "2") == [[b"body"], *LINES]
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read(tmp_path / "a.csv.gz") == LINES
    with pytest.raises(UsageError, match=r"a\.csv:1: --text_column nope.*id, body"):
        read(path, "nope")


def test_tsv_and_short_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\tbody\n1\tan "odd\n2\n3\tline\n')
    bad = BadInput()
    assert read(tmp_path / "a.tsv", bad=bad) == [[b'an "odd'], [b"line"]]
    assert bad.summary() == [f"row without column body (skipped): 1 ({tmp_path}/a.tsv:3)"]


def test_a_quote_without_an_end_and_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,body\n1,"two\nlines"\n2,"open\n3,x\n4,y\n')
    with pytest.raises(UsageError, match=r"a\.csv:4: is not CSV: a quoted field .* has no end"):
        read(path)
    path.write_text("body,body\n1,2\n")
    with pytest.raises(UsageError, match=r"a\.csv:1: --text_column body: .* names 2 such"):
        read(path)


def test_columns_that_nobody_reads_are_noted(tmp_path: Path) -> None:
    def notes(name: str, column: str | None, pairs: bool = False) -> list[str]:
        (tmp_path / name).write_text("body,id\nx,1\n")
        given = CorpusConfig(input_files=[str(tmp_path / name)], text_column=column)
        return list(about_columns(expand_inputs(given), given, pairs))

    assert "1 tables are read as plain text" in notes("a.csv", None)[0]
    assert "--text_column body: not used" in notes("a.txt", "body")[0]
    given = CorpusConfig(input_files=[str(tmp_path / "a.txt")], json_field="body")
    assert list(about_columns(expand_inputs(given), given)) == [
        "--json_field body: not used: no JSON lines are among the files"
    ]
    assert notes("a.csv", "body") == notes("a.txt", None) == notes("a.tsv", None, True) == []


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow"])
def test_parquet_and_arrow(tmp_path: Path, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    nested = [{"de": text} for text in TEXTS]
    table = pyarrow.table({"id": range(4), "body": TEXTS, "in": nested, "text": [*TEXTS[:3], None]})
    path = tmp_path / name
    if name == "a.parquet":
        parquet.write_table(table, path, row_group_size=2)
    else:
        new = pyarrow.ipc.new_file if name == "a.arrow" else pyarrow.ipc.new_stream
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    assert read(path) == LINES and read(path, "in.de") == LINES
    bad = BadInput()
    assert read(path, None, bad) == LINES[:2]
    assert bad.summary() == [
        f"field 'text' of blank text (skipped): 1 ({path}, row 3)",
        f"field 'text' that is not text (skipped): 1 ({path}, row 4)",
    ]
    with pytest.raises(UsageError, match="no column 'nope'.*id, body"):
        read(path, "nope")
    path.write_bytes(path.read_bytes()[:-40])
    if name != "stream.arrow":
        with pytest.raises(TlmError, match=f"{name}: damaged"):
            read(path)


def test_without_pyarrow_tables_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.txt").write_bytes(b"PAR1\x15\x04\x15\x00PAR1")
    with pytest.raises(UsageError, match=r"a\.txt: is a Parquet file.*pyarrow"):
        read(tmp_path / "a.txt")
