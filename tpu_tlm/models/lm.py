"""The masked language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.attention import MASKED
from tpu_tlm.models.embeddings import EmbeddingsStack, LearnedPositionalLookupTableEmbeddings, LookupTableEmbeddings, TokenTypeEmbeddings
from tpu_tlm.models.encoder import TransformerEncoderStack
from tpu_tlm.models.layers import ACTIVATIONS, Dense, LayerNorm
from tpu_tlm.models.random import Key

# The matrix units of a TPU work on 128 columns: the vocabulary is filled up to that.
LANES = 128

Inputs = tf.Tensor | Mapping[str, tf.Tensor]


def padded(size: int) -> int:
    """A vocabulary size rounded up to a multiple of 128."""
    return -(-size // LANES) * LANES


def make_embeddings(config: ModelConfig, vocab_size: int, nctx: int, **kwargs: Any) -> EmbeddingsStack:
    """The embeddings that the configuration asks for; `nctx` is the length of the position table where `mxlen` is not given."""
    policy = kwargs["dtype"]
    rows = padded(vocab_size)
    features: dict[str, keras.layers.Layer] = {}
    if config.embed_type == "learned-positional":
        features["x"] = LearnedPositionalLookupTableEmbeddings(rows, config.d_model, mxlen=config.mxlen or nctx, name="x", dtype=policy)
    else:
        features["x"] = LookupTableEmbeddings(rows, config.d_model, name="x", dtype=policy)
    if config.token_type_vsz:
        features["tt"] = TokenTypeEmbeddings(config.token_type_vsz, config.d_model, name="tt", dtype=policy)
    return EmbeddingsStack(
        features,
        config.d_model,
        reduction=config.embeddings_reduction,
        epsilon=config.layer_norm_eps,
        pdrop=config.embeddings_dropout,
        **kwargs,
    )


class Head(keras.layers.Layer):
    """Hidden states to logits: `[..., d] -> float32 [..., V padded]`, padding at -1e9.

    Tied: the product with the token table. `mlm_head: bert` puts dense, activation and layer norm before it.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocab_size, self.rows = vocab_size, padded(vocab_size)
        self.dense: Dense | None = None
        if config.mlm_head == "bert":
            self.dense = Dense(config.d_model, config.d_model, name="dense", dtype=self.dtype_policy)
            self.activation = ACTIVATIONS[config.activation]
            self.ln = LayerNorm(config.d_model, epsilon=config.layer_norm_eps, name="ln", dtype=self.dtype_policy)
        self.kernel = None
        if not config.tie_weights:
            self.kernel = self.add_weight(name="kernel", shape=(config.d_model, self.rows), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.rows,), initializer="zeros", autocast=False) if config.output_bias else None

    def call(self, hidden: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
        if self.dense is not None:
            hidden = self.ln(self.activation(self.dense(hidden)))
        flat = tf.reshape(hidden, (-1, hidden.shape[-1]))
        if self.kernel is None:
            logits = tf.matmul(flat, tf.cast(table, flat.dtype), transpose_b=True)
        else:
            logits = tf.matmul(flat, self.kernel)
        logits = tf.cast(logits, tf.float32)
        if self.bias is not None:
            logits += self.bias
        if self.rows > self.vocab_size:
            logits = tf.where(tf.range(self.rows) < self.vocab_size, logits, MASKED)
        return tf.reshape(logits, (*hidden.shape[:-1], self.rows))


class TransformerMaskedLanguageModel(keras.Model):
    """A bidirectional Transformer that predicts tokens: int `[B, T] -> float32 logits [B, N or T, V padded]`.

    `call(x)` gives logits at every position; `call(x, positions=int [B, N])` only there, which is what training wants: the
    head is a large share of the work. `encode` gives the hidden states `[B, T, d]`. BERT is a setting: learned positions,
    token types, sum-layer-norm, norms after, the bert head.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, nctx: int, pad_id: int = 0, *, precision: str = "float32", **kwargs: Any) -> None:
        policy = keras.DTypePolicy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        super().__init__(dtype=policy, **kwargs)
        self.config, self.vocab_size, self.nctx, self.pad_id = config, vocab_size, nctx, pad_id
        self.embeddings = make_embeddings(config, vocab_size, nctx, name="embeddings", dtype=policy)
        self.encoder = TransformerEncoderStack(config, name="encoder", dtype=policy)
        self.head = Head(config, vocab_size, name="head", dtype=policy)

    def attention_mask(self, x: tf.Tensor) -> tf.Tensor | None:
        """Bool `[B, 1, 1, T]`, false at padding keys; None where the configuration lets padding be seen."""
        return tf.not_equal(x, self.pad_id)[:, None, None, :] if self.config.mask_pad else None

    def encode(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Hidden states `[B, T, d]` in the compute dtype."""
        features = inputs if isinstance(inputs, Mapping) else {"x": inputs}
        embedded = self.embeddings(features, key=key)
        return self.encoder(embedded, visible=self.attention_mask(features["x"]), key=key)

    def call(self, inputs: Inputs, positions: tf.Tensor | None = None, key: Key | None = None) -> tf.Tensor:
        hidden = self.encode(inputs, key)
        if positions is not None:
            hidden = gather_positions(hidden, positions)
        return self.head(hidden, self.embeddings.features["x"].table)


def gather_positions(hidden: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Rows of `[B, T, d]` at int `[B, N]`: `[B, N, d]`.

    A product with a one-hot matrix: exact in every dtype, and its gradient is a product too, where that of a gather is a
    scatter (slow on a TPU, of no fixed order on a GPU).
    """
    return tf.matmul(tf.one_hot(positions, hidden.shape[1], dtype=hidden.dtype), hidden)
