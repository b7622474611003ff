"""The output layers of language models and discriminators."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.core import ACTIVATIONS, Dense, make_norm
from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.masks import MASKED
from tpu_tlm.models.layers.target import for_processor


class Head(Layer):
    """Hidden states to logits over the vocabulary: `[..., d] -> float32 [..., V padded]`.

    Logits of padding ids are -1e9. Tied (`tie_weights`): the product with the token table.
    `mlm_head: bert` adds dense, activation and layer norm before it, which also bring a model with
    factorized embeddings to the table's width; without them a plain projection does.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size, self.rows = vocab_size, padded_vocab_size(vocab_size)
        width = (config.embedding_size or config.d_model) if config.tie_weights else config.d_model
        policy = self.dtype_policy
        self.dense: Dense | None = None
        self.projection: Dense | None = None
        if config.mlm_head == "bert":
            self.dense = Dense(
                config.d_model, width, use_bias=config.use_bias, name="dense", dtype=policy
            )
            self.activation = ACTIVATIONS[config.activation]
            self.ln = make_norm(config, width, name="ln", dtype=policy)
        elif width != config.d_model:
            # The name is in the paths of stored weights.
            self.projection = Dense(config.d_model, width, name="to_dsz", dtype=policy)
        self.scale = config.d_model**-0.5 if config.scale_logits else None
        self.kernel = None
        if not config.tie_weights:
            self.kernel = self.add_weight(
                name="kernel", shape=(config.d_model, self.rows), initializer="zeros"
            )
        self.bias = (
            self.add_weight(name="bias", shape=(self.rows,), initializer="zeros", autocast=False)
            if config.output_bias
            else None
        )

    def call(self, hidden: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        if self.dense is not None:
            hidden = self.ln(self.activation(self.dense(hidden)))
        if self.projection is not None:
            hidden = self.projection(hidden)
        if self.scale is not None:
            hidden *= tf.cast(self.scale, hidden.dtype)
        flat = tf.reshape(hidden, (-1, hidden.shape[-1]))
        # The vocabulary is the first axis, so that the loss sums over rows; the loss transposes
        # back, and XLA removes both transpositions.
        if self.kernel is None:
            columns = tf.matmul(tf.cast(table, flat.dtype), flat, transpose_b=True)
        else:
            columns = tf.matmul(self.kernel, flat, transpose_a=True, transpose_b=True)
        columns = tf.cast(columns, tf.float32)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        real = tf.range(self.rows) < self.vocab_size if self.rows > self.vocab_size else None
        if real is not None and for_processor():
            # A sum with -1e9 instead of a selection, which would be a pass of its own there.
            bias = tf.where(real, 0.0 if bias is None else bias, MASKED)
            real = None
        if bias is not None:
            columns += bias[:, None]
        if real is not None:
            columns = tf.where(real[:, None], columns, MASKED)
        return tf.reshape(tf.transpose(columns), (-1, *hidden.shape[1:-1], self.rows))


class BinaryHead(Layer):
    """One logit per position: `[..., d] -> float32 [...]`.

    `mlm_head: bert` adds dense and activation before it (ELECTRA, arXiv 2003.10555).
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.activation = ACTIVATIONS[config.activation]
        self.dense = (
            Dense(config.d_model, config.d_model, name="dense", dtype=policy)
            if config.mlm_head == "bert"
            else None
        )
        self.unit = Dense(config.d_model, 1, name="unit", dtype=policy)

    def call(self, hidden: tf.Tensor) -> tf.Tensor:
        if self.dense is not None:
            hidden = self.activation(self.dense(hidden))
        return tf.cast(self.unit(hidden)[..., 0], tf.float32)
