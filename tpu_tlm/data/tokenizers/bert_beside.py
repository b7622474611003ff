"""Whether the files beside a vocab.txt say that it is used as BERT's own tokenizer uses one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.hf_classes import class_name, splits_as_bert
from tpu_tlm.data.tokenizers.text_files import json_at
from tpu_tlm.data.tokenizers.wordpiece import LONGEST_WORD, SPECIALS

_SETTINGS, _ADDED = "tokenizer_config.json", "added_tokens.json"


def is_bert(pipeline: dict[str, Any]) -> bool:
    """Whether a tokenizer.json does what BERT's tokenizer does."""
    model, normalizer, splitter = (
        pipeline.get(key) or {} for key in ("model", "normalizer", "pre_tokenizer")
    )
    if not all(isinstance(part, dict) for part in (model, normalizer, splitter)):
        return False
    lower = normalizer.get("lowercase")
    return (
        _only_specials(pipeline.get("added_tokens"), model.get("vocab"))
        and model.get("max_input_chars_per_word", LONGEST_WORD) == LONGEST_WORD
        and (model.get("continuing_subword_prefix"), model.get("unk_token")) == ("##", "[UNK]")
        and splitter.get("type") == "BertPreTokenizer"
        and normalizer.get("type") == "BertNormalizer"
        and bool(normalizer.get("clean_text") and normalizer.get("handle_chinese_chars"))
        and normalizer.get("strip_accents") in (None, lower)
    )


def _only_specials(tokens: Any, vocab: Any) -> bool:
    """Whether added tokens are BERT's five, matched as they stand."""
    known = vocab if isinstance(vocab, dict) else {}
    return all(
        isinstance(token, dict)
        and token.get("content") in SPECIALS
        and known.get(token["content"]) == token.get("id")
        and not any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word"))
        for token in (tokens if isinstance(tokens, list) else [])
    )


def other_words(directory: str, cased: bool) -> str:
    """The setting by which words are made otherwise than by BERT; "" for none."""
    settings = json_at(_beside(directory, _SETTINGS))
    accents = settings.get("strip_accents")
    if accents is not None and accents is cased:
        return f"strip_accents {str(accents).lower()}"
    if settings.get("tokenize_chinese_chars", True) is not True:
        return "tokenize_chinese_chars false"
    if settings.get("never_split"):
        return "never_split"
    name = class_name(settings)
    pipeline = _beside(directory, "tokenizer.json")
    if not splits_as_bert(name) and not filesystem.exists(pipeline):
        return f"tokenizer_class {name[:60]}"
    return other_name(settings)


def other_name(settings: Mapping[str, Any]) -> str:
    """The setting that names another special token than BERT's; "" for none."""
    for special in SPECIALS:
        key = f"{special[1:-1].lower()}_token"
        token = settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token != special:
            return f"{key} {token[:60]}"
    return ""


def added(directory: str) -> str:
    """Which file or setting adds tokens to a vocab.txt; "" for none."""
    if set(json_at(_beside(directory, _ADDED))) - set(SPECIALS):
        return _ADDED
    settings = json_at(_beside(directory, _SETTINGS))
    decoder = settings.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, dict) else ():
        if not isinstance(token, dict) or token.get("content") not in SPECIALS:
            return "added_tokens_decoder"
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if settings.get(name):
            return name
    return ""


def refusal(directory: str, other: str) -> str:
    """Why a vocab.txt is not read as BERT's, and what to do."""
    where = f"{directory or '.'}/{_ADDED if other == _ADDED else _SETTINGS}"
    what = "adds tokens" if other == _ADDED else f"has {other}"
    return (
        f"{where}: {what}, which a vocab.txt alone cannot say: make a tokenizer.json with "
        "AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW) and give --vocab NEW"
    )


def _beside(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
