"""The encoder-decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.decoder import TransformerDecoderStack
from tpu_tlm.models.layers.embeddings import Start
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.layers.masks import padding_mask
from tpu_tlm.models.layers.target_embeddings import TargetEmbeddings
from tpu_tlm.models.spec import ModelSpec


class Seq2SeqModel(TransformerModel):
    """An encoder-decoder: `{x: int [B, S], y: int [B, T]} -> float32 logits [B, T, V padded]`.

    Source x and target y share vocabulary and token table; with `target_embeddings` the target has
    positions and norm of its own (BART, arXiv 1910.13461). The logits at a position of y predict
    its next token. Padding of the source is masked (`mask_pad`), the target is causal (arXiv
    1706.03762).
    """

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        self.start_id = spec.pad_id if spec.y_prefix_id is None else spec.y_prefix_id
        self.target = (
            TargetEmbeddings(
                spec.config,
                max(spec.seq_length, spec.seq_length_y or 0),
                name="target",
                dtype=self.dtype_policy,
            )
            if spec.config.target_embeddings
            else None
        )
        self.decoder = TransformerDecoderStack(spec.config, name="decoder", dtype=self.dtype_policy)
        self.head = Head(spec.config, spec.vocab_size, name="head", dtype=self.dtype_policy)

    def source_mask(self, x: tf.Tensor) -> tf.Tensor | None:
        """Bool `[B, 1, 1, S]`, False at padding of the source; None without `mask_pad`."""
        return padding_mask(x, self.pad_id) if self.config.mask_pad else None

    def call(
        self,
        inputs: Mapping[str, tf.Tensor],
        key: Key | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        key = self.dropout_key(inputs, key, training)
        hidden = self.decode(inputs["x"], inputs["y"], key)
        return self.head(hidden, self.embeddings.table)

    def decode(self, x: tf.Tensor, y: tf.Tensor, key: Key | None = None) -> tf.Tensor:
        """The decoder's hidden states `[B, T, d]` at targets y of sources x."""
        source_key, target_key = (key.fold("x"), key.fold("y")) if key is not None else (None, None)
        encoder_output = self.encode({"x": x}, source_key)
        embedded = self.embed_target(y, target_key)
        return self.decoder(
            embedded, encoder_output, source_mask=self.source_mask(x), key=target_key
        )

    def decode_source(self, x: tf.Tensor, key: Key | None = None) -> tf.Tensor:
        """The decoder's hidden states `[B, S, d]` at targets that are the source itself, shifted
        right behind the decoder's start token, as BART's and T5's sequence classifiers do."""
        first = tf.fill((tf.shape(x)[0], 1), tf.cast(self.start_id, x.dtype))
        y = tf.ensure_shape(tf.concat([first, x[:, :-1]], axis=1), x.shape)
        return self.decode(x, y, key)

    def embed_target(self, y: tf.Tensor, key: Key | None = None, start: Start = 0) -> tf.Tensor:
        """Embeddings `[B, T, d]` of target tokens int `[B, T]`; `start`: position of the first."""
        if self.target is None:
            return self.embeddings({"x": y}, key=key, start=start)
        return self.target(y, table=self.embeddings.table, key=key, start=start)

    def caches(self, x: tf.Tensor, length: int, position: tf.Tensor) -> list[Cache]:
        """Caches for targets of `length` positions of the source `x`.

        `position`: int32 scalar, the position that the next `step` computes.
        """
        return self.decoder.caches(self.encode({"x": x}), length, position)

    def step(
        self, x: tf.Tensor, y: tf.Tensor, position: tf.Tensor, caches: Sequence[Cache]
    ) -> tf.Tensor:
        """Logits float32 `[B, V padded]` of the token after `position` of the target `y`.

        Earlier positions must be in the caches; this one is added.
        """
        embedded = self.embed_target(tf.gather(y, position, axis=1)[:, None], start=position)
        # The source's keys and values are in the caches: the second argument only selects cross
        # attention.
        hidden = self.decoder(embedded, embedded, source_mask=self.source_mask(x), caches=caches)
        return self.head(hidden[:, 0], self.embeddings.table)
