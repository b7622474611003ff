"""Vectors of texts: hidden states of an encoder, pooled over positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.pairs import framed_texts
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.characters import CharacterTokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.pooling import pooled
from tpu_tlm.models.positions import registry as positions
from tpu_tlm.models.spec import ModelSpec

POOLINGS = ("mean", "cls", "max", "last", "sqrt_length")
# The shortest padded length; longer ones double. A compiled program is made for each length.
_SHORTEST = 16


def encode(
    model: Any,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    pooling: str | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
) -> NDArray[np.float32]:
    """One vector per text, float32 `[texts, width]`, in the order of the texts.

    Texts are framed as training examples and encoded by the model's encoder (of an ELECTRA the
    discriminator's, of an encoder-decoder that of the source). Batches are made by length, padded
    to one of a few static lengths: 16, 32, 64 and so on.

    pooling: over the positions of a text that are not padding, "mean", "max", "sqrt_length" (sum
    divided by the square root of the number of positions), or the hidden state of its first ("cls")
    or last token ("last"); None = "mean", and for a dual encoder its own vectors of queries.
    max_length: longer texts are cut to so many tokens, prefix and suffix included; None = the
    length of a training example.

    Raises `UsageError` for an unknown pooling, a text without tokens, and a `max_length` that the
    model does not support.
    """
    return Encoder(model, spec, tokenizer)(
        texts, pooling=pooling, batch_size=batch_size, max_length=max_length
    )


class Encoder:
    """`encode` with one model, whose compiled programs are kept between calls."""

    def __init__(self, model: Any, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        self.model, self.spec, self.tokenizer = model, spec, tokenizer
        self._programs: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {}

    def __call__(
        self,
        texts: Sequence[str],
        *,
        pooling: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> NDArray[np.float32]:
        """The vectors of texts; see `encode`."""
        if isinstance(texts, str):
            raise UsageError("texts must be a list of texts, not one text")
        own = pooling is None and self.spec.kind == "dual"
        kind = "own" if own else pooling or "mean"
        if kind not in ("own", *POOLINGS):
            raise UsageError(f"--pooling {kind}: not one of {', '.join(POOLINGS)}")
        if batch_size < 1:
            raise UsageError(f"--batch_size {batch_size}: must be at least 1")
        limit = self._limit(max_length)
        rows = self._queries(texts, max_length) if own else self._framed(texts, limit)
        if not rows:
            return np.zeros((0, self._width(own)), np.float32)
        vectors: list[NDArray[np.float32] | None] = [None] * len(rows)
        for indices, x, counts in self._batches(rows, batch_size, limit, own):
            found = self._program(kind)(tf.constant(x), tf.constant(counts)).numpy()
            for index, vector in zip(indices, found, strict=False):
                vectors[index] = vector
        return np.stack([v for v in vectors if v is not None])

    def _limit(self, max_length: int | None) -> int:
        """Longest framed text, in tokens."""
        spec, limit = self.spec, positions.max_length(self.spec)
        if max_length is None:
            return spec.seq_length
        frame = sum(i is not None for i in (spec.prefix_id, spec.eol_id, spec.suffix_id))
        if max_length <= frame or max_length > (limit or max_length):
            raise UsageError(
                f"--max_length {max_length}: must be above {frame}, the tokens that frame a text"
                + (f", and at most the model's {limit}" if limit else "")
            )
        return max_length

    def _framed(self, texts: Sequence[str], limit: int) -> list[Any]:
        """Ids of each text with the prefix, end of line and suffix of training examples; of an
        ELMo a row of characters for each token."""
        spec = self.spec
        if isinstance(self.tokenizer, CharacterTokenizer):
            return [self.tokenizer.rows(text.split()[:limit] or [""]) for text in texts]
        before = [i for i in (spec.prefix_id,) if i is not None]
        after = [i for i in (spec.eol_id, spec.suffix_id) if i is not None]
        rows: list[Any] = []
        for number, text in enumerate(texts, 1):
            body = self.tokenizer.encode(text)[: max(0, limit - len(before) - len(after))]
            row = [*before, *body, *after]
            if not row:
                raise UsageError(f"text {number} ({text[:40]!r}) has no token; leave it out")
            rows.append(row)
        return rows

    def _queries(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        """Ids of queries, framed as the first texts of training pairs."""
        spec = self.spec
        if max_length is not None:
            raise UsageError(
                f"--max_length {max_length}: a dual encoder's own vectors are those of texts of"
                f" {spec.seq_length} tokens; leave it out, or give --pooling"
            )
        if not texts:
            return []
        packing = Packing(spec.seq_length, spec.pad_id, spec.prefix_id, spec.suffix_id)
        ids = framed_texts(
            [text.encode() for text in texts],
            self.tokenizer,
            packing,
            turn=spec.turn_id,
            first_of=spec.pairs or "ntp",
        )
        return [[int(i) for i in row] for row in ids]

    def _batches(
        self, rows: Sequence[Any], batch_size: int, limit: int, own: bool
    ) -> Iterator[tuple[list[int], NDArray[np.int32], NDArray[np.int32]]]:
        """Indices of texts, their ids int32 `[batch_size, length]`, filled with copies, and the
        tokens of each, int32 `[batch_size]`."""
        fixed = own or self.spec.config.mlp  # gated MLP blocks have one length
        inner = (self.spec.elmo.characters,) if self.spec.elmo else ()
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            length = self.spec.seq_length if fixed else _padded_length(len(row), limit)
            by_length.setdefault(length, []).append(index)
        for length, indices in sorted(by_length.items()):
            for first in range(0, len(indices), batch_size):
                some = indices[first : first + batch_size]
                x = np.full((batch_size, length, *inner), self.spec.pad_id, np.int32)
                counts = np.zeros(batch_size, np.int32)
                for i in range(batch_size):
                    row = rows[some[min(i, len(some) - 1)]]
                    x[i, : len(row)], counts[i] = row, len(row)
                yield some, x, counts

    def _program(self, kind: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """The function of a pooling, traced for each shape."""
        if kind not in self._programs:
            self._programs[kind] = tf.function(
                lambda x, counts: self._pooled(x, counts, kind),
                autograph=False,
                reduce_retracing=False,
            )
        return self._programs[kind]

    def _pooled(self, x: tf.Tensor, counts: tf.Tensor, kind: str) -> tf.Tensor:
        if kind == "own":
            return self.model.encode_query({"x": x})
        hidden = self.model.encode({"x": x})
        if self.spec.elmo:
            present = tf.reduce_any(tf.not_equal(x, self.spec.pad_id), axis=-1)
        else:  # not by the id of padding, which is that of a word in GPT-2
            present = tf.sequence_mask(counts, x.shape[1])
        if kind == "last":
            place = tf.range(x.shape[1], dtype=tf.int32)
            last = tf.reduce_max(tf.where(present, place, 0), axis=1)
            chosen = tf.one_hot(last, x.shape[1], dtype=tf.float32)
            return tf.reduce_sum(tf.cast(hidden, tf.float32) * chosen[:, :, None], axis=1)
        return pooled(hidden, present, kind)

    def _width(self, own: bool) -> int:
        return self.spec.config.d_out if own else self.spec.config.d_model


def _padded_length(length: int, limit: int) -> int:
    padded = _SHORTEST
    while padded < length:
        padded *= 2
    return min(padded, max(limit, length))
