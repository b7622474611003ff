"""Tagged columns: no word is lost, none is made up, and what cannot be read names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tpu_tlm.config.finetune import TaskDataConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.labels import check_known
from tpu_tlm.tasks.read import Row, read_rows


def read(directory: Path, lines: str, name: str = "x.conll", **columns: str) -> list[Row]:
    path = directory / name
    path.write_bytes(lines.encode())
    return read_rows(str(path), "tag", TaskDataConfig(**columns))


def uni(*rows: str) -> str:
    """CoNLL-U lines of `ID FORM UPOS`, in its ten columns."""
    lines = []
    for row in rows:
        if row.startswith("#") or not row:
            lines.append(row)
            continue
        number, form, tag = row.split("|")
        lines.append(f"{number}\t{form}\tlemma\t{tag}\tX{tag}\t_\t0\tdep\t_\t_")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("between", ["\t", " "])
def test_a_hash_tag_that_begins_a_sentence_is_a_word(tmp_path: Path, between: str) -> None:
    lines = ["#fun O", "day O", "", "# O", "x B-X", "", "#a=b O", "y O"]
    rows = read(tmp_path, "\n".join(line.replace(" ", between) for line in lines))
    assert [row.text for row in rows] == [["#fun", "day"], ["#", "x"], ["#a=b", "y"]]
    assert rows[0].label == ["O", "O"]


@pytest.mark.parametrize(
    "comment", ["# sent_id = 3", "#newdoc", "# id 52-a3\tdomain=train", "# some words", "#"]
)
def test_comments_are_no_words(tmp_path: Path, comment: str) -> None:
    (row,) = read(tmp_path, f"{comment}\nParis\tB-LOC\nis\tO\n")
    assert row.text == ["Paris", "is"] and row.lines == (2, 3)
    (row,) = read(tmp_path, uni(comment, "1|Paris|PROPN", "2|is|AUX"), "x.conllu")
    assert row.text == ["Paris", "is"]


def test_ranges_and_empty_nodes_of_conllu_are_no_words(tmp_path: Path) -> None:
    text = uni("# text = au", "1-2|au|_", "1|à|ADP", "2|le|DET", "2.1|x|VERB", "3|10 000|NUM")
    (row,) = read(tmp_path, text)
    assert row.text == ["à", "le", "10 000"] and row.label == ["ADP", "DET", "NUM"]
    assert row.lines == (3, 4, 6)


def test_conllu_has_column_names(tmp_path: Path) -> None:
    text = uni("1|Paris|PROPN")
    (row,) = read(tmp_path, text, text="lemma", label="XPOS")
    assert row.text == ["lemma"] and row.label == ["XPROPN"]
    (row,) = read(tmp_path, text, text="1", label="-3")
    assert row.label == ["dep"]
    with pytest.raises(UsageError, match="--label ner.*FORM"):
        read(tmp_path, text, label="ner")


def test_other_columns_have_numbers_only(tmp_path: Path) -> None:
    for given, flag in (({"text": "FORM"}, "--text FORM"), ({"label": "ner"}, "--label ner")):
        with pytest.raises(UsageError, match=f"{flag}.*give a number"):
            read(tmp_path, "Paris B-LOC\n", **given)
    with pytest.raises(UsageError, match=r"x.conll:1.*2 columns.*--label 2"):
        read(tmp_path, "Paris B-LOC\n", label="2")


@pytest.mark.parametrize(
    "text", ["Paris NNP B-LOC\nis VBZ\n", "Paris O\n\nin the O\n", "a\tb\nc d"]
)
def test_rows_of_another_width_name_their_line(tmp_path: Path, text: str) -> None:
    line = 3 if "\n\n" in text else 2
    with pytest.raises(UsageError, match=f"x.conll:{line}: has . columns, line 1 has"):
        read(tmp_path, text)


def test_an_empty_word_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="x.conll:2: has an empty word"):
        read(tmp_path, "a\tO\n\tO\n")


def test_only_spaces_and_tabs_separate(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "10\u00a0000  B-NUM \nx\u2003y O\n")
    assert row.text == ["10\u00a0000", "x\u2003y"] and row.label == ["B-NUM", "O"]


def test_an_unknown_tag_names_its_own_line(tmp_path: Path) -> None:
    rows = read(tmp_path, "a O\nb B-X\n\nc O\nd B-Y\ne B-Y\n")
    with pytest.raises(UsageError, match=r"'B-Y' \(lines 5, 6\)$|'B-Y' \(lines 5, 6\);"):
        check_known("tag", rows, ["O", "B-X"], "x.conll")
