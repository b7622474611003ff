"""Tokenizer directories: saving, loading, hashes, fingerprints."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import DATA_FILES, ROOT
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer, make_tokenizer
from tpu_tlm.errors import TlmError, UsageError

FILES = DATA_FILES / "tokenizers"
BPE = TokenizerConfig(codes=str(FILES / "codes"), vocab=str(FILES / "vocab"))
WORDPIECE = TokenizerConfig(subword_type="wordpiece", vocab=str(FILES / "vocab.txt"))
LINE = "The Senate of the United States, déjà vu."


@pytest.mark.parametrize("config", [BPE, WORDPIECE], ids=["bpe", "wordpiece"])
@pytest.mark.parametrize("cased", [True, False])
def test_save_and_load(tmp_path: Path, config: TokenizerConfig, cased: bool) -> None:
    extra = ["[CLS]", "[MASK]", *(["<X>"] if config is BPE else [])]
    made = make_tokenizer(dataclasses.replace(config, cased=cased, extra_tokens=extra))
    made.save(str(tmp_path / "a" / "tokenizer"))
    loaded = load_tokenizer(str(tmp_path / "a" / "tokenizer"))
    assert loaded.description() == made.description() and loaded.fingerprint() == made.fingerprint()
    assert loaded.tokens == made.tokens and loaded.special_ids == made.special_ids
    assert loaded.encode(LINE + " <X>") == made.encode(LINE + " <X>")
    assert (
        json.loads((tmp_path / "a" / "tokenizer" / "tokenizer_info.json").read_text())
        == made.description()
    )


@pytest.mark.parametrize("cased", [None, True, False])
def test_a_directory_of_vocab_txt_alone_takes_the_case_of_the_options(
    tmp_path: Path, cased: bool | None
) -> None:
    """As the file itself does; the presets of BERT say `cased: false`."""
    (tmp_path / "vocab.txt").write_bytes(Path(WORDPIECE.vocab or "").read_bytes())
    made = make_tokenizer(TokenizerConfig(vocab=str(tmp_path), cased=cased))
    assert made.cased == (cased is not False)
    model = {"continuing_subword_prefix": "##", "unk_token": "[UNK]"}
    rules = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    pipeline = {"model": model, "pre_tokenizer": {"type": "BertPreTokenizer"}}
    pipeline["normalizer"] = rules | {"lowercase": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(pipeline))
    if cased:
        with pytest.raises(UsageError, match="--cased true: contradicts"):
            make_tokenizer(TokenizerConfig(vocab=str(tmp_path), cased=cased))
    else:
        assert not make_tokenizer(TokenizerConfig(vocab=str(tmp_path), cased=cased)).cased


@pytest.mark.parametrize("given", [["[CLS]", "[MASK]", "<EOU>"], ["[MASK]", "[CLS]"], ["a b"]])
def test_extra_tokens_that_a_directory_has_not_are_refused(
    tmp_path: Path, given: list[str]
) -> None:
    make_tokenizer(BPE).save(str(tmp_path))
    with pytest.raises(UsageError, match=r"extra_tokens .*has \[CLS\] \[MASK\]: leave"):
        make_tokenizer(TokenizerConfig(vocab=str(tmp_path), extra_tokens=given))
    files = TokenizerConfig("bpe", BPE.codes, BPE.vocab, extra_tokens=given)
    made = make_tokenizer(files)
    made.save(str(tmp_path / "new"))
    again = TokenizerConfig(vocab=str(tmp_path / "new"), extra_tokens=given)
    assert make_tokenizer(again).tokens == made.tokens


def test_fingerprints_tell_tokenizers_apart(tmp_path: Path) -> None:
    (tmp_path / "vocab").write_bytes(Path(BPE.vocab or "").read_bytes() + b"zzzz 1\n")
    configs = [
        BPE,
        WORDPIECE,
        TokenizerConfig("bpe", BPE.codes, BPE.vocab, cased=False),
        TokenizerConfig("bpe", BPE.codes, BPE.vocab, extra_tokens=["[MASK]", "[CLS]"]),
        TokenizerConfig("bpe", BPE.codes, str(tmp_path / "vocab")),
    ]
    prints = [make_tokenizer(config).fingerprint() for config in configs]
    assert len(set(prints)) == len(prints)
    assert make_tokenizer(BPE).fingerprint() == prints[0]


@pytest.mark.parametrize("config, name", [(BPE, "codes"), (BPE, "vocab"), (WORDPIECE, "vocab.txt")])
def test_a_changed_file_is_refused(tmp_path: Path, config: TokenizerConfig, name: str) -> None:
    make_tokenizer(config).save(str(tmp_path))
    with (tmp_path / name).open("ab") as stream:
        stream.write(b"zzzz 1\n")
    with pytest.raises(TlmError, match=f"{name}: is not the file that was saved"):
        load_tokenizer(str(tmp_path))


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))
    for text in ("{", "[]", '{"kind": "bpe"}'):
        (tmp_path / "tokenizer_info.json").write_text(text)
        with pytest.raises(TlmError, match="make the tokenizer directory again"):
            load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer_info.json").write_text(
        '{"kind": "new", "cased": true, "extra_tokens": [], "files": {}}'
    )
    with pytest.raises(TlmError, match="unknown kind 'new'"):
        load_tokenizer(str(tmp_path))


def test_tokenizing_needs_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "from tpu_tlm.data.tokenizers.factory import make_tokenizer\n"
        "from tpu_tlm.config import TokenizerConfig\n"
        f"for kind, codes, vocab in (('bpe', {BPE.codes!r}, {BPE.vocab!r}), "
        f"('wordpiece', None, {WORDPIECE.vocab!r})):\n"
        "    make_tokenizer(TokenizerConfig(kind, codes, vocab)).encode_lines([b'a line'])\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_fastbpe_says_nothing_on_standard_error() -> None:
    code = (
        "from tpu_tlm.config import TokenizerConfig\n"
        "from tpu_tlm.data.tokenizers.factory import make_tokenizer\n"
        f"make_tokenizer(TokenizerConfig('bpe', {BPE.codes!r}, {BPE.vocab!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
    assert done.stderr == b"" and done.stdout == b""


def test_special_ids_are_ids(tmp_path: Path) -> None:
    for config in (BPE, WORDPIECE):
        tokenizer: Tokenizer = make_tokenizer(config)
        special = tokenizer.description()["special"]
        assert sorted(special) == ["cls", "mask", "pad", "sep", "unk"]
        assert set(special.values()) <= set(tokenizer.special_ids)
        assert all(tokenizer.id_of(tokenizer.tokens[i]) == i for i in range(len(tokenizer.tokens)))
