"""Tokens that a model's own settings force or forbid while a text is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

# Score of a token that is not allowed.
_NEVER = -1e30


@dataclass(frozen=True)
class Constraints:
    """What the settings of a HuggingFace model change in the scores of the next token.

    forced_first, forced_last: the only tokens allowed as the second of a whole text (the first of
    an encoder-decoder's target, behind its start token), and as the last before the length is
    reached; () for none. ngram: no run of so many tokens, given ones included, comes twice; 0:
    any may.
    """

    forced_first: tuple[int, ...] = ()
    forced_last: tuple[int, ...] = ()
    ngram: int = 0

    @classmethod
    def of(cls, generation: Mapping[str, Any]) -> Constraints:
        """From `PretrainedModel.generation`."""
        from tpu_tlm.formats.huggingface.generation import effective

        found = effective(generation)

        def ids(key: str) -> tuple[int, ...]:
            value = found.get(key)
            return () if value is None else tuple(value if isinstance(value, list) else [value])

        return cls(
            ids("forced_bos_token_id"),
            ids("forced_eos_token_id"),
            found.get("no_repeat_ngram_size") or 0,
        )

    def __call__(
        self, scores: tf.Tensor, x: tf.Tensor, place: tf.Tensor, stops: tf.Tensor
    ) -> tf.Tensor:
        """Scores float32 `[B, V]` of the token at `place` of texts int32 `[B, S]`; stops: int32
        `[B]`, where each text must end. As in `transformers`, after the softmax of a beam search:
        what is left is not scaled again, and a forced token has the score 0."""
        if self.ngram:
            scores = tf.where(self._repeats(x, place, scores.shape[-1]), _NEVER, scores)
        for ids, here in (
            (self.forced_first, tf.fill(tf.shape(stops), tf.equal(place, 1))),
            (self.forced_last, tf.equal(place + 1, stops)),
        ):
            if ids:
                among = tf.equal(tf.range(scores.shape[-1])[:, None], tf.constant(ids))
                only = tf.where(tf.reduce_any(among, axis=1), 0.0, _NEVER)
                scores = tf.where(here[:, None], only[None, :], scores)
        return scores

    def _repeats(self, x: tf.Tensor, place: tf.Tensor, vocab: int) -> tf.Tensor:
        """Which tokens would end a run that the text has already: bool `[B, V]`."""
        n, (rows, size) = self.ngram, x.shape
        starts = size - n + 1
        if starts < 1:
            return tf.zeros((rows, vocab), tf.bool)
        same = tf.tile((tf.range(starts) + n <= place)[None, :], (rows, 1))
        for k in range(n - 1):
            last = tf.gather(x, tf.maximum(place - n + 1 + k, 0), axis=1)[:, None]
            same = tf.logical_and(same, tf.equal(x[:, k : k + starts], last))
        ends = x[:, n - 1 :]
        index = tf.stack([tf.tile(tf.range(rows)[:, None], (1, starts)), ends], axis=-1)
        counts = tf.scatter_nd(index, tf.cast(same, tf.float32), (rows, vocab))
        return counts > 0.0
