"""Where a text can be cut so that a `tokenizer.json` splits the chunks as it splits the whole."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

# White space of Unicode, as the library's patterns have it (Python's `\s` has four controls more).
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
SPACES = tuple(re.findall(_SPACE, "".join(map(chr, range(0x3001)))))
_OTHER = _SPACE.replace("[", "[^", 1)
# The places between which GPT-2's pattern finds its words: none reaches over them.
GPT2_CHUNKS = re.compile(f" ?{_OTHER}+|{_SPACE}+(?!{_OTHER})|{_SPACE}")
# A single space between visible ASCII characters, which no normalizer below changes or looks over.
_BETWEEN = re.compile(r"(?<=[!-~]) (?=[!-~])")
_VISIBLE = re.compile("[!-~]+")
_LOCAL = {
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Lowercase",
    "StripAccents",
    "Precompiled",
    "BertNormalizer",
}
_DIVIDING = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}


class Chunker:
    """Divides texts: GPT-2's words, or what stands between single spaces (`gpt2` false).

    A text in which one of the added tokens `contents` may be is one chunk; `lowers`: the pipeline
    may make one of capital letters.
    """

    def __init__(self, gpt2: bool, contents: set[str], lowers: bool) -> None:
        self.gpt2 = gpt2
        self._divide: Callable[[str], list[str]] = GPT2_CHUNKS.findall if gpt2 else _BETWEEN.split
        self._found = re.compile("|".join(map(re.escape, sorted(contents)))).search
        self._any, self._lowers = bool(contents), lowers

    def __call__(self, text: str) -> list[str]:
        """The chunks of a text."""
        return [text] if self.is_whole(text) else self._divide(text)

    def is_whole(self, text: str) -> bool:
        """Whether an added token may be in a text."""
        # In any case and form, because a normalizer may make an added token of other letters.
        return self._any and bool(
            self._found(text)
            or (not text.isascii() and self._found(unicodedata.normalize("NFKC", text)))
            or (self._lowers and self._found(text.lower()))
        )


def chunker_of(pipeline: Pipeline, added: Sequence[Any]) -> Chunker | None:
    """What divides texts so that the pipeline splits the chunks as the text; None for nothing.

    added: the added tokens.
    """
    normalizers = _steps(_state(pipeline.normalizer), "normalizers")
    splitters = _steps(_state(pipeline.pre_tokenizer), "pretokenizers")
    gpt2 = _is_gpt2(normalizers, splitters)
    if not gpt2 and not (
        all(map(_is_local, normalizers))
        and _keeps_visible(pipeline.normalizer)
        and _divides_at_spaces(splitters)
        and not any(_may_be_made_over_a_space(token) for token in added if normalizers)
    ):
        return None
    contents = {form for token in added for form in _forms(token.content)}
    if not all(contents):
        return None
    lowers = any(step["type"] in ("Lowercase", "BertNormalizer") for step in normalizers)
    return Chunker(gpt2, contents, lowers)


def _forms(content: str) -> set[str]:
    return {content, content.lower(), unicodedata.normalize("NFKC", content)}


def _state(part: Any) -> Any:
    """A part of a pipeline as JSON: as the library understood it, not as the file writes it."""
    return None if part is None else json.loads(part.__getstate__())


def _keeps_visible(normalizer: Any) -> bool:
    """Whether every visible ASCII character stays one: none becomes a space, a mark or nothing."""
    return normalizer is None or all(
        _VISIBLE.fullmatch(normalizer.normalize_str(chr(code))) for code in range(33, 127)
    )


def _may_be_made_over_a_space(token: Any) -> bool:
    """Whether the words of an added token can be others before normalization."""
    return bool(token.normalized and re.search(_SPACE, token.content))


def _steps(part: Any, key: str) -> list[dict[str, Any]]:
    """The steps of a part of a pipeline, sequences unfolded."""
    if not isinstance(part, dict):
        return []
    if part.get("type") == "Sequence":
        return [step for inner in part.get(key) or [] for step in _steps(inner, key)]
    return [part]


def _is_gpt2(normalizers: list[dict[str, Any]], splitters: list[dict[str, Any]]) -> bool:
    return (
        all(step["type"] == "NFC" for step in normalizers)
        and len(splitters) == 1
        and splitters[0]["type"] == "ByteLevel"
        and splitters[0].get("use_regex", True) is True
        and splitters[0].get("add_prefix_space") is False
    )


def _is_local(step: dict[str, Any]) -> bool:
    """Whether a normalizer leaves a single space between visible ASCII characters as a border."""
    if step["type"] == "Replace":
        pattern = step.get("pattern") or {}
        if pattern.get("Regex") == " {2,}":
            return True
        text = pattern.get("String")
        return bool(text and " " not in text and _VISIBLE.fullmatch(step.get("content") or ""))
    return step["type"] in _LOCAL or step["type"] == "Strip"


def _divides_at_spaces(splitters: list[dict[str, Any]]) -> bool:
    """Whether a space divides words, and a word at the start of a text is like any other."""
    if not splitters:
        return False
    first, *rest = splitters
    if first["type"] == "Metaspace":
        return not rest and _marks_every_word(first)
    return first["type"] in _DIVIDING and all(
        step["type"] in _DIVIDING | {"Punctuation", "Digits"}
        or (step["type"] == "Metaspace" and _marks_every_word(step))
        for step in rest
    )


def _marks_every_word(step: dict[str, Any]) -> bool:
    return (
        step.get("prepend_scheme", "always") == "always"
        and step.get("split", True) is True
        and not _VISIBLE.match(step["replacement"])
    )
