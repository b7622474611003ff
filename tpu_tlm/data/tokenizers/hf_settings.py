"""What the files beside a tokenizer.json add to it and change in it, as in `transformers`."""

from __future__ import annotations

from typing import Any

from tpu_tlm.data.tokenizers.hf import SETTINGS, read_pipeline
from tpu_tlm.data.tokenizers.hf_classes import class_name, splits_as_bert, splits_as_gpt2
from tpu_tlm.data.tokenizers.text_files import json_at, json_of
from tpu_tlm.data.tokenizers.wordpiece import SPECIALS
from tpu_tlm.errors import UsageError

ADDED = "added_tokens.json"
_LISTS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def completed(data: bytes, base: str, name: str) -> bytes:
    """A tokenizer.json with the tokens and settings of the files beside it.

    base: their directory and a slash, or nothing. Unchanged where they say nothing new. Raises
    `UsageError` for a token whose id would not be the one that its file gives.
    """
    settings = json_at(base + SETTINGS)
    wanted = _of_decoder(settings, base + SETTINGS)
    for content, index in json_at(base + ADDED).items():
        wanted.setdefault(content, (index, {"special": False}, base + ADDED))
    described = json_of(data, name)
    normalizer = _normalizer(described.get("normalizer"), settings)
    splitter = _splitter(described.get("pre_tokenizer"), settings, base + SETTINGS)
    listed = listed_tokens(settings)
    if not wanted and not listed and normalizer is None and splitter is None:
        return data
    from tokenizers import AddedToken

    pipeline = read_pipeline(data, name)
    changed = normalizer is not None or splitter is not None
    if normalizer is not None:
        pipeline.normalizer = normalizer
    if splitter is not None:
        pipeline.pre_tokenizer = splitter
    for content, (index, flags, where) in sorted(wanted.items(), key=lambda item: item[1][0]):
        if pipeline.token_to_id(content) is None:
            pipeline.add_tokens([AddedToken(content, **flags)])
            changed = True
        if pipeline.token_to_id(content) != index:
            raise UsageError(
                f"{where}: {content[:60]!r} has the id {index} there, and the id "
                f"{pipeline.token_to_id(content)} by {name}: make both files again"
            )
    for content in listed:
        if pipeline.token_to_id(content) is None:
            pipeline.add_special_tokens([content])
            changed = True
    return str(pipeline.to_str()).encode() if changed else data


def _of_decoder(settings: dict[str, Any], where: str) -> dict[str, tuple[int, Any, str]]:
    """Content -> id, flags and file of the tokens in added_tokens_decoder."""
    found = {}
    decoder = settings.get("added_tokens_decoder")
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        if not isinstance(token, dict) or not str(index).isdecimal() or len(index) > 10:
            raise UsageError(f"{where}: added_tokens_decoder: {index[:40]!r} is no id of a token")
        content = token.get("content")
        if isinstance(content, str) and content:
            flags = {flag: bool(token[flag]) for flag in FLAGS if flag in token}
            found[content] = (int(index), flags, where)
    return found


def listed_tokens(settings: dict[str, Any]) -> list[str]:
    """The special tokens that the settings list without ids, but BERT's five."""
    found = [token for key in _LISTS for token in _contents(settings.get(key))]
    return [token for token in found if token not in SPECIALS]


def _contents(tokens: Any) -> list[str]:
    listed = list(tokens.values()) if isinstance(tokens, dict) else tokens
    texts = [
        token.get("content") if isinstance(token, dict) else token
        for token in (listed if isinstance(listed, list) else [])
    ]
    return [text for text in texts if isinstance(text, str) and text]


def _normalizer(described: Any, settings: dict[str, Any]) -> Any:
    """The normalizer of BERT's classes by their settings; None where they change nothing."""
    if not isinstance(described, dict) or described.get("type") != "BertNormalizer":
        return None
    if not splits_as_bert(class_name(settings)):
        return None
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    given = {
        ours: settings[theirs]
        for theirs, ours in names.items()
        if isinstance(settings.get(theirs), bool)
    }
    before = {key: described.get(key) for key in (*names.values(), "clean_text")}
    if {**before, **given} == before:
        return None
    from tokenizers import normalizers

    return normalizers.BertNormalizer(**{**before, **given})


def _splitter(described: Any, settings: dict[str, Any], where: str) -> Any:
    """The splitter of GPT-2's and RoBERTa's classes by their settings; None: no change.

    A text begins with a space where `add_prefix_space` says so, whatever tokenizer.json has.
    where: the file of the settings.
    """
    if not isinstance(described, dict) or described.get("type") != "ByteLevel":
        return None
    name, prefix = class_name(settings), settings.get("add_prefix_space") or False
    if not name or not splits_as_gpt2(name):
        return None
    if not isinstance(prefix, bool):
        raise UsageError(f"{where}: add_prefix_space is {str(prefix)[:40]!r}, not true or false")
    if bool(described.get("add_prefix_space")) == prefix:
        return None
    from tokenizers import pre_tokenizers

    regex = bool(described.get("use_regex", True))
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
