"""The encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.layers.attention import Cache
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.decoder import TransformerDecoderStack
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.layers.masks import padding_mask
from tpu_tlm.models.spec import ModelSpec


class Seq2SeqModel(TransformerModel):
    """Source and target of one vocabulary and one token table: `{x: int [B, S], y: int [B, T]} -> float32 logits [B, T, V padded]`.

    The logits at a place of y are those of the token after it. Padding of the source is not seen (`mask_pad`), the target is causal
    (arXiv 1706.03762).
    """

    def __init__(self, spec: ModelSpec, *, precision: str = "float32", **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        self.decoder = TransformerDecoderStack(spec.config, name="decoder", dtype=self.dtype_policy)
        self.head = Head(spec.config, spec.vocab_size, name="head", dtype=self.dtype_policy)

    def source_visible(self, x: tf.Tensor) -> tf.Tensor | None:
        """Bool `[B, 1, 1, S]`, false at padding of the source; None where the configuration lets it be seen."""
        return padding_mask(x, self.pad_id) if self.config.mask_pad else None

    def call(self, inputs: Mapping[str, tf.Tensor], key: Key | None = None) -> tf.Tensor:
        first, second = (key.fold("x"), key.fold("y")) if key is not None else (None, None)
        memory = self.encode({"x": inputs["x"]}, first)
        embedded = self.embeddings({"x": inputs["y"]}, key=second)
        hidden = self.decoder(
            embedded, memory, source_visible=self.source_visible(inputs["x"]), key=second
        )
        return self.head(hidden, self.embeddings.table)

    def caches(self, x: tf.Tensor, length: int, at: tf.Tensor) -> list[Cache]:
        """Caches for targets of `length` places of the source `x`; `at`: int32 scalar, the place that the next `step` computes."""
        return self.decoder.caches(self.encode({"x": x}), length, at)

    def step(self, x: tf.Tensor, y: tf.Tensor, at: tf.Tensor, caches: Sequence[Cache]) -> tf.Tensor:
        """Logits float32 `[B, V padded]` of the token after place `at` of the target `y`, whose earlier places are in the caches."""
        embedded = self.embeddings({"x": tf.gather(y, at, axis=1)[:, None]}, start=at)
        # The source's keys and values are in the caches: the memory only says that there is one.
        hidden = self.decoder(
            embedded, embedded, source_visible=self.source_visible(x), caches=caches
        )
        return self.head(hidden[:, 0], self.embeddings.table)
