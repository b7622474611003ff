"""Tokens as rows of character ids, as ELMo takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tpu_tlm.config.elmo import (
    BEGIN_SENTENCE,
    BEGIN_WORD,
    CHARACTERS,
    END_SENTENCE,
    END_WORD,
    PADDING,
    SHIFT,
    sentence_mark,
)
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.errors import UsageError

_SENTENCE = {"<S>": BEGIN_SENTENCE, "</S>": END_SENTENCE}


class CharacterTokenizer(Tokenizer):
    """Texts split at white space; a token is `width` ids: its first `width` - 2 bytes of UTF-8
    between two marks, then padding (AllenNLP's `ELMoCharacterMapper`).

    `Encoded.ids` of it is int32 `[tokens, width]`. There is no vocabulary: every token is known.
    """

    kind = "elmo"

    def __init__(self, width: int = 50) -> None:
        names = [f"<{i}>" for i in range(CHARACTERS + SHIFT)]
        super().__init__(names, True, {}, ())
        self.width = width
        self.pad_id, self.unk_id, self.special_ids = 0, PADDING, (0, BEGIN_SENTENCE, END_SENTENCE)
        self._rows: dict[str, np.ndarray] = {}

    @property
    def cls_id(self) -> int:
        """Raises `UsageError`, as the two below: a token is not one id."""
        raise UsageError("ELMo has no special tokens: its tokens are rows of characters")

    @property
    def sep_id(self) -> int:
        """Raises `UsageError`."""
        return self.cls_id

    @property
    def mask_id(self) -> int:
        """Raises `UsageError`."""
        return self.cls_id

    def row(self, token: str) -> np.ndarray:
        """The ids of one token: int32 `[width]`."""
        found = self._rows.get(token)
        if found is None:
            if token in _SENTENCE:
                ids = sentence_mark(_SENTENCE[token], self.width)
            else:
                data = token.encode("utf-8", "ignore")[: self.width - 2]
                ids = [BEGIN_WORD, *(byte + SHIFT for byte in data), END_WORD]
                ids += [PADDING] * (self.width - len(ids))
            found = np.array(ids, np.int32)
            if len(self._rows) < 200_000:
                self._rows[token] = found
        return found

    def rows(self, tokens: Sequence[str]) -> np.ndarray:
        """The ids of tokens as they are: int32 `[tokens, width]`."""
        empty = np.zeros((0, self.width), np.int32)
        return np.stack([self.row(token) for token in tokens]) if len(tokens) else empty

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        """Rows of UTF-8 lines split at white space."""
        tokens = [line.decode("utf-8", "replace").split() for line in lines]
        ids: Any = self.rows([token for own in tokens for token in own])
        offsets = np.concatenate([[0], np.cumsum([len(own) for own in tokens])]).astype(np.int64)
        return Encoded(ids, np.ones(len(ids), np.bool_), offsets)

    def encode(self, text: str) -> list[int]:
        """Raises `UsageError`: a text is no list of ids."""
        return [self.cls_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens of rows of ids, flat or not, joined with spaces."""
        found = []
        for row in np.asarray(list(ids), np.int64).reshape(-1, self.width):
            data = bytes(int(i) - SHIFT for i in row if SHIFT <= i < BEGIN_SENTENCE)
            if row.any():
                found.append(data.decode("utf-8", "replace"))
        return " ".join(found)

    def description(self) -> dict[str, Any]:
        """What defines this tokenizer: the number of ids of a token."""
        return {**super().description(), "width": self.width}
