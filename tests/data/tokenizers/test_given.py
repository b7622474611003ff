"""A tokenizer that is given beside a model, as whatever files it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.paths import DATA_FILES
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.data.tokenizers.given import given_tokenizer
from tpu_tlm.errors import UsageError

FILES = DATA_FILES / "tokenizers"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "is", "##s"]


def vocab(directory: Path, words: list[str] = WORDS) -> Path:
    path = directory / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    return path


def test_a_vocab_txt_alone_shows_its_case(tmp_path: Path) -> None:
    for path in (vocab(tmp_path), tmp_path):
        found = given_tokenizer(str(path))
        assert found.kind == "wordpiece" and not found.cased and "lower-case" in found.notes[0]
        assert found.encode("Paris") == [5]
    cased = given_tokenizer(str(vocab(tmp_path, [*WORDS, "Paris"])))
    assert cased.cased and not cased.notes and cased.encode("Paris") == [8]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert not given_tokenizer(str(tmp_path / "vocab.txt")).cased  # the file says so


def test_mead_s_codes_and_vocab(tmp_path: Path) -> None:
    expected = make_tokenizer(
        TokenizerConfig(codes=str(FILES / "codes"), vocab=str(FILES / "vocab"))
    )
    shutil.copy(FILES / "codes", tmp_path / "codes.30k")
    shutil.copy(FILES / "vocab", tmp_path / "vocab.30k")
    codes, words = str(tmp_path / "codes.30k"), str(tmp_path / "vocab.30k")
    for found in (
        given_tokenizer(words, codes),
        given_tokenizer(words),  # the merges lie beside it
        given_tokenizer(str(tmp_path)),
    ):
        assert found.kind == "bpe" and found.tokens == expected.tokens
        assert found.tokens[:6] == ["<PAD>", "<GO>", "<EOS>", "<UNK>", "[CLS]", "[MASK]"]
    other = tmp_path / "x"
    other.mkdir()
    shutil.move(codes, other / "merges")
    assert given_tokenizer(words, str(other / "merges")).tokens == expected.tokens
    with pytest.raises(UsageError, match="vocab.30k.*--codes"):
        given_tokenizer(words)


def test_a_directory_of_ours_and_one_of_huggingface(tmp_path: Path) -> None:
    made = make_tokenizer(TokenizerConfig(subword_type="wordpiece", vocab=str(vocab(tmp_path))))
    made.save(str(tmp_path / "ours"))
    assert given_tokenizer(str(tmp_path / "ours")).fingerprint() == made.fingerprint()
    with pytest.raises(UsageError, match="--codes c.*leave"):
        given_tokenizer(str(tmp_path / "ours"), "c")
    tokenizers = pytest.importorskip("tokenizers")
    built = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    (tmp_path / "hf").mkdir()
    built.save(str(tmp_path / "hf" / "tokenizer.json"))
    for path in (tmp_path / "hf", tmp_path / "hf" / "tokenizer.json"):
        assert given_tokenizer(str(path)).encode("a") == [0]


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("some text\n")
    for name, words in (("none", "no such file"), ("empty", "no tokenizer"), ("text", "--codes")):
        with pytest.raises(UsageError, match=words):
            given_tokenizer(str(tmp_path / name))
