"""Labelled files: every format gives the same rows; what cannot be read names file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tpu_tlm.config.finetune import TaskDataConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.labels import _natural, check_known, counts, held_out, label_set
from tpu_tlm.tasks.read import Row, read_rows

COLUMNS = TaskDataConfig()
ROWS = [("a fine day", "pos"), ('he said "no", twice', "neg"), ("naïve œuvre", "pos")]


def write(path: Path, text: str) -> str:
    path.write_bytes(text.encode())
    return str(path)


def parquet(path: Path) -> str:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    table = pa.table({"label": [r[1] for r in ROWS], "text": [r[0] for r in ROWS]})
    writer.write_table(table, path)
    return str(path)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_formats_give_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    if kind == "parquet":
        name = parquet(path)
    elif kind == "jsonl":
        name = write(path, "".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in ROWS))
    elif kind == "csv":
        quoted = [(t.replace('"', '""'), y) for t, y in ROWS]
        name = write(path, "label,text\r\n" + "".join(f'{y},"{t}"\r\n' for t, y in quoted))
    else:
        name = write(path, "\ufeffid\ttext\tlabel\n" + "".join(f"1\t{t}\t{y}\n" for t, y in ROWS))
    rows = read_rows(name, "classify", COLUMNS)
    assert [(row.text, row.label) for row in rows] == ROWS
    assert rows[0].line == (1 if kind in ("jsonl", "parquet") else 2)


def test_columns_by_number_without_a_header(tmp_path: Path) -> None:
    name = write(tmp_path / "x.tsv", "pos\ta day\nneg\ta night\n")
    columns = TaskDataConfig(text="1", label="0", header=False)
    assert [r.label for r in read_rows(name, "classify", columns)] == ["pos", "neg"]


def test_a_quoted_line_break_keeps_line_numbers(tmp_path: Path) -> None:
    name = write(tmp_path / "x.csv", 'text,label\n"two\nlines",a\nnext,b\n')
    rows = read_rows(name, "classify", COLUMNS)
    assert [(r.text, r.line) for r in rows] == [("two\nlines", 2), ("next", 4)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "text,label\na,b,c\n", "x.csv:2.*3 columns"),
        ("x.csv", "text,mark\na,b\n", "'label'.*'mark'.*--label"),
        ("x.csv", "text,label\n ,b\n", "x.csv:2.*'text' is empty"),
        ("x.csv", "text,label\na,\n", "x.csv:2.*no label"),
        ("x.csv", 'text,label\n"a,b\n', "x.csv:2"),
        ("x.csv", "text,text\na,b\n", "same name"),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "x.jsonl:2.*not JSON"),
        ("x.jsonl", "[1]\n", "x.jsonl:1.*object"),
        ("x.jsonl", '{"text": 3, "label": 1}\n', "x.jsonl:1.*no text"),
        ("x.csv", "text,label\n", "no examples"),
        ("x.xls", "a", "tsv, .csv"),
    ],
)
def test_bad_files_name_the_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_rows(write(tmp_path / name, text), "classify", COLUMNS)


def test_bytes_that_are_not_utf8_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"text,label\na,b\n\xff,b\n")
    with pytest.raises(UsageError, match="x.csv:3.*UTF-8"):
        read_rows(str(path), "classify", COLUMNS)


@pytest.mark.parametrize("value", ["five", "nan", "inf", ""])
def test_a_label_of_regression_is_a_finite_number(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="x.csv:2.*number"):
        read_rows(write(tmp_path / "x.csv", f"text,label\na,{value}\n"), "regress", COLUMNS)


def test_multilabel_takes_lists_and_separators(tmp_path: Path) -> None:
    name = write(tmp_path / "x.jsonl", '{"text":"a","label":["x","y"]}\n{"text":"b","label":""}\n')
    assert [r.label for r in read_rows(name, "multilabel", COLUMNS)] == [["x", "y"], []]
    name = write(tmp_path / "x.tsv", "text\tlabel\na\tx, y\n")
    assert read_rows(name, "multilabel", COLUMNS)[0].label == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", 'text,label\na,"[""x"", ""y""]"\nb,[]\nc,[0]\n'),
        ("x.tsv", 'text\tlabel\na\t["x", "y"]\nb\t\nc\t0\n'),
        (
            "x.jsonl",
            '{"text":"a","label":["x","y"]}\n{"text":"b","label":null}\n{"text":"c","label":0}\n',
        ),
    ],
)
def test_multilabel_of_every_format(tmp_path: Path, name: str, text: str) -> None:
    rows = read_rows(write(tmp_path / name, text), "multilabel", COLUMNS)
    assert [row.label for row in rows] == [["x", "y"], [], ["0"]]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", 'text,label\na,"[""x"", y]"\n', "x.csv:2.*'label'.*not JSON"),
        ("x.jsonl", '{"text":"a","label":["x",null]}\n', "x.jsonl:1.*no list of labels"),
        ("x.jsonl", '{"text":"a","label":{"x":1}}\n', "x.jsonl:1.*no list of labels"),
    ],
)
def test_what_is_no_list_of_labels(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_rows(write(tmp_path / name, text), "multilabel", COLUMNS)


@pytest.mark.parametrize("column", ["text", "label"])
@pytest.mark.parametrize("value", [None, ["x"], ""])
def test_words_and_tags_of_json_are_text(tmp_path: Path, column: str, value: object) -> None:
    row = {"text": ["a", "b"], "label": ["X", "Y"]} | {column: ["a", value]}
    with pytest.raises(UsageError, match=f"x.jsonl:1: entry 2 of '{column}'"):
        read_rows(write(tmp_path / "x.jsonl", json.dumps(row)), "tag", COLUMNS)


def test_conll_columns(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O\n\nParis NNP B-LOC\nis VBZ O\n\nJohn NNP B-PER\n"
    rows = read_rows(write(tmp_path / "x.conll", text), "tag", COLUMNS)
    assert rows == [
        Row(["Paris", "is"], None, ["B-LOC", "O"], 3, (3, 4)),
        Row(["John"], None, ["B-PER"], 6, (6,)),
    ]
    columns = TaskDataConfig(text="0", label="1")
    assert read_rows(str(tmp_path / "x.conll"), "tag", columns)[0].label == ["NNP", "VBZ"]


def test_a_word_without_a_tag_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="x.conll:2.*1 columns"):
        read_rows(write(tmp_path / "x.conll", "Paris B-LOC\nis\n"), "tag", COLUMNS)


def test_labels_have_a_stable_order_and_numbers_by_value() -> None:
    rows = [Row("t", None, label, i) for i, label in enumerate(["10", "2", "b", "a", "2"])]
    labels = label_set("classify", rows, "f")
    assert labels == ["2", "10", "a", "b"]
    assert counts("classify", rows, labels).tolist() == [2, 1, 1, 1]
    with pytest.raises(UsageError, match="fewer than two"):
        label_set("classify", rows[:1], "f")


def test_labels_that_are_no_numbers_to_compare_come_last() -> None:
    # As a number nan made the order depend on that of a set, and so on the hash seed.
    for order in (["nan", "2", "1", "-inf"], ["2", "-inf", "nan", "1"], ["1", "nan", "-inf", "2"]):
        assert sorted(order, key=_natural) == ["1", "2", "-inf", "nan"]


def test_unknown_labels_are_named_with_their_lines() -> None:
    rows = [Row("t", None, label, line) for line, label in ((4, "a"), (7, "new"), (9, "new"))]
    with pytest.raises(UsageError, match=r"valid.tsv.*'new' \(lines 7, 9\)"):
        check_known("classify", rows, ["a", "b"], "valid.tsv")


def test_a_held_out_share_is_stratified_and_shares_no_text() -> None:
    rows = [Row(f"t{i % 90}", None, "ab"[i % 10 == 0], i) for i in range(100)]
    train, valid = held_out("classify", rows, 0.2, 0)
    assert len(train) + len(valid) == 100
    assert {r.text for r in train}.isdisjoint(r.text for r in valid)
    assert 1 <= sum(r.label == "b" for r in valid) <= 3
    assert held_out("classify", rows, 0.2, 0)[1] == valid != held_out("classify", rows, 0.2, 1)[1]
