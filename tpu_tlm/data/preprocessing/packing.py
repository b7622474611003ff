"""Encoded lines -> examples of one fixed length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.errors import UsageError


class Tokens(NamedTuple):
    """A run of tokens: ids uint32 [n], and bool [n] that is true where a word begins."""

    ids: NDArray[np.uint32]
    word_start: NDArray[np.bool_]


class Examples(NamedTuple):
    """Rows of one length: ids uint32 and word starts bool, both [rows, length]."""

    ids: NDArray[np.uint32]
    word_start: NDArray[np.bool_]


NO_TOKENS = Tokens(np.empty(0, np.uint32), np.empty(0, bool))


@dataclass(frozen=True)
class Packing:
    """Length of examples, and the ids at fixed places (None: no token there).

    An example is `prefix`, tokens, `suffix`, then `pad_id` up to `seq_length`. `eol` is appended to
    every line. Word starts are true where a word or an `eol` begins, false on the later pieces of a
    word, on prefix, suffix and padding. `documents`: every document begins a new example. `flag`:
    the option that sets `seq_length`.
    """

    seq_length: int
    pad_id: int
    prefix: int | None = None
    suffix: int | None = None
    eol: int | None = None
    documents: bool = False
    flag: str = "--seq_length"

    def __post_init__(self) -> None:
        if self.body < 1:
            raise UsageError(
                f"{self.flag} {self.seq_length}: no room for a token beside prefix and suffix; "
                f"take a larger {self.flag}"
            )

    @property
    def body(self) -> int:
        """Tokens of text in a full example."""
        return self.seq_length - (self.prefix is not None) - (self.suffix is not None)


class Packer:
    """Packs runs of tokens into examples; `leftover` or `finish` gives the incomplete last one."""

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self._held = NO_TOKENS

    def add_lines(
        self,
        tokens: Tokens,
        offsets: NDArray[np.int64],
        begins: NDArray[np.bool_],
        ends: NDArray[np.bool_],
    ) -> Examples:
        """Add encoded lines; line i is tokens[offsets[i]:offsets[i + 1]].

        `begins` [lines] is true where a line is the first of its document, `ends` [lines] where its
        text ends with it (false: the same line goes on in the next call, so nothing is appended).
        """
        starts = offsets[:-1]
        if self.packing.eol is not None:
            added = np.cumsum(ends)
            at = offsets[1:][ends] + added[ends] - 1
            starts = starts + added - ends
            text = np.ones(len(tokens.ids) + len(at), bool)
            text[at] = False
            ids = np.full(len(text), self.packing.eol, np.uint32)
            word_start = np.ones(len(text), bool)
            ids[text] = tokens.ids
            word_start[text] = tokens.word_start
            tokens = Tokens(ids, word_start)
        return self.add(tokens, starts[begins] if self.packing.documents else None)

    def add(self, tokens: Tokens, document_starts: NDArray[np.int64] | None = None) -> Examples:
        """Add a run of tokens.

        document_starts: the places in it where documents begin (only with `documents`).
        """
        held = len(self._held.ids)
        if held:
            tokens = Tokens(
                np.concatenate([self._held.ids, tokens.ids]),
                np.concatenate([self._held.word_start, tokens.word_start]),
            )
        if document_starts is None:
            lengths = np.array([len(tokens.ids)])
        else:
            bounds = np.concatenate([[0], document_starts + held, [len(tokens.ids)]])
            lengths = np.diff(bounds)
        # All documents but the last are complete; the last one may go on: only its full examples
        # are given out.
        rest = int(lengths[-1]) % self.packing.body
        lengths[-1] -= rest
        cut = len(tokens.ids) - rest
        self._held = Tokens(tokens.ids[cut:].copy(), tokens.word_start[cut:].copy())
        return self._rows(tokens, lengths)

    def leftover(self) -> Tokens:
        """The tokens that did not fill an example; the packer is empty afterwards."""
        held, self._held = self._held, NO_TOKENS
        return held

    def finish(self) -> Examples:
        """What is left as one padded example (no row when nothing is left)."""
        held = self.leftover()
        return self._rows(held, np.array([len(held.ids)]))

    def _rows(self, tokens: Tokens, lengths: NDArray[np.int64]) -> Examples:
        """Examples of consecutive runs of tokens, each run beginning a new example."""
        p = self.packing
        lengths = lengths[lengths > 0]
        rows_of = -(-lengths // p.body)
        rows = int(rows_of.sum())
        first = 0 if p.prefix is None else 1
        ids = np.full((rows, p.seq_length), p.pad_id, np.uint32)
        word_start = np.zeros((rows, p.seq_length), bool)
        count = int(lengths.sum())
        filled = np.full(rows, p.body)
        if count == rows * p.body:  # no padding: one copy
            ids[:, first : first + p.body] = tokens.ids[:count].reshape(rows, p.body)
            word_start[:, first : first + p.body] = tokens.word_start[:count].reshape(rows, p.body)
        else:
            last_rows = np.cumsum(rows_of) - 1
            filled[last_rows] = lengths - (rows_of - 1) * p.body
            inside = np.arange(p.body) < filled[:, None]
            ids[:, first : first + p.body][inside] = tokens.ids[:count]
            word_start[:, first : first + p.body][inside] = tokens.word_start[:count]
        if p.prefix is not None:
            ids[:, 0] = p.prefix
        if p.suffix is not None:
            ids[np.arange(rows), first + filled] = p.suffix
        return Examples(ids, word_start)
