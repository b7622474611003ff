"""A pre-trained encoder as a Keras layer for anyone's model."""

from __future__ import annotations

import base64
import os
import tempfile
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.elmo import Elmo, present
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import mark_built, named_variables
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.examples import RULES, Framer
from tpu_tlm.tasks.head import pool
from tpu_tlm.tasks.model import task_spec
from tpu_tlm.tasks.read import Row
from tpu_tlm.training.finetuning.source import load_source

POOLINGS = ("none", "cls", "mean", "max", "sqrt", "last")


class _Encoder(TransformerModel):
    """Embeddings and encoder blocks."""

    def call(self, inputs: Any, key: Key | None = None) -> tf.Tensor:
        return self.encode(inputs, key)


class _CausalEncoder(_Encoder):
    causal = True


_KINDS: dict[str, type[keras.Model]] = {"clm": _CausalEncoder, "elmo": Elmo}


@keras.saving.register_keras_serializable(package="tpu_tlm")
class PretrainedEncoder(keras.layers.Layer):
    """A pre-trained encoder: strings `[B]` or ids int `[B, T]` (ELMo: `[B, T, W]`) -> float32
    vectors.

    pooling: none gives token vectors `[B, T, d]`; cls, mean, max, sqrt (sum divided by the root of
    the length) and last give one vector per text `[B, d]`. Strings are tokenized and framed as the
    model was trained, cut or padded to `max_length`. Dropout acts in training only; `trainable =
    False` freezes the layer. Saved in a `.keras` file with its configuration and tokenizer.

    Made by `load_encoder`. Raises `UsageError` for a pooling that does not exist, ValueError for
    ids without a static length.
    """

    def __init__(
        self,
        spec: str,
        *,
        pooling: str = "mean",
        max_length: int = 128,
        tokenizer: dict[str, str] | None = None,
        rules: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise UsageError(f"pooling {pooling!r}: not one of {', '.join(POOLINGS)}")
        self.spec = ModelSpec.from_json(spec, "PretrainedEncoder")
        self.pooling, self.max_length = pooling, max_length
        self.tokenizer_files, self.rules = tokenizer, rules
        half = self.dtype_policy.compute_dtype == "bfloat16"
        precision = "bfloat16" if half else "float32"
        kind = _KINDS.get(self.spec.kind, _Encoder)
        with tf.device("/CPU:0"):
            self.encoder = kind(self.spec, precision=precision, name="encoder")
            mark_built(self.encoder)
        self.noise = keras.random.SeedGenerator()
        # Strings become ids in Python, which XLA cannot compile.
        self.supports_jit = False
        self._framer: Framer | None = None
        self.built = True

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises `UsageError` where the layer was made without one."""
        return self._framing().tokenizer

    def _framing(self) -> Framer:
        if self._framer is None:
            if self.tokenizer_files is None:
                raise UsageError("this encoder has no tokenizer: give it ids, not strings")
            with tempfile.TemporaryDirectory() as directory:
                for name, data in self.tokenizer_files.items():
                    with open(os.path.join(directory, name), "wb") as file:
                        file.write(base64.b64decode(data))
                tokenizer = load_tokenizer(directory)
            self._framer = Framer(
                self.spec, tokenizer, max_length=self.max_length, rules=self.rules
            )
        return self._framer

    def ids(self, texts: Any) -> np.ndarray:
        """Ids of texts, framed, cut and padded: int32 `[B, max_length]`."""
        return self._ids(texts)[0]

    def _ids(self, texts: Any) -> tuple[np.ndarray, np.ndarray]:
        """The ids, and the tokens of each text, int32 `[B]`."""
        rows = [
            Row(t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t), None, None, i)
            for i, t in enumerate(np.asarray(texts).reshape(-1))
        ]
        out = np.full((len(rows), *self._inner()), self.spec.pad_id, np.int32)
        counts = np.zeros(len(rows), np.int32)
        if rows:
            for i, ids in enumerate(self._framing()(rows).ids):
                out[i, : len(ids)], counts[i] = ids, len(ids)
        return out, counts

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        x, counts = inputs, None
        if x.dtype == tf.string:
            x, counts = tf.numpy_function(
                self._ids, [tf.reshape(x, (-1,))], [tf.int32, tf.int32], stateful=False
            )
            x = tf.ensure_shape(x, (None, *self._inner()))
            counts = tf.ensure_shape(counts, (None,))
        elif len(x.shape) != 1 + len(self._inner()) or x.shape[1] is None:
            raise ValueError(
                f"ids must be [batch, length{', characters' if self.spec.elmo else ''}] with a "
                f"static length, not {x.shape}"
            )
        x = tf.cast(x, tf.int32)
        hidden = self.encoder.encode(x, self._key(x) if training else None)
        if self.pooling == "none":
            return tf.cast(hidden, tf.float32)
        if self.spec.elmo:
            there = present(x)
        elif counts is not None:  # the id of padding may be that of a word (GPT-2)
            there = tf.sequence_mask(counts, x.shape[1])
        else:
            there = tf.not_equal(x, self.spec.pad_id)
        return pool(hidden, there, self.pooling)

    def _inner(self) -> tuple[int, ...]:
        """Shape of a text's ids."""
        return (self.max_length, *((self.spec.elmo.characters,) if self.spec.elmo else ()))

    def _key(self, x: tf.Tensor) -> Key:
        """A fresh key per example, and a different one on each replica."""
        draw = tf.cast(
            keras.random.randint((1,), 0, 2**31 - 1, dtype="int32", seed=self.noise), tf.int64
        )
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group if context is not None else 0
        rows = tf.range(tf.shape(x)[0], dtype=tf.int64)
        return Key.of(0x17, draw * 2**31 + tf.cast(replica, tf.int64) * 2**24 + rows)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Shape of the vectors, static but for the batch."""
        width = self.spec.config.d_model
        length = self.max_length if len(input_shape) < 2 else input_shape[1]
        batch = input_shape[0] if len(input_shape) else None
        return (batch, length, width) if self.pooling == "none" else (batch, width)

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        """The same as a Keras tensor; ids for strings never exist symbolically."""
        shape = tuple(inputs.shape)
        if inputs.dtype == "string" and len(shape) > 1:  # Input(shape=(1,))
            shape = shape[:1]
        return keras.KerasTensor(self.compute_output_shape(shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs, tokenizer files included."""
        return {
            **super().get_config(),
            "spec": self.spec.to_json(),
            "pooling": self.pooling,
            "max_length": self.max_length,
            "tokenizer": self.tokenizer_files,
            "rules": self.rules,
        }


def load_encoder(
    path: str,
    *,
    pooling: str = "mean",
    max_length: int | None = None,
    dropout: float | None = None,
    tokenizer: str | None = None,
    mead_config: str | None = None,
    trainable: bool = True,
    **kwargs: Any,
) -> PretrainedEncoder:
    """The encoder of a model of any kind that `tpu_tlm.convert` reads, as a Keras layer.

    dropout: in training; None = the model's own. max_length: tokens of a text; None = what the
    model takes, at most 512. tokenizer: its directory, where the model has none.
    mead_config: MEAD's hyper-parameters of an NPZ that MEAD wrote, JSON or a file of it. Other
    keywords are a layer's (`name`, `dtype`). Raises `UsageError` where there is no such model.
    """
    source = load_source(path, tokenizer=tokenizer, mead_config=mead_config)
    spec = task_spec(source.spec, dropout)
    framer = Framer(spec, source.tokenizer, max_length=max_length)
    with tempfile.TemporaryDirectory() as directory:
        source.tokenizer.save(directory)
        files = {}
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                files[name] = base64.b64encode(file.read()).decode()
    layer = PretrainedEncoder(
        spec.to_json(),
        pooling=pooling,
        max_length=framer.max_length,
        tokenizer=files,
        rules=RULES,
        **kwargs,
    )
    for name, variable in named_variables(layer.encoder).items():
        variable.assign(source.encoder[name])
    layer.trainable = trainable
    return layer
