"""Compiled decoding loops with cached keys and values: sampling and beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tpu_tlm.inference.constraints import Constraints
from tpu_tlm.inference.sampling import BeamSearch, Sampling, draw
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.masks import MASKED

# Texts int32 [B, S], a position, the caches -> float32 logits [B, V] of the token after it.
Step = Callable[[tf.Tensor, tf.Tensor, Sequence[Cache]], tf.Tensor]

FREE = Constraints()
# Log-probability of impossible tokens: far below any text's, and finite in sums and quotients.
NEVER = -1e30


class Texts(NamedTuple):
    """Texts to continue.

    `x` int32 `[B, S]`: given up to `lengths` and padded after; `lengths`, `stops` int32 `[B]`:
    the number of given tokens, and the position where each text must end.
    """

    x: tf.Tensor
    lengths: tf.Tensor
    stops: tf.Tensor


class Beams(NamedTuple):
    """Results of beam search, best first.

    `x` int32 `[B, W, S]`; `log_probability` of the new tokens and `score`, float32 `[B, W]`.
    """

    x: tf.Tensor
    log_probability: tf.Tensor
    score: tf.Tensor


def among(token: tf.Tensor, ids: Sequence[int]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(token[..., None], tf.constant(tuple(ids) or (-1,))), axis=-1)


def pairs_of(caches: Sequence[Cache]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    return [(c.keys, c.values) for c in caches]


def at_position(place: tf.Tensor, pairs: Any, caches: Sequence[Cache]) -> list[Cache]:
    # The source's keys and values never change, so that the loop does not carry them.
    return [
        Cache(place, keys, values, cache.source)
        for (keys, values), cache in zip(pairs, caches, strict=True)
    ]


def sample(
    step: Step,
    caches: Sequence[Cache],
    texts: Texts,
    number: tf.Tensor,
    sampling: Sampling,
    pad_id: int | None,
    ends: Sequence[int],
    constraints: Constraints = FREE,
) -> tf.Tensor:
    """The texts continued by sampling, each up to one of `ends` or its stop: int32 `[B, S]`.

    Every iteration computes one position of every row; given tokens are kept. Random numbers depend
    on the seed and the `number` of a text (int64 `[B]`) only. Padding is never drawn; `pad_id`
    None: the model has none.
    """
    x, lengths, stops = texts
    size = x.shape[1]

    def unfinished(at: tf.Tensor, x: tf.Tensor, done: tf.Tensor, pairs: Any) -> tf.Tensor:
        return tf.logical_not(tf.reduce_all(done))

    def body(at: tf.Tensor, x: tf.Tensor, done: tf.Tensor, pairs: Any) -> tuple[Any, ...]:
        current = at_position(at, pairs, caches)
        logits = step(x, at, current)
        if pad_id is not None:
            logits = tf.where(tf.equal(tf.range(logits.shape[-1]), pad_id), MASKED, logits)
        logits = constraints(logits, x, at + 1, stops)
        key = Key.of(sampling.seed, number * (1 << 32) + tf.cast(at, tf.int64))
        place = at + 1
        here = tf.equal(tf.range(size), place)[None, :]
        given = place < lengths
        token = tf.where(
            given, tf.reduce_sum(tf.where(here, x, 0), axis=1), draw(logits, sampling, key)
        )
        x = tf.where(tf.logical_and(here, tf.logical_not(done)[:, None]), token[:, None], x)
        ended = tf.logical_and(among(token, ends), tf.logical_not(given))
        done = tf.logical_or(done, tf.logical_or(ended, place + 1 >= stops))
        return place, x, done, pairs_of(current)

    start = (tf.constant(0), x, lengths >= stops, pairs_of(caches))
    return tf.while_loop(unfinished, body, start, maximum_iterations=size)[1]


def beam_search(
    step: Step,
    caches: Sequence[Cache],
    texts: Texts,
    search: BeamSearch,
    pad_id: int | None,
    ends: Sequence[int],
    constraints: Constraints = FREE,
) -> Beams:
    """The texts continued by beam search of width W, each up to one of `ends` or its stop.

    `caches` and `step` are for B * W rows, the W rows of a text adjacent. At every position the W
    best continuations of the W hypotheses are kept, by log-probability over length penalty
    (`BeamSearch`); a hypothesis that has ended keeps its score. A beam of 1 is greedy, a wide
    enough one is exact. Ties are broken by the order of tokens. A text is done when no unfinished
    hypothesis can exceed its best finished one.
    """
    x, lengths, stops = texts
    rows, size = x.shape
    width = search.beam

    def penalty(count: tf.Tensor) -> tf.Tensor:
        return ((5.0 + tf.cast(count, tf.float32)) / 6.0) ** search.length_penalty

    def chosen(t: tf.Tensor, parent: tf.Tensor) -> tf.Tensor:
        return tf.reshape(
            tf.gather(tf.reshape(t, (rows, width, *t.shape[1:])), parent, batch_dims=1), t.shape
        )

    def unfinished(
        at: tf.Tensor, x: tf.Tensor, total: tf.Tensor, count: tf.Tensor, done: tf.Tensor, pairs: Any
    ) -> tf.Tensor:
        best = tf.reduce_max(tf.where(done, total / penalty(count), NEVER), axis=1)
        hope = tf.reduce_max(
            tf.where(done, NEVER, total / penalty(stops - lengths)[:, None]), axis=1
        )
        return tf.reduce_any(hope > best)

    def body(
        at: tf.Tensor, x: tf.Tensor, total: tf.Tensor, count: tf.Tensor, done: tf.Tensor, pairs: Any
    ) -> tuple[Any, ...]:
        current = at_position(at, pairs, caches)
        logits = step(tf.reshape(x, (rows * width, size)), at, current)
        vocab = logits.shape[-1]
        place = at + 1
        padding = tf.equal(tf.range(vocab), pad_id or 0)
        more = tf.reshape(tf.nn.log_softmax(logits), (rows, width, vocab))
        if pad_id is not None:
            more = tf.where(padding, NEVER, more)
        more = constrained(constraints, more, x, place, stops)
        # A finished hypothesis is continued by padding, with log-probability 0.
        all_totals = total[:, :, None] + tf.where(
            done[:, :, None], tf.where(padding, 0.0, NEVER), more
        )
        counts = count + tf.cast(tf.logical_not(done), tf.int32)
        _, best = tf.math.top_k(
            tf.reshape(all_totals / penalty(counts)[:, :, None], (rows, width * vocab)), k=width
        )
        given = (place < lengths)[:, None]
        here = tf.equal(tf.range(size), place)
        parent = tf.where(given, tf.range(width), best // vocab)
        token = tf.where(given, tf.reduce_sum(tf.where(here, x, 0), axis=2), best % vocab)
        total = tf.where(
            given,
            total,
            tf.gather(tf.reshape(all_totals, (rows, width * vocab)), best, batch_dims=1),
        )
        count = tf.where(given, count, tf.gather(counts, parent, batch_dims=1))
        was_done = tf.gather(done, parent, batch_dims=1)
        x = tf.gather(x, parent, batch_dims=1)
        x = tf.where(
            tf.logical_and(here, tf.logical_not(was_done)[:, :, None]), token[:, :, None], x
        )
        ended = tf.logical_and(among(token, ends), tf.logical_not(given))
        done = tf.logical_or(was_done, tf.logical_or(ended, (place + 1 >= stops)[:, None]))
        moved = [(chosen(c.keys, parent), chosen(c.values, parent)) for c in current]
        return place, x, total, count, done, moved

    # All hypotheses start as the same text: only the first one is alive at the beginning.
    total = tf.tile(tf.constant([[0.0] + [NEVER] * (width - 1)]), (rows, 1))
    count = tf.zeros((rows, width), tf.int32)
    begun = tf.tile((lengths >= stops)[:, None], (1, width))
    start = (
        tf.constant(0),
        tf.tile(x[:, None, :], (1, width, 1)),
        total,
        count,
        begun,
        pairs_of(caches),
    )
    _, x, total, count, _, _ = tf.while_loop(unfinished, body, start, maximum_iterations=size)
    score, order = tf.math.top_k(total / penalty(count), k=width)
    return Beams(tf.gather(x, order, batch_dims=1), tf.gather(total, order, batch_dims=1), score)


def constrained(
    constraints: Constraints, scores: tf.Tensor, x: tf.Tensor, place: tf.Tensor, stops: tf.Tensor
) -> tf.Tensor:
    """Scores float32 `[B, W, V]` of hypotheses int32 `[B, W, S]` under constraints."""
    rows, width, vocab = scores.shape
    flat = tf.reshape(scores, (rows * width, vocab)), tf.reshape(x, (rows * width, x.shape[-1]))
    found = constraints(*flat, place, tf.repeat(stops, width))
    return tf.reshape(found, (rows, width, vocab))


def repeated(caches: Sequence[Cache], copies: int) -> list[Cache]:
    """Caches with each row repeated `copies` times, adjacent."""

    def rows(t: tf.Tensor) -> tf.Tensor:
        return tf.repeat(t, copies, axis=0)

    return [
        Cache(
            c.position,
            rows(c.keys),
            rows(c.values),
            None if c.source is None else (rows(c.source[0]), rows(c.source[1])),
        )
        for c in caches
    ]
