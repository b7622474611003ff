"""ELMo: a bidirectional language model on characters, and a learned mix of its layers."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tpu_tlm.config.elmo import BEGIN_SENTENCE, END_SENTENCE, sentence_mark
from tpu_tlm.models.base import Inputs, as_features, dtype_policy
from tpu_tlm.models.layers.bilstm import BiLstm, State, reverse_within
from tpu_tlm.models.layers.character_encoder import CharacterEncoder
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.layer import KerasObject, Layer, check_static_length
from tpu_tlm.models.layers.scalar_mix import ScalarMix, normalized
from tpu_tlm.models.spec import ModelSpec


def present(x: tf.Tensor) -> tf.Tensor:
    """Which tokens of character ids int `[B, T, W]` are there: bool `[B, T]`."""
    return tf.reduce_any(tf.not_equal(x, 0), axis=-1)


class LstmStack(Layer):
    """The LSTM layers and the mix: `[B, T, P]`, lengths int32 `[B]` -> layers
    `[L + 1, B, T, 2 P]`, and the state of every layer."""

    def __init__(self, spec: ModelSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        assert spec.elmo is not None
        self.sizes = spec.elmo
        self.blocks = [
            BiLstm(self.sizes, skip=self.sizes.skip and i > 0, name=str(i), dtype=self.dtype_policy)
            for i in range(self.sizes.layers)
        ]
        self.mix = ScalarMix(self.sizes.layers + 1, name="mix", dtype=self.dtype_policy)

    def call(
        self, x: tf.Tensor, lengths: tf.Tensor, states: list[State] | None = None
    ) -> tuple[tf.Tensor, list[State]]:
        own = tf.sequence_mask(lengths, x.shape[1], dtype=x.dtype)[:, :, None]
        found, after = [tf.concat([x, x], axis=-1) * own], []
        both = tf.stack([x, reverse_within(x, lengths)])
        for i, block in enumerate(self.blocks):
            state = None if states is None else states[i]
            both, new = block(both, lengths=lengths, state=state)
            after.append(new)
            found.append(tf.concat([both[0], reverse_within(both[1], lengths)], axis=-1))
        return tf.stack([tf.cast(layer, tf.float32) for layer in found]), after


class Elmo(KerasObject, keras.Model):
    """Character ids int `[B, T, W]` of tokens (0 = no token) -> mixed vectors `[B, T, 2 P]`.

    Marks of the begin and end of a sentence are added inside and removed. Every call starts with
    zero states, so that a text's vectors do not depend on earlier calls; `layers` takes and gives
    states for those who want AllenNLP's default.

    Peters et al. 2018 (arXiv 1802.05365). `precision`: float32 or bfloat16; None: the policy
    `dtype`. Raises ValueError for a spec without sizes of an ELMo.
    """

    causal = False

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        if precision is not None:
            kwargs["dtype"] = dtype_policy(precision)
        super().__init__(**kwargs)
        if spec.elmo is None:
            raise ValueError("a model of kind 'elmo' needs its sizes")
        self.config, self.sizes, self.vocab_size, self.seq_length, self.pad_id = (
            spec.config,
            spec.elmo,
            spec.vocab_size,
            spec.seq_length,
            spec.pad_id,
        )
        self.embeddings = CharacterEncoder(spec.elmo, name="embeddings", dtype=self.dtype_policy)
        self.encoder = LstmStack(spec, name="encoder", dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        """The spec and the policy `dtype`, which also says what `precision` does."""
        config = super().get_config()
        config.pop("precision", None)
        return config

    def with_marks(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Ids `[B, T + 2, W]` with begin and end of the sentence, and their number `[B]`."""
        width = self.sizes.characters
        count = tf.reduce_sum(tf.cast(present(x), tf.int32), axis=1)
        begin, end = (
            tf.constant(sentence_mark(mark, width), x.dtype)
            for mark in (BEGIN_SENTENCE, END_SENTENCE)
        )
        at = tf.range(x.shape[1] + 2)[None, :, None]
        padded = tf.pad(x, [[0, 0], [1, 1], [0, 0]])
        padded = tf.where(at == count[:, None, None] + 1, end, tf.where(at == 0, begin, padded))
        return padded, count + 2

    def layers_with_marks(
        self, x: tf.Tensor, states: list[State] | None = None
    ) -> tuple[tf.Tensor, tf.Tensor, list[State]]:
        """Layers float32 `[L + 1, B, T + 2, 2 P]`, lengths `[B]`, states of every layer."""
        check_static_length(x)
        marked, lengths = self.with_marks(tf.cast(x, tf.int32))
        found, after = self.encoder(self.embeddings(marked), lengths=lengths, states=states)
        return found, lengths, after

    def token_layers(
        self, inputs: Inputs, states: list[State] | None = None
    ) -> tuple[tf.Tensor, list[State]]:
        """Layers float32 `[L + 1, B, T, 2 P]` of the tokens, 0 where there is none, normalized
        where the spec says so; and the states after them."""
        x = as_features(inputs)["x"]
        found, lengths, after = self.layers_with_marks(x, states)
        kind = self.sizes.layer_norm
        there = present(x)
        if kind == "allennlp":  # the marks count
            mask = tf.sequence_mask(lengths, found.shape[2])
            found = tf.stack([normalized(layer, mask, kind) for layer in tf.unstack(found)])
        found = found[:, :, 1:-1]
        if kind == "bilm":
            found = tf.stack([normalized(layer, there, kind) for layer in tf.unstack(found)])
        return tf.where(there[None, :, :, None], found, tf.zeros([], found.dtype)), after

    def encode(self, inputs: Inputs, key: Key | None = None) -> tf.Tensor:
        """Mixed vectors `[B, T, 2 P]` in the compute dtype; with a key, dropout is applied."""
        mixed = self.encoder.mix(self.token_layers(inputs)[0])
        return tf.cast(dropout(mixed, self.config.dropout, key, "mix"), self.compute_dtype)

    def call(
        self, inputs: Inputs, key: Key | None = None, training: bool | None = None
    ) -> tf.Tensor:
        return self.encode(inputs, self.dropout_key(inputs, key, training))
