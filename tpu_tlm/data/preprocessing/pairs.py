"""Groups of texts -> pairs of fixed lengths: the context in `x`, the response in `y`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.data.corpus.pair_rows import Group, RowRule, turns_in
from tpu_tlm.data.preprocessing.packing import Examples, Packing, Tokens
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer

Ids: TypeAlias = NDArray[np.uint32]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PairRule:
    """How pairs are made.

    `rows`: how files are read; `y`: frame and length of the second text; `turn`: the id between the
    turns of a history; `last_turn_only`: the history is the turn before the response.
    """

    rows: RowRule
    y: Packing
    turn: int | None = None
    last_turn_only: bool = False


class Pairs(NamedTuple):
    """Framed pairs: `x` with word starts, `y` uint32 [n, seq_length_y].

    `cut_x`, `cut_y`: how many texts were truncated; `empty`: groups without a pair.
    """

    x: Examples
    y: NDArray[np.uint32]
    cut_x: int
    cut_y: int
    empty: list[int]


class _Stream(NamedTuple):
    """The tokens of many texts in a row, and where each text begins and ends."""

    tokens: Tokens
    starts: Indices
    ends: Indices


def make_pairs(groups: Sequence[Group], encoded: Encoded, x: Packing, rule: PairRule) -> Pairs:
    """Pairs of groups whose texts, one after the other, were encoded as `encoded`.

    ntp: a text and all those before it in its group (or the one before), joined by `turn`; tsv: the
    two of a row; nsp: see `_halves`. Histories (ntp) and first halves (nsp) that are too long lose
    their beginning, at a word; other texts lose their end.
    """
    sizes = np.array([len(group.texts) for group in groups], np.int64)
    owner = np.repeat(np.arange(len(groups)), sizes)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    joined = rule.rows.kind == "ntp"
    stream = _joined(encoded, owner, rule.turn if joined else None)
    if rule.rows.kind == "nsp":
        x_start, x_end, y_start, y_end, of = _halves(
            stream, first, owner, sizes, x.body, rule.y.body
        )
    else:
        number = np.arange(len(owner))
        last = np.append(owner[1:] != owner[:-1], True)
        every = np.array([group.every for group in groups], bool)[owner]
        answers = np.flatnonzero((number > first) & (every | last))
        begin = answers - 1 if rule.last_turn_only else first[answers]
        x_start, x_end = stream.starts[begin], stream.ends[answers - 1]
        y_start, y_end, of = stream.starts[answers], stream.ends[answers], owner[answers]
    there = (x_end > x_start) & (y_end > y_start)
    x_start, x_end, y_start, y_end = (a[there] for a in (x_start, x_end, y_start, y_end))
    keep_end = _keeps_end(rule.rows.kind)
    framed_x, cut_x = framed(
        stream.tokens, x_start, x_end, x, keep_end=keep_end, between=rule.turn if joined else None
    )
    framed_y, cut_y = framed(stream.tokens, y_start, y_end, rule.y, keep_end=False)
    # Of a document too short to be halved there is no pair at all.
    none = sorted({*of[~there].tolist(), *(set(range(len(groups))) - set(of.tolist()))})
    return Pairs(framed_x, framed_y.ids, cut_x, cut_y, none)


def _joined(encoded: Encoded, owner: Indices, turn: int | None) -> _Stream:
    """The texts' tokens, with `turn` after each that another one of its group follows."""
    lengths = np.diff(encoded.offsets)
    more = np.zeros(len(lengths), np.int64)
    if turn is not None and len(owner):
        more[:-1] = owner[1:] == owner[:-1]
    ends_with = np.cumsum(lengths + more)
    starts = ends_with - lengths - more
    if turn is None:
        return _Stream(Tokens(encoded.ids, encoded.word_start), starts, starts + lengths)
    ids = np.full(int((lengths + more).sum()), turn, np.uint32)
    word_start = np.ones(len(ids), bool)
    of_text = np.arange(len(encoded.ids)) + np.repeat(starts - encoded.offsets[:-1], lengths)
    ids[of_text], word_start[of_text] = encoded.ids, encoded.word_start
    return _Stream(Tokens(ids, word_start), starts, starts + lengths)


def _next_word(word_start: NDArray[np.bool_]) -> Indices:
    """For each place, the first place from there on where a word begins (else the end)."""
    count = len(word_start)
    places = np.where(word_start, np.arange(count), count)
    return np.append(np.minimum.accumulate(places[::-1])[::-1], count)


def framed(
    tokens: Tokens,
    starts: Indices,
    ends: Indices,
    packing: Packing,
    *,
    keep_end: bool,
    between: int | None = None,
) -> tuple[Examples, int]:
    """Ranges of a run of tokens as examples, one each, and how many were too long.

    Those keep their end (cut before a word, and after `between` where that comes first) or their
    beginning.
    """
    long = ends - starts > packing.body
    if keep_end:
        at = ends - packing.body
        word = _next_word(tokens.word_start)[np.where(long, at, 0)]
        cut = np.where(word < ends, word, at)
        if between is not None and len(tokens.ids):
            cut += (tokens.ids[np.minimum(cut, len(tokens.ids) - 1)] == between) & (cut + 1 < ends)
        starts = np.where(long, cut, starts)
    else:
        ends = np.where(long, starts + packing.body, ends)
    rows, lengths = len(starts), ends - starts
    first = 0 if packing.prefix is None else 1
    ids = np.full((rows, packing.seq_length), packing.pad_id, np.uint32)
    word_start = np.zeros((rows, packing.seq_length), bool)
    inside = np.arange(packing.body) < lengths[:, None]
    source = (starts[:, None] + np.arange(packing.body))[inside]
    ids[:, first : first + packing.body][inside] = tokens.ids[source]
    word_start[:, first : first + packing.body][inside] = tokens.word_start[source]
    if packing.prefix is not None:
        ids[:, 0] = packing.prefix
    if packing.suffix is not None:
        ids[np.arange(rows), first + lengths] = packing.suffix
    return Examples(ids, word_start), int(long.sum())


def framed_texts(
    texts: Sequence[bytes],
    tokenizer: Tokenizer,
    packing: Packing,
    *,
    turn: int | None = None,
    first_of: str | None = None,
) -> Ids:
    """Texts as one side of examples, uint32 [n, length], as `make_pairs` frames them.

    `first_of`: they are the first texts of pairs of this kind (ntp, nsp, tsv); none: the second
    texts of any. The turns of a history (ntp) are joined by `<EOU>`: of one without `turn` the last
    turn is taken.
    """
    split = [turns_in(text) if first_of == "ntp" else [text] for text in texts]
    if turn is None:
        split = [turns[-1:] for turns in split]
    sizes = np.array([len(turns) for turns in split], np.int64)
    stream = _joined(
        tokenizer.encode_lines([t for turns in split for t in turns]),
        np.repeat(np.arange(len(split)), sizes),
        turn,
    )
    last = np.cumsum(sizes) - 1
    starts, ends = stream.starts[last - sizes + 1], stream.ends[last]
    return framed(
        stream.tokens, starts, ends, packing, keep_end=_keeps_end(first_of), between=turn
    )[0].ids


def _keeps_end(kind: str | None) -> bool:
    """Whether a first text that is too long loses its beginning.

    True where the second text continues from the end of the first.
    """
    return kind in ("ntp", "nsp")


def _halves(
    stream: _Stream, first: Indices, owner: Indices, sizes: Indices, room_x: int, room_y: int
) -> tuple[Indices, Indices, Indices, Indices, Indices]:
    """Documents cut in two between sentences: starts and ends of both halves, and their group.

    A document longer than a pair has room for is first cut into stretches of about the same length,
    between sentences where one ends in the second half of the room. A stretch is halved at the
    sentence end nearest to the place that divides it as the rooms are divided, among those that
    leave both halves in their room; where there is none, between two words.
    """
    words = np.flatnonzero(stream.tokens.word_start)
    found: list[tuple[int, int, int, int]] = []
    text = 0
    for group, count in enumerate(sizes.tolist()):
        inner = stream.starts[text : text + count]
        at, stop = int(inner[0]), int(stream.ends[text + count - 1])
        text += count
        while stop - at > 1:
            parts = -(-(stop - at) // (room_x + room_y))
            end = stop
            if parts > 1:
                length = min(-(-(stop - at) // parts), room_x + room_y)
                end = (
                    _nearest(
                        (inner, words), at + length, at + max(1, length // 2), at + room_x + room_y
                    )
                    or at + length
                )
            target = at + round((end - at) * room_x / (room_x + room_y))
            feasible = max(at + 1, end - room_y), min(end - 1, at + room_x)
            middle = _nearest((inner, words), target, *feasible) or _nearest(
                (words,), target, at + 1, end - 1
            )
            if middle:
                found.append((at, middle, end, group))
            at = end
    table = np.array(found, np.int64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 1], table[:, 2], table[:, 3]


def _nearest(choices: Sequence[Indices], target: int, low: int, high: int) -> int | None:
    """The member nearest to `target` in [low, high], of the first array that has one there.

    choices: sorted arrays.
    """
    for places in choices:
        a, b = np.searchsorted(places, [low, high + 1])
        if a < b:
            i = int(np.clip(np.searchsorted(places, target), a, b - 1))
            near = [int(places[j]) for j in (i - 1, i) if a <= j < b]
            return min(near, key=lambda place: abs(place - target))
    return None
