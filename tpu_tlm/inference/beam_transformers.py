"""Beam search by the rules of `transformers`: finished texts beside the running ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tpu_tlm.inference.constraints import Constraints
from tpu_tlm.inference.decoding import (
    FREE,
    NEVER,
    Beams,
    Step,
    Texts,
    among,
    at_position,
    constrained,
    pairs_of,
)
from tpu_tlm.inference.sampling import BeamSearch
from tpu_tlm.models.layers.cache import Cache

# What takes a text out of a comparison, as in `transformers`.
_OUT = -1e9


def _taken(t: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    return tf.gather(t, index, batch_dims=1)


def beam_search(
    step: Step,
    caches: Sequence[Cache],
    texts: Texts,
    search: BeamSearch,
    pad_id: int | None,
    ends: Sequence[int],
    constraints: Constraints = FREE,
) -> Beams:
    """The texts continued as `generate(num_beams=W)` of `transformers` 4.50 to 5 does.

    Of the 2 W (with several end tokens more) most probable continuations of W running texts, those
    of the first W that end are finished, the best W others run on. Finished texts are compared by
    log-probability / new tokens ** length_penalty, and the best W are kept. A text is done when its
    best running text, with the length that it has now (`early_stopping` "never": the longest), does
    not exceed its worst finished one; "true": as soon as W are finished. Arguments as in
    `decoding.beam_search`.
    """
    x, lengths, stops = texts
    rows, size = x.shape
    width = search.beam
    many = max(2, 1 + len(ends)) * width
    eager, patient = search.early_stopping == "true", search.early_stopping == "never"

    def over_length(total: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        return total / tf.cast(tf.maximum(count, 1), tf.float32)[:, None] ** search.length_penalty

    def unfinished(at: tf.Tensor, *state: Any) -> tf.Tensor:
        return tf.reduce_any(state[-2])

    def body(
        at: tf.Tensor,
        x: tf.Tensor,
        total: tf.Tensor,
        done_x: tf.Tensor,
        done_score: tf.Tensor,
        done_total: tf.Tensor,
        done: tf.Tensor,
        open_: tf.Tensor,
        pairs: Any,
    ) -> tuple[Any, ...]:
        current = at_position(at, pairs, caches)
        logits = step(tf.reshape(x, (rows * width, size)), at, current)
        vocab = logits.shape[-1]
        place = at + 1
        more = tf.reshape(tf.nn.log_softmax(logits), (rows, width, vocab))
        if pad_id is not None:
            more = tf.where(tf.equal(tf.range(vocab), pad_id), NEVER, more)
        more = constrained(constraints, more, x, place, stops)
        joined = tf.reshape(total[:, :, None] + more, (rows, width * vocab))
        best, index = tf.math.top_k(joined, k=min(many, width * vocab))
        parent, token = index // vocab, index % vocab
        here = tf.equal(tf.range(size), place)
        longer = tf.where(here, token[:, :, None], _taken(x, parent))
        ended = tf.logical_or(among(token, ends), (place + 1 >= stops)[:, None])
        count = place + 1 - lengths

        # The running texts.
        new_total, chosen = tf.math.top_k(best + tf.where(ended, _OUT, 0.0), k=width)
        new_x, new_parent = _taken(longer, chosen), _taken(parent, chosen)

        # The finished texts.
        just = tf.logical_and(ended, tf.range(best.shape[1]) < width)
        score = over_length(best, count) + tf.where(just, 0.0, _OUT)
        if eager:
            score += tf.where(tf.reduce_all(done, axis=1, keepdims=True), _OUT, 0.0)
        kept_score, kept = tf.math.top_k(tf.concat([done_score, score], axis=1), k=width)
        new_done_x = _taken(tf.concat([done_x, longer], axis=1), kept)
        new_done_total = _taken(tf.concat([done_total, best], axis=1), kept)
        new_done = _taken(tf.concat([done, just], axis=1), kept)

        # Whether a running text can still win.
        longest = stops - lengths if patient and search.length_penalty > 0.0 else count
        hope = over_length(new_total[:, :1], longest)
        worst = tf.where(new_done, tf.reduce_min(kept_score, axis=1, keepdims=True), _OUT)
        still = tf.logical_and(
            tf.reduce_any(hope > worst, axis=1), tf.logical_not(tf.reduce_all(ended, axis=1))
        )
        if eager:
            still = tf.logical_and(still, tf.logical_not(tf.reduce_all(new_done, axis=1)))

        # Given tokens are kept, and a text that is done stays as it is.
        given = place < lengths
        moves = tf.logical_and(open_, tf.logical_not(given))

        def where(condition: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.reshape(condition, (-1, *[1] * (new.shape.rank - 1))), new, old)

        parents = where(moves, new_parent, tf.broadcast_to(tf.range(width), new_parent.shape))

        def moved(t: tf.Tensor) -> tf.Tensor:
            return tf.reshape(_taken(tf.reshape(t, (rows, width, *t.shape[1:])), parents), t.shape)

        return (
            place,
            where(moves, new_x, x),
            where(moves, new_total, total),
            where(moves, new_done_x, done_x),
            where(moves, kept_score, done_score),
            where(moves, new_done_total, done_total),
            where(moves, new_done, done),
            tf.logical_and(open_, tf.logical_or(given, still)),
            [(moved(c.keys), moved(c.values)) for c in current],
        )

    wide = tf.tile(x[:, None, :], (1, width, 1))
    start = (
        tf.constant(0),
        wide,
        # All running texts start as the same one: only the first one counts at the beginning.
        tf.tile(tf.constant([[0.0] + [_OUT] * (width - 1)]), (rows, 1)),
        wide,
        tf.fill((rows, width), _OUT),
        tf.zeros((rows, width)),
        tf.zeros((rows, width), tf.bool),
        lengths < stops,
        pairs_of(caches),
    )
    found = tf.while_loop(unfinished, body, start, maximum_iterations=size)
    return Beams(found[3], found[5], found[4])
