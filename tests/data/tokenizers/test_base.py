"""Tokenizer directories: saving, loading, hashes, fingerprints."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from tests.paths import DATA_FILES, ROOT
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer, make_tokenizer
from tpu_tlm.data.tokenizers.wordpiece import bert_pipeline
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface.tokenizer_read import read_tokenizer

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


def _bert_directory(directory: Path, settings: dict[str, Any] | None, **added: Any) -> str:
    (directory / "vocab.txt").write_bytes(Path(WORDPIECE.vocab or "").read_bytes())
    if settings is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if added:
        (directory / "added_tokens.json").write_text(json.dumps(added))
    return str(directory)


def _with_tokenizer_json(directory: Path, *tokens: str, **model: Any) -> None:
    """A tokenizer.json of the directory's vocab.txt, lower-case, with added tokens."""
    words = (directory / "vocab.txt").read_text().split("\n")[:-1]
    pipeline = bert_pipeline({word: i for i, word in enumerate(words)}, cased=False)
    pipeline.add_tokens(list(tokens))
    described = json.loads(pipeline.to_str())
    described["model"].update(model)
    (directory / "tokenizer.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("settings", "added", "named"),
    [
        ({"do_lower_case": True, "strip_accents": False}, {}, "strip_accents false"),
        ({"do_lower_case": False, "strip_accents": True}, {}, "strip_accents true"),
        ({"tokenize_chinese_chars": False}, {}, "tokenize_chinese_chars"),
        ({"additional_special_tokens": ["[E1]"]}, {}, "additional_special_tokens"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, {}, "tokenizer_class BertJapanese"),
        ({"unk_token": {"content": "<unk>"}}, {}, "unk_token <unk>"),
        ({"added_tokens_decoder": {"900": {"content": "x"}}}, {}, "added_tokens_decoder"),
        (None, {"covid-19": 900}, "added_tokens.json: adds tokens"),
    ],
)
def test_what_a_vocab_txt_cannot_say_is_refused(
    tmp_path: Path, settings: dict[str, Any] | None, added: dict[str, int], named: str
) -> None:
    directory = _bert_directory(tmp_path, settings, **added)
    with pytest.raises(UsageError, match=named):
        make_tokenizer(TokenizerConfig(vocab=directory))
    if "accents" in named:
        with pytest.raises(UsageError, match=named):
            make_tokenizer(TokenizerConfig("wordpiece", vocab=f"{directory}/vocab.txt"))


def test_tokenizer_json_decides_where_it_has_more_than_vocab_txt(tmp_path: Path) -> None:
    directory = _bert_directory(tmp_path, {"do_lower_case": True})
    _with_tokenizer_json(tmp_path)
    plain = make_tokenizer(TokenizerConfig(vocab=directory))
    assert plain.kind == "wordpiece"
    _with_tokenizer_json(tmp_path, "covid-19")
    grown = make_tokenizer(TokenizerConfig(vocab=directory))
    assert grown.encode("the covid-19") == [*plain.encode("the"), len(plain.tokens)]
    _with_tokenizer_json(tmp_path, max_input_chars_per_word=3)
    short = make_tokenizer(TokenizerConfig(vocab=directory))
    assert short.encode("the states") == [*plain.encode("the"), plain.unk_id]


def test_bert_settings_overrule_tokenizer_json(tmp_path: Path) -> None:
    directory = _bert_directory(tmp_path, {"do_lower_case": False})
    cased = make_tokenizer(TokenizerConfig(vocab=directory))
    _with_tokenizer_json(tmp_path)
    assert make_tokenizer(TokenizerConfig(vocab=directory)).cased
    (tmp_path / "vocab.txt").unlink()
    of_json = make_tokenizer(TokenizerConfig(vocab=directory))
    assert of_json.kind == "hf" and of_json.encode("THE the") == cased.encode("THE the")


def test_an_id_far_behind_the_tokens_is_refused(tmp_path: Path) -> None:
    _bert_directory(tmp_path, None)
    _with_tokenizer_json(tmp_path, vocab={"[UNK]": 0, "a": 1 << 31})
    with pytest.raises(UsageError, match=r"tokenizer\.json: has the id 2147483648 and only 3"):
        make_tokenizer(TokenizerConfig("hf", vocab=str(tmp_path / "tokenizer.json")))


def test_tokens_of_the_settings_are_added(tmp_path: Path) -> None:
    directory = _bert_directory(tmp_path, None)
    _with_tokenizer_json(tmp_path)
    count = len(make_tokenizer(TokenizerConfig(vocab=directory)).tokens)
    (tmp_path / "vocab.txt").unlink()
    decoder = {str(count): {"content": "covid-19", "special": False, "normalized": True}}
    settings = {"added_tokens_decoder": decoder, "additional_special_tokens": ["[E1]"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"tokamak": count + 1}))
    made = make_tokenizer(TokenizerConfig(vocab=directory))
    assert made.encode("covid-19 tokamak [E1]") == [count, count + 1, count + 2]
    assert count + 2 in made.special_ids and count not in made.special_ids
    made.save(str(tmp_path / "saved"))
    assert load_tokenizer(str(tmp_path / "saved")).fingerprint() == made.fingerprint()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"tokamak": count + 7}))
    with pytest.raises(UsageError, match=r"added_tokens\.json: 'tokamak' has the id"):
        make_tokenizer(TokenizerConfig(vocab=directory))


@pytest.mark.parametrize(
    ("ids", "merges", "named"),
    [
        ({"a": "x"}, "", r"vocab\.json: 'a' has no usable id: x"),
        ({"a": None}, "", r"vocab\.json: 'a' has no usable id"),
        ({"a": -1}, "", r"vocab\.json: 'a' has no usable id: -1"),
        ({"a": True}, "", r"vocab\.json: 'a' has no usable id"),
        ({"a": 1 << 40}, "", r"vocab\.json: 'a' has no usable id"),
        ({"a": 0, "b": 0}, "", r"vocab\.json: 'a' and 'b' have the same id"),
        ({"a": 0, "b": 1}, "a b\n", r"merges\.txt: does not belong to .*vocab\.json"),
        ({"a": 1 << 31}, "", r"vocab\.json: 'a' has no usable id: 2147483648"),
    ],
)
def test_damaged_files_of_gpt2_are_named(
    tmp_path: Path, ids: dict[str, Any], merges: str, named: str
) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges)
    with pytest.raises(UsageError, match=named):
        make_tokenizer(TokenizerConfig(vocab=str(tmp_path)))


def _gpt2_directory(directory: Path, *more: str, **settings: Any) -> str:
    """vocab.json and merges.txt of RoBERTa's special tokens, the bytes, and more tokens."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|startoftext|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*special, *letters, *(x + "</w>" for x in letters), *more])
    ids = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(ids))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(directory)


@pytest.mark.parametrize("kind", ["GPT2", "Roberta", "Deberta", "Qwen2", "CLIP"])
def test_vocab_json_is_used_as_its_class_uses_it(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    text = "Ab Cafe\u0301 12 <mask> [MASK] <|endoftext|> e"
    more = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"] if kind == "Deberta" else []
    directory = _gpt2_directory(tmp_path, *more, tokenizer_class=f"{kind}Tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    made = make_tokenizer(TokenizerConfig(vocab=directory))
    assert made.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert made.sep_id == (theirs.sep_token_id or theirs.eos_token_id)
    if theirs.mask_token_id is not None:
        assert (made.mask_id, made.pad_id) == (theirs.mask_token_id, theirs.pad_token_id)


def test_a_class_that_nothing_can_convert_is_named(tmp_path: Path) -> None:
    directory = _gpt2_directory(tmp_path, tokenizer_class="OtherTokenizer")
    with pytest.raises(UsageError, match=r"of the class OtherTokenizer but no tokenizer\.json"):
        make_tokenizer(TokenizerConfig(vocab=directory))


@pytest.mark.parametrize("kind", [{}, {"tokenizer_class": "RobertaTokenizer"}])
def test_settings_that_name_one_token_leave_the_others(
    tmp_path: Path, kind: dict[str, str]
) -> None:
    mask = {"content": "<mask>", "lstrip": True}
    made = make_tokenizer(TokenizerConfig(vocab=_gpt2_directory(tmp_path, mask_token=mask, **kind)))
    assert made.description()["special"] == {"cls": 0, "pad": 1, "sep": 2, "unk": 3, "mask": 4}
    assert made.encode("a <mask>") == [made.id_of("a"), 4]


def test_a_letter_that_stands_for_a_byte_elsewhere_is_no_padding(tmp_path: Path) -> None:
    words = {"[UNK]": 0, "\u00ff": 1, "a": 2}
    path = tmp_path / "tokenizer.json"
    path.write_text(bert_pipeline(words, cased=True).to_str())
    made = make_tokenizer(TokenizerConfig(vocab=str(path)))
    assert made.encode("a \u00ff") == [2, 1] and made.tokens[made.pad_id] == "<pad>"


def test_tokens_with_the_same_id_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(bert_pipeline({"[UNK]": 0, "a": 1, "b": 1}, cased=True).to_str())
    described = json.loads(path.read_text())
    described["model"]["vocab"] = {"[UNK]": 0, "a": 1, "b": 1}
    path.write_text(json.dumps(described))
    made = make_tokenizer(TokenizerConfig(vocab=str(path)))
    assert made.notes == (f"{path}: 'a' and 'b' have the same id",)


@pytest.mark.parametrize("word", ["the", "The"])
def test_case_of_a_models_vocab_txt_is_that_of_training(tmp_path: Path, word: str) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", word]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    of_model = read_tokenizer(str(tmp_path), {}).tokenizer
    made = make_tokenizer(TokenizerConfig(vocab=str(tmp_path)))
    assert of_model is not None and of_model.fingerprint() == made.fingerprint()
    assert made.cased is (word == "The")
    with pytest.raises(UsageError, match="--cased"):
        make_tokenizer(TokenizerConfig(vocab=str(tmp_path), cased=not made.cased))
