"""What is chosen for a text: script, case, documents, vocabulary, held-out part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tpu_tlm as tlm
from tpu_tlm.config.presets import PRESETS
from tpu_tlm.errors import UsageError
from tpu_tlm.from_text.profile import TextProfile, corpus_of, profile_of
from tpu_tlm.from_text.sizing import (
    CANDIDATES,
    MOST_PASSES,
    Timing,
    larger_preset,
    layer_parameters,
    steps_in,
    text_sizes,
)

ENGLISH = "The Congress of the United States met on Monday.\nIt passed one law.\n"
GERMAN = "Die Straße führt über die Brücke zum Fluß.\nÄpfel und Öl gehören dazu.\n"
CHINESE = "中共中央总书记发表新年讲话。\n同胞们、朋友们、女士们、先生们。\n"
JAPANESE = "これは日本語の文章です。\n東京へ行きました。\n"
THAI = "ประเทศไทยเป็นประเทศที่อยู่ในเอเชีย\nกรุงเทพมหานครเป็นเมืองหลวง\n"


def profile(tmp_path: Path, text: str, times: int = 30) -> TextProfile:
    path = tmp_path / "text.txt"
    path.write_text(text * times, encoding="utf-8")
    return profile_of(corpus_of([str(path)]))


@pytest.mark.parametrize(
    ("text", "script", "plain", "kind"),
    [
        (ENGLISH, "alphabet", True, "wordpiece"),
        (GERMAN, "alphabet", False, "wordpiece"),
        (CHINESE, "characters", False, "wordpiece"),
        (JAPANESE, "characters", False, "wordpiece"),
        (THAI, "unspaced", False, "unigram"),
        (ENGLISH * 30 + CHINESE, "alphabet", False, "wordpiece"),
    ],
)
def test_script_and_vocabulary(
    tmp_path: Path, text: str, script: str, plain: bool, kind: str
) -> None:
    found = profile(tmp_path, text, 2 if len(text) > 500 else 30)
    assert (found.script, found.plain) == (script, plain)
    sizes = text_sizes(found, "modernbert-tiny", accelerator=False)
    assert sizes.subword_type == kind and sizes.cased
    assert sizes.vocab_size <= 8192 and sizes.seq_length == 64


def test_case_is_dropped_only_for_plain_letters_with_an_uncased_preset(tmp_path: Path) -> None:
    english, german = profile(tmp_path, ENGLISH), profile(tmp_path, GERMAN)
    assert not text_sizes(english, "bert-tiny", accelerator=False).cased
    assert text_sizes(german, "bert-tiny", accelerator=False).cased
    assert text_sizes(english, "bert-tiny", accelerator=False, cased=True).cased


def test_the_kind_of_a_preset_comes_with_its_frame(tmp_path: Path) -> None:
    english = profile(tmp_path, ENGLISH)
    sizes = text_sizes(english, "roberta-base", accelerator=False)
    assert (sizes.subword_type, sizes.prefix, sizes.suffix) == ("byte-bpe", "<s>", "</s>")
    sizes = text_sizes(english, "bert-base", accelerator=True)
    assert (sizes.prefix, sizes.suffix, sizes.seq_length) == ("[CLS]", "[SEP]", 128)


def test_documents_are_lines_where_there_are_no_blank_ones(tmp_path: Path) -> None:
    assert profile(tmp_path, ENGLISH).document == "line"
    blank = profile(tmp_path, ENGLISH + "\n", 50)
    assert blank.document == "blank-line" and 40 <= blank.documents <= 60


def test_a_directory_without_txt_gives_its_most_frequent_kind(tmp_path: Path) -> None:
    for name in ("a.md", "b.md", "c.csv"):
        (tmp_path / name).write_text(ENGLISH)
    assert corpus_of([str(tmp_path)]).input_pattern == "*.md"
    (tmp_path / "d.txt").write_text(ENGLISH)
    assert corpus_of([str(tmp_path)]).input_pattern == "*.txt"


def test_a_table_needs_the_name_of_its_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"posts\.csv: give --text_column"):
        corpus_of([str(tmp_path / "posts.csv")])


def test_text_without_letters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no letters"):
        profile(tmp_path, "1 2 3\n")


def test_a_larger_model_needs_time_and_text() -> None:
    tiny = layer_parameters(PRESETS[CANDIDATES[0]].values)
    fast, slow = Timing(1e-4, tiny, 1e9), Timing(0.2, tiny, 1e9)
    assert larger_preset(slow, 600, 2048, 10**7) is None
    assert larger_preset(fast, 600, 32768, 10**5) is None, "too little text"
    assert larger_preset(fast, 600, 32768, 10**8) == "modernbert-small"
    assert larger_preset(fast, 600_000, 32768, 10**9) == "modernbert-base"
    assert tiny == 4 * (4 * 128 * 128 + 3 * 128 * 192)


def test_steps_fill_the_time_but_not_more_passes_than_help() -> None:
    timing = Timing(0.1, 1, 1.0)
    assert steps_in(60, timing, 1000, 10**7) == 600
    assert steps_in(600, timing, 1000, 1000) == MOST_PASSES
    assert steps_in(0, timing, 1000, 10**7) == 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": ["no-such.txt"]}, "no-such.txt"),
        ({"text": ["one.txt"]}, "one document"),
        ({"text": ["text.txt"], "run_dir": "one.txt"}, "run_dir one.txt: is a file"),
        ({"text": ["text.txt"], "run_dir": "damaged"}, "quickstart.json"),
    ],
)
@pytest.mark.parametrize("state", [b"{", b"[]", b"\xff", b"[" * 90000, b'{"options": 3}'])
def test_what_quickstart_cannot_use_is_one_line(
    options: dict[str, Any],
    words: str,
    state: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("one line of text\n")
    (tmp_path / "text.txt").write_text("one line\n\nand another\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "quickstart.json").write_bytes(state)
    with pytest.raises(tlm.UsageError, match=words) as error:
        tlm.quickstart(**options)
    assert "input_files" not in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "quickstart").exists()
