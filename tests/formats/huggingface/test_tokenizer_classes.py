"""Ids of a text against `transformers`, by the class and settings beside a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tpu_tlm.formats.huggingface.tokenizer_read import read_tokenizer

TEXT = ["The people of the United States say that the state of the union is strong."] * 3
TEXT += ["a few of the people, and 3.14 of them united in the statement"] * 2
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
PROBES = ["The union of people.", "  two  spaces and CAPITALS", "a", "states\nunited", "of <mask>"]
BERT_ROLES = dict(
    zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), BERT, strict=True)
)
ROBERTA_ROLES = {
    **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
    **{"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"},
}
GPT2_ROLES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


def wordpiece(single: str | None) -> Tokenizer:
    pipeline = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=BERT)
    pipeline.train_from_iterator(TEXT, trainer)
    return framed(pipeline, single)


def byte_level(special: list[str], single: str | None, prefix: bool = False) -> Tokenizer:
    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    pipeline.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    pipeline.train_from_iterator(TEXT, trainer)
    return framed(pipeline, single)


def framed(pipeline: Tokenizer, single: str | None) -> Tokenizer:
    if single is not None:
        pipeline.post_processor = processors.TemplateProcessing(
            single=single,
            special_tokens=[(t, pipeline.token_to_id(t)) for t in single.split() if t != "$A"],
        )
    return pipeline


def padded(pipeline: Tokenizer) -> Tokenizer:
    pipeline.enable_padding(length=24)
    pipeline.enable_truncation(5)
    return pipeline


BERTS = "[CLS] $A [SEP]"
ROBERTAS = "<s> $A </s>"
transformers = pytest.importorskip("transformers")

CASES: dict[str, tuple[Callable[[], Tokenizer], str, dict[str, Any]]] = {
    "bert": (lambda: wordpiece(BERTS), "BertTokenizer", BERT_ROLES),
    "bert, padded": (lambda: padded(wordpiece(BERTS)), "BertTokenizer", BERT_ROLES),
    "bert without a frame": (lambda: wordpiece(None), "BertTokenizer", BERT_ROLES),
    "electra without a frame": (lambda: wordpiece(None), "ElectraTokenizer", BERT_ROLES),
    "no class, no frame": (lambda: wordpiece(None), "PreTrainedTokenizerFast", BERT_ROLES),
    "no class, cls alone": (lambda: wordpiece("[CLS] $A"), "PreTrainedTokenizerFast", BERT_ROLES),
    "roberta": (lambda: byte_level(ROBERTA, ROBERTAS), "RobertaTokenizer", ROBERTA_ROLES),
    "roberta without a frame": (
        lambda: byte_level(ROBERTA, None),
        "RobertaTokenizer",
        ROBERTA_ROLES,
    ),
    "bart without a frame": (lambda: byte_level(ROBERTA, None), "BartTokenizer", ROBERTA_ROLES),
    "distilbert without a frame": (lambda: wordpiece(None), "DistilBertTokenizer", BERT_ROLES),
    "roberta, padded": (
        lambda: padded(byte_level(ROBERTA, ROBERTAS)),
        "RobertaTokenizer",
        ROBERTA_ROLES,
    ),
    "roberta, space by its settings": (
        lambda: byte_level(ROBERTA, ROBERTAS),
        "RobertaTokenizer",
        {**ROBERTA_ROLES, "add_prefix_space": True},
    ),
    "roberta, space by its file": (
        lambda: byte_level(ROBERTA, ROBERTAS, prefix=True),
        "RobertaTokenizer",
        ROBERTA_ROLES,
    ),
    "no class, space by its file": (
        lambda: byte_level(ROBERTA, ROBERTAS, prefix=True),
        "PreTrainedTokenizerFast",
        ROBERTA_ROLES,
    ),
    "gpt2": (lambda: byte_level(["<|endoftext|>"], None), "GPT2Tokenizer", GPT2_ROLES),
    "gpt2, all roles named": (
        lambda: byte_level(["<|endoftext|>"], None),
        "GPT2Tokenizer",
        {**GPT2_ROLES, "cls_token": "<|endoftext|>", "sep_token": "<|endoftext|>"},
    ),
    "gpt2, space by its settings": (
        lambda: byte_level(["<|endoftext|>"], None),
        "GPT2Tokenizer",
        {**GPT2_ROLES, "add_prefix_space": True},
    ),
    "gpt2, no space by its settings": (
        lambda: byte_level(["<|endoftext|>"], None, prefix=True),
        "GPT2Tokenizer",
        {**GPT2_ROLES, "add_prefix_space": False},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_have_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    make, of_class, roles = CASES[name]
    (tmp_path / "tokenizer.json").write_text(make().to_str(), encoding="utf-8")
    settings = {"tokenizer_class": of_class, "model_max_length": 128, **roles}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = read_tokenizer(str(tmp_path), {})
    assert found.tokenizer is not None and found.frame is not None and not found.notes
    before, after = ([] if token is None else [token] for token in found.frame)
    for text in PROBES:
        ours = [*before, *map(int, found.tokenizer.encode(text)), *after]
        assert ours == theirs(text)["input_ids"], text


def test_a_setting_of_another_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level(ROBERTA, ROBERTAS).to_str())
    settings = {"tokenizer_class": "RobertaTokenizer", **ROBERTA_ROLES, "add_prefix_space": "yes"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = read_tokenizer(str(tmp_path), {})
    assert found.tokenizer is None
    assert "tokenizer_config.json: add_prefix_space is 'yes'" in found.notes[0]
