"""Rows to token ids: framing, pairs, cutting or windows, words of tagged sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.characters import CharacterTokenizer
from tpu_tlm.data.tokenizers.hf import HfTokenizer
from tpu_tlm.errors import OptionError
from tpu_tlm.models.positions.registry import max_length as longest
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.read import Row

# Where the model has no longest text of its own.
DEFAULT_LENGTH = 512
# Texts per call of the tokenizer.
_CHUNK = 4096
# How texts become ids: what a run notes, so that it is read as it was trained. 1: line breaks are
# spaces, a causal model's texts end with its end token, words of a sentence are split each as if
# it were the first, and pairs stand as RoBERTa's wherever a text ends with </s>.
RULES = 2


@dataclass
class Examples:
    """Token ids of windows of texts; a text that fits has one window.

    ids: int32 arrays, of ELMo a row of characters for each token. types: token types, of pairs in
    one sequence. second: ids of the second texts, where each is encoded by itself. of: row of each
    window, int64 `[windows]`. words: for tagging, the word that each position is the first piece
    of, else -1. rows: number of rows. cut: rows of which tokens were left out.
    """

    ids: list[np.ndarray]
    types: list[np.ndarray] | None
    second: list[np.ndarray] | None
    of: np.ndarray
    words: list[np.ndarray] | None
    rows: int
    cut: int

    def lengths(self) -> np.ndarray:
        """Tokens of each window (the longer of two texts): int64 `[windows]`."""
        own = np.array([len(x) for x in self.ids], np.int64)
        if self.second is None:
            return own
        return np.maximum(own, [len(x) for x in self.second])

    def windows(self) -> np.ndarray:
        """Number of windows of each row: int64 `[rows]`."""
        return np.bincount(self.of, minlength=self.rows)


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], *, breaks: bool = False
) -> list[np.ndarray]:
    """Token ids of each text, int32, nothing added. breaks: line breaks are kept, else spaces.

    Of a tokenizer of characters `[tokens, width]`.
    """
    found: list[np.ndarray] = []
    for start in range(0, len(texts), _CHUNK):
        some = texts[start : start + _CHUNK]
        if not breaks:
            some = [text.replace("\r", " ").replace("\n", " ") for text in some]
        lines = [text.encode("utf-8", "replace") for text in some]
        encoded = tokenizer.encode_lines(lines)
        offsets = np.asarray(encoded.offsets)
        ids = np.asarray(encoded.ids).astype(np.int32)
        found += [ids[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
    return found


def _spaced(tokenizer: Tokenizer) -> bool:
    """Whether a word inside a text is split as with the space before it, as byte-level BPE does."""
    parts = tokenize(tokenizer, ["the of x", "the", "of", "x", " of", " x"])
    whole, first, *others = ([int(i) for i in part] for part in parts)
    return whole != first + others[0] + others[1] and whole == first + others[2] + others[3]


class Framer:
    """Makes model inputs of texts: framed as the model's training examples were.

    max_length: tokens of a window at most, frame included. stride: tokens that neighbouring
    windows share; 0: long texts are cut (words of tagged sentences never are: they become windows
    side by side). whole: long texts become windows side by side instead. pairs: None, "joint" (a
    row without a second text is a single one) or "shared". rules: `RULES` of what was trained
    before.

    A text ends with the model's end token, but that of a causal model, which a prompt has not.

    Raises `UsageError` for a length or stride that the model cannot take.
    """

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        stride: int = 0,
        pairs: str | None = None,
        whole: bool = False,
        rules: int = RULES,
    ) -> None:
        self.windowed = whole or bool(stride)
        self.spec, self.tokenizer, self.pairs, self.stride = spec, tokenizer, pairs, stride
        limit = longest(spec)
        if max_length is not None and limit is not None and max_length > limit:
            raise OptionError(f"--max_length {max_length}: the model takes {limit} tokens at most")
        if pairs == "joint" and isinstance(tokenizer, CharacterTokenizer):
            raise OptionError(
                "--pair_encoder joint: an ELMo takes one text at a time; use --pair_encoder shared"
            )
        self.max_length = max_length or min(limit or DEFAULT_LENGTH, DEFAULT_LENGTH)
        self.prefix = [] if spec.prefix_id is None else [spec.prefix_id]
        ending = spec.suffix_id if spec.suffix_id is not None else spec.eol_id
        ends = [] if ending is None else [ending]
        self.suffix = [] if spec.kind == "clm" and rules > 1 else ends
        double = rules == 1 and bool(ends) and tokenizer.tokens[ends[0]] == "</s>"
        self.between, self.types = ends * (2 if double else 1), True
        self.breaks = self.spaced = False
        if rules > 1 and isinstance(tokenizer, HfTokenizer):
            self.breaks, self.spaced = True, _spaced(tokenizer)
            if found := tokenizer.pair_frame(self.prefix, self.suffix):
                self.between, self.types = found
        self.room = self.max_length - len(self.prefix) - len(self.suffix)
        least = 2 + len(self.between) - len(self.suffix) if pairs == "joint" else 1
        if self.room - least < 0:
            raise OptionError(f"--max_length {self.max_length}: leaves no room for a token of text")
        if not 0 <= stride < self.room:
            raise OptionError(
                f"--stride {stride}: must be from 0 to {self.room - 1}, less than the tokens of "
                "a window"
            )

    def __call__(self, rows: Sequence[Row]) -> Examples:
        """The examples of rows; every row has at least one window."""
        if rows and isinstance(rows[0].text, list):
            return self._tagged(rows)
        first = self._tokenize([str(row.text) for row in rows])
        if self.pairs is None:
            return self._single(first)
        second = self._tokenize([row.text2 or "" for row in rows])
        if self.pairs == "shared":
            return self._shared(first, second)
        return self._joint(first, second, [row.text2 is None for row in rows])

    def _tokenize(self, texts: Sequence[str]) -> list[np.ndarray]:
        return tokenize(self.tokenizer, texts, breaks=self.breaks)

    def end_fault(self) -> str | None:
        """What is wrong unless texts end with an encoder-decoder's end token, at which a head on
        its decoder stands."""
        end, pad = self.spec.y_suffix_id, self.spec.pad_id
        if self.suffix == [end] and end != pad:
            return None
        found = self.suffix[0] if self.suffix else "none"
        return f"the head reads the end token {end}; texts end with {found}, padding is {pad}"

    def _framed(self, body: np.ndarray) -> np.ndarray:
        if not len(body):  # nothing but characters that the tokenizer removes
            body = self._unknown()
        parts = [np.array(self.prefix, np.int32), body, np.array(self.suffix, np.int32)]
        return np.concatenate([part for part in parts if len(part)]).astype(np.int32)

    def _unknown(self) -> np.ndarray:
        """What stands for a text of which no token is left."""
        if isinstance(self.tokenizer, CharacterTokenizer):
            return self.tokenizer.rows([""])
        unknown = self.tokenizer.unk_id
        # Byte-level vocabularies have none.
        return np.array([unknown if unknown < self.spec.vocab_size else self.spec.pad_id], np.int32)

    def _words(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The pieces of each word, as in a text of them; ELMo takes every word as it is."""
        words = [word for row in rows for word in row.text]
        if isinstance(self.tokenizer, CharacterTokenizer):
            return list(self.tokenizer.rows(words)[:, None])
        if self.spaced:
            words = [" " * (i > 0) + word for row in rows for i, word in enumerate(row.text)]
        return self._tokenize(words)

    def _pieces(self, body: np.ndarray) -> list[np.ndarray]:
        if len(body) <= self.room:
            return [body]
        if not self.windowed:
            return [body[: self.room]]
        step = self.room - self.stride
        starts = range(0, len(body) - self.stride, step)
        return [body[start : start + self.room] for start in starts]

    def _single(self, bodies: list[np.ndarray]) -> Examples:
        ids: list[np.ndarray] = []
        of: list[int] = []
        cut = 0
        for i, body in enumerate(bodies):
            pieces = self._pieces(body)
            cut += len(body) > self.room and not self.windowed
            ids += [self._framed(piece) for piece in pieces]
            of += [i] * len(pieces)
        return Examples(ids, None, None, np.array(of, np.int64), None, len(bodies), cut)

    def _shared(self, first: list[np.ndarray], second: list[np.ndarray]) -> Examples:
        cut = sum(max(len(a), len(b)) > self.room for a, b in zip(first, second, strict=True))
        return Examples(
            [self._framed(a[: self.room]) for a in first],
            None,
            [self._framed(b[: self.room]) for b in second],
            np.arange(len(first)),
            None,
            len(first),
            cut,
        )

    def _joint(
        self, first: list[np.ndarray], second: list[np.ndarray], single: Sequence[bool]
    ) -> Examples:
        room = self.room - len(self.between)
        ids, types, cut = [], [], 0
        for a, b, alone in zip(first, second, single, strict=True):
            if alone:
                cut += len(a) > self.room
                ids.append(self._framed(a[: self.room]))
                types.append(np.zeros(len(ids[-1]), np.int32))
                continue
            # The longer text gives way.
            keep_a = min(len(a), max(room - len(b), room // 2))
            keep_b = min(len(b), room - keep_a)
            cut += keep_a < len(a) or keep_b < len(b)
            left = [*self.prefix, *a[:keep_a], *self.between]
            right = [*b[:keep_b], *self.suffix]
            ids.append(np.array([*left, *right], np.int32))
            types.append(np.array([0] * len(left) + [1] * len(right), np.int32))
        with_types = types if self.types and self.spec.config.type_vocab_size >= 2 else None
        return Examples(ids, with_types, None, np.arange(len(first)), None, len(first), cut)

    def _tagged(self, rows: Sequence[Row]) -> Examples:
        pieces = self._words(rows)
        ids: list[np.ndarray] = []
        words: list[np.ndarray] = []
        of: list[int] = []
        cut, at = 0, 0
        unknown = self._unknown()
        for i, row in enumerate(rows):
            own = [p if len(p) else unknown for p in pieces[at : at + len(row.text)]]
            at += len(row.text)
            cut += any(len(p) > self.room for p in own)
            own = [p[: self.room] for p in own]
            for start, end in self._spans([len(p) for p in own]):
                first = np.concatenate(
                    [[w, *[-1] * (len(own[w]) - 1)] for w in range(start, end)]
                ).astype(np.int32)
                ids.append(self._framed(np.concatenate(own[start:end])))
                words.append(
                    np.concatenate(
                        [[-1] * len(self.prefix), first, [-1] * len(self.suffix)]
                    ).astype(np.int32)
                )
                of.append(i)
        return Examples(ids, None, None, np.array(of, np.int64), words, len(rows), cut)

    def _spans(self, lengths: list[int]) -> list[tuple[int, int]]:
        """Windows of words, [start, end), that fit; neighbours share about `stride` tokens."""
        spans: list[tuple[int, int]] = []
        start = 0
        while True:
            end, total = start, 0
            while end < len(lengths) and total + lengths[end] <= self.room:
                total += lengths[end]
                end += 1
            spans.append((start, end))
            if end == len(lengths):
                return spans
            back, shared = end, 0
            while back - 1 > start and shared + lengths[back - 1] <= self.stride:
                back -= 1
                shared += lengths[back]
            start = back
