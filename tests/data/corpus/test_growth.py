"""Files that become longer while they are read: what is left out is said."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.paths import DATA_FILES
from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig, TokenizerConfig, VocabConfig
from tpu_tlm.data.corpus.inputs import about_growth, expand_inputs
from tpu_tlm.data.preprocessing import preprocess as preprocessing
from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary

TEXT = "the nation of peace and of war\n\n" * 40
ADDED = "what came later\n"


def source(directory: Path) -> Path:
    """A file of text."""
    path = directory / "growing.txt"
    path.write_text(TEXT)
    return path


def append(path: Path) -> None:
    """Let the file grow."""
    with path.open("a") as file:
        file.write(ADDED)


def test_the_first_name_and_all_bytes_are_counted(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for path in paths:
        path.write_text(TEXT)
    files = expand_inputs(CorpusConfig(input_files=[str(tmp_path)]))
    assert list(about_growth(files)) == []
    for path in paths[1:]:
        append(path)
    (note,) = about_growth(files)
    assert "2 files" in note and str(paths[1]) in note and f"{2 * len(ADDED)} bytes" in note
    paths[1].unlink()  # a file that is gone has nothing left to read
    (note,) = about_growth(files)
    assert "1 files" in note and str(paths[2]) in note


def test_compressed_files_are_read_to_their_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    files = expand_inputs(CorpusConfig(input_files=[str(path)]))
    path.write_bytes(gzip.compress(TEXT.encode()) + gzip.compress(ADDED.encode()))
    assert list(about_growth(files)) == []


def test_vocab_says_what_it_left_out(tmp_path: Path) -> None:
    path = source(tmp_path)

    def more_files(_: Any) -> dict[str, bytes]:  # called when the words are counted
        append(path)
        return {}

    config = VocabConfig(output=str(tmp_path / "vocab"), vocab_size=60, workers=1)
    corpus = CorpusConfig(input_files=[str(path)])
    lines = learn_vocabulary(corpus, config, more_files).lines
    assert any("note" in line and f"{len(ADDED)} bytes" in line for line in lines)


def test_preprocess_says_what_it_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source(tmp_path)
    parts_of = preprocessing.parts_of

    def growing(inputs: Any) -> Any:
        append(path)
        return parts_of(inputs)

    monkeypatch.setattr(preprocessing, "parts_of", growing)
    tokenizers = DATA_FILES / "tokenizers"
    tokens = TokenizerConfig(codes=str(tokenizers / "codes"), vocab=str(tokenizers / "vocab"))
    config = PreprocessConfig(output=str(tmp_path / "out"), seq_length=16, workers=1)
    corpus = CorpusConfig(input_files=[str(path)])
    made = preprocessing.preprocess(corpus, tokens, config, PairsConfig())
    assert any(
        line.startswith("note") and str(path) in line and f"{len(ADDED)} bytes" in line
        for line in made.lines
    )
