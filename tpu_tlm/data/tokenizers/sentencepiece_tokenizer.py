"""A SentencePiece model file, split by the library `sentencepiece` itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from tpu_tlm.data.tokenizers.base import Encoded
from tpu_tlm.data.tokenizers.hf import PIPELINE, HfTokenizer
from tpu_tlm.errors import UsageError

SPIECE = "spiece.model"
_SPACE = "\u2581"


class SentencePieceTokenizer(HfTokenizer):
    """A `spiece.model` that no tokenizer.json describes: the pieces and ids of its own library.

    `contents` has the model and a tokenizer.json made from it, for special tokens, decoding and
    export. The library `tokenizers` runs the latter, and differs from `sentencepiece` where
    characters join (zero-width joiners, marks), in runs of one character, and for control symbols
    written in a text. Words begin with the mark of a space.
    """

    def __init__(self, contents: dict[str, bytes], *, name: str = SPIECE) -> None:
        super().__init__(contents, name=name)
        self._processor = _processor(contents[SPIECE], name)
        self._starts = np.array([token.startswith(_SPACE) for token in self.tokens], bool)
        special = sorted((self.tokens[i] for i in self.special_ids), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, special)) + ")")
        self._special_tokens = set(special)

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        found: list[list[int]] = self._processor.encode(
            [line.decode() for line in lines], num_threads=1
        )
        offsets = np.zeros(len(lines) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=offsets[1:])
        ids = np.fromiter(chain.from_iterable(found), np.uint32, int(offsets[-1]))
        word_start = self._starts[ids]
        word_start[offsets[:-1][np.diff(offsets) > 0]] = True
        return Encoded(ids, word_start, offsets)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._special.split(text.encode("utf-8", "replace").decode()):
            if part in self._special_tokens:
                ids.append(self.required_id(part))
            elif part:
                ids += self._processor.encode(part)
        return ids


def _processor(data: bytes, name: str) -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UsageError(
            f"{name}: install sentencepiece (extra `hf`), the library that reads it, or give a "
            f"{PIPELINE}"
        ) from None
    return sentencepiece.SentencePieceProcessor(model_proto=data)
