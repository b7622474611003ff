"""Random spans of a text, drawn on the device in static shapes, as T5 and BART remove them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key

# Bits of a sort key that hold a position; the rest are noise. Longer examples are refused.
_POSITION_BITS = 13
_NOISE_BITS = 31 - _POSITION_BITS
LONGEST = 1 << _POSITION_BITS

# Length, density, mean span -> removed tokens, spans.
Counts = Callable[[int, float, float], tuple[int, int]]


class Spans(NamedTuple):
    """Spans of texts of up to T tokens.

    `noise` bool `[rows, T]`: the removed tokens; `starts` bool `[rows, T + 1]`: true at the token
    before which a span begins, which for an empty span is a token that is kept (or T).
    """

    noise: tf.Tensor
    starts: tf.Tensor


def t5_counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """Tokens and spans that T5 removes from a text (arXiv 1910.10683, `random_spans_noise_mask`).

    None are removed from a text of one token.
    """
    if length < 2:
        return 0, 0
    noise = min(max(round(length * density), 1), length - 1)
    return noise, max(1, min(round(noise / mean), noise, length - noise))


def infilling_counts(length: int, density: float, mean: float) -> tuple[int, int]:
    """Tokens and spans that infilling removes; at least one token separates two spans."""
    if length < 1:
        return 0, 0
    noise = min(max(round(length * density), 1), length)
    return noise, max(1, min(round(noise / mean), length - noise + 1))


def most(counts: Counts, length: int, density: float, mean: float) -> tuple[int, int, int]:
    """Maxima over texts of up to `length` tokens.

    Returns the largest number of removed tokens, of spans, and of tokens in the corrupted text,
    where a span counts as one token.
    """
    table = [(n, *counts(n, density, mean)) for n in range(length + 1)]
    return (
        max(noise for _, noise, _ in table),
        max(spans for *_, spans in table),
        max(n - noise + spans for n, noise, spans in table),
    )


def counted(
    counts: Counts, lengths: tf.Tensor, size: int, density: float, mean: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Removed tokens and spans, int32 `[rows]` each, of texts of `lengths` int32 `[rows]`.

    From a table for lengths up to `size`, so that device and host round alike.
    """
    table = tf.constant([counts(n, density, mean) for n in range(size + 1)], tf.int32)
    both = tf.gather(table, lengths)
    return both[:, 0], both[:, 1]


def distinct(key: Key, below: tf.Tensor, count: tf.Tensor, size: int, width: int) -> tf.Tensor:
    """A uniformly random subset of `count` numbers of [0, `below`), ascending, padded with `size`.

    Returns int32 `[rows, width]`. `below`, `count`: int32 `[rows]`, at most `size` and `width`.
    Raises ValueError for a size above 8192.
    """
    if size > LONGEST:
        raise ValueError(f"examples of {size} tokens are too long for denoising; at most {LONGEST}")
    if width < 1 or size < 1:
        return tf.fill((count.shape[0], max(width, 0)), size)
    noise = tf.cast(
        tf.bitwise.right_shift(key.bits(size), tf.constant(32 - _NOISE_BITS, tf.uint32)), tf.int32
    )
    places = tf.range(size, dtype=tf.int32)
    order = tf.bitwise.bitwise_or(tf.bitwise.left_shift(noise, _POSITION_BITS), places)
    _, drawn = tf.math.top_k(tf.where(places < below[:, None], order, -1), k=min(width, size))
    drawn = tf.sort(tf.where(tf.range(drawn.shape[1]) < count[:, None], drawn, size), axis=-1)
    return tf.pad(drawn, ((0, 0), (0, width - drawn.shape[1])), constant_values=size)


def _placed(before: tf.Tensor, lengths: tf.Tensor, spans: tf.Tensor, size: int) -> Spans:
    """Spans from their lengths and the number of kept tokens before each, int32 `[rows, K]`.

    Only the first `spans` (int32 `[rows]`) of a row are used.
    """
    alive = tf.range(before.shape[1]) < spans[:, None]
    begin = tf.where(alive, before + tf.cumsum(lengths, axis=1, exclusive=True), -1)[:, :, None]
    end = begin + tf.where(alive, lengths, 0)[:, :, None]
    place = tf.range(size + 1)[None, None, :]
    starts = tf.reduce_any(tf.equal(place, begin), axis=1)
    return Spans(
        tf.reduce_any(tf.logical_and(place >= begin, place < end), axis=1)[:, :size], starts
    )


def t5_spans(key: Key, lengths: tf.Tensor, size: int, density: float, mean: float) -> Spans:
    """Spans of texts of `lengths` int32 `[rows]` as T5 draws them.

    Removed and kept tokens are each divided into as many parts, all divisions equally likely, and
    alternate; a text begins with kept tokens and ends with a span.
    """
    most_noise, most_spans, _ = most(t5_counts, size, density, mean)
    noise, spans = counted(t5_counts, lengths, size, density, mean)
    cuts = tf.minimum(
        distinct(key.fold("noise"), noise - 1, spans - 1, most_noise, most_spans - 1) + 1,
        noise[:, None],
    )
    bounds = tf.concat([tf.zeros_like(noise)[:, None], cuts, noise[:, None]], axis=1)
    kept = (lengths - noise)[:, None]
    before = tf.minimum(
        distinct(key.fold("kept"), kept[:, 0] - 1, spans - 1, size, most_spans - 1) + 1, kept
    )
    return _placed(tf.concat([before, kept], axis=1), bounds[:, 1:] - bounds[:, :-1], spans, size)


def infilling_spans(key: Key, lengths: tf.Tensor, size: int, density: float, mean: float) -> Spans:
    """Spans of texts of `lengths` int32 `[rows]` for BART's infilling (arXiv 1910.13461, 2.2).

    Lengths are Poisson with mean `mean`, conditioned on their sum: each removed token belongs to a
    uniformly random span. A span may be empty, which inserts a mask. Spans begin at distinct gaps
    between kept tokens, all choices equally likely.
    """
    most_noise, most_spans, _ = most(infilling_counts, size, density, mean)
    noise, spans = counted(infilling_counts, lengths, size, density, mean)
    owner = tf.cast(
        key.fold("length").uniform(most_noise) * tf.cast(spans, tf.float32)[:, None], tf.int32
    )
    owner = tf.where(
        tf.range(most_noise) < noise[:, None], tf.minimum(owner, spans[:, None] - 1), -1
    )
    held = tf.reduce_sum(
        tf.cast(tf.equal(owner[:, None, :], tf.range(most_spans)[None, :, None]), tf.int32), axis=2
    )
    before = distinct(key.fold("gap"), lengths - noise + 1, spans, size + 1, most_spans)
    return _placed(before, held, spans, size)


def compact_left(values: tf.Tensor, keep: tf.Tensor, fill: int) -> tf.Tensor:
    """Values `[rows, T]` where `keep` is true, moved to the left in order and padded with `fill`.

    Each value moves by the number of dropped values before it, one bit of that number at a time,
    the lowest first: log2(T) shifts without scatter or sort. Values never collide: of two kept
    values, the later moves further by at most the number of positions between them.
    """
    length = values.shape[1]
    move = tf.cumsum(tf.cast(tf.logical_not(keep), tf.int32), axis=1)

    def left(t: tf.Tensor, by: int) -> tf.Tensor:
        return tf.pad(t[:, by:], ((0, 0), (0, by)))

    shift = 1
    while shift < length:
        moving = tf.logical_and(keep, tf.bitwise.bitwise_and(move, shift) != 0)
        arrived = left(moving, shift)
        values, move = (tf.where(arrived, left(t, shift), t) for t in (values, move))
        keep = tf.logical_or(arrived, tf.logical_and(keep, tf.logical_not(moving)))
        shift *= 2
    return tf.where(keep, values, fill)


def marked(
    x: tf.Tensor, marks: tf.Tensor, starts: tf.Tensor, keep: tf.Tensor, fill: int
) -> tf.Tensor:
    """Kept tokens of `x` int32 `[rows, T]` with `marks` inserted at `starts`: `[rows, 2 T + 2]`.

    `marks`, `starts`: `[rows, T + 1]`; a mark goes before the token of its index. The rest is
    `fill`.
    """
    rows, length = x.shape
    more = ((0, 0), (0, 1))
    values = tf.reshape(tf.stack([marks, tf.pad(x, more)], axis=2), (rows, 2 * length + 2))
    kept = tf.reshape(tf.stack([starts, tf.pad(keep, more)], axis=2), (rows, 2 * length + 2))
    return compact_left(values, kept, fill)
