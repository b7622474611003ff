"""Language models: masked and causal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tpu_tlm.models.base import Inputs, TransformerModel
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.spec import ModelSpec


class TransformerMaskedLanguageModel(TransformerModel):
    """A bidirectional Transformer that predicts tokens: int `[B, T] -> float32 [B, T, V padded]`.

    `call(x)` computes logits at every position, `call(x, positions=int [B, N])` only at these,
    `[B, N, V padded]`, as training does: the head is a large share of the work. `encode` gives the
    hidden states `[B, T, d]`. BERT is a setting: learned positions, token types, sum-layer-norm,
    post-layer-norm, the bert head.
    """

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        self.head = Head(spec.config, spec.vocab_size, name="head", dtype=self.dtype_policy)

    def call(
        self,
        inputs: Inputs,
        positions: tf.Tensor | None = None,
        key: Key | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        hidden = self.encode(inputs, self.dropout_key(inputs, key, training))
        if positions is not None:
            hidden = gather_positions(hidden, positions)
        return self.head(hidden, self.embeddings.table)


class TransformerLanguageModel(TransformerMaskedLanguageModel):
    """A causal Transformer: the logits at a position predict the next token (GPT).

    The decoder of arXiv 1706.03762 without a source. Called like the masked model; `caches` and
    `step` are for generation, one position at a time.
    """

    causal = True

    def caches(self, rows: int, length: int, position: tf.Tensor) -> list[Cache]:
        """Empty caches for texts of `length` positions.

        `position`: int32 scalar, the position that the next `step` computes.
        """
        return self.encoder.caches(rows, length, position)

    def step(self, x: tf.Tensor, position: tf.Tensor, caches: Sequence[Cache]) -> tf.Tensor:
        """Logits float32 `[B, V padded]` of the token after `position` of `x` int `[B, S]`.

        Earlier positions must be in the caches; this one is added. Later ones are not read.
        """
        here = tf.gather(x, position, axis=1)[:, None]
        embedded = self.embeddings({"x": here}, start=position)
        mask = self.attention_mask({"x": x}, position)
        hidden = self.encoder(embedded, attention_mask=mask, caches=caches)
        return self.head(hidden[:, 0], self.embeddings.table)


def gather_positions(hidden: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Rows of `[B, T, d]` at int `[B, N]`: `[B, N, d]`.

    A product with a one-hot matrix: exact in every dtype, and its gradient is a product too, where
    that of a gather is a scatter (slow on a TPU, of undefined order on a GPU).
    """
    return tf.matmul(tf.one_hot(positions, hidden.shape[1], dtype=hidden.dtype), hidden)
