"""The model of a task: a pre-trained encoder with a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.elmo import Elmo, present
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.scalar_mix import ScalarMix
from tpu_tlm.models.layers.variables import mark_built, named_variables
from tpu_tlm.models.seq2seq import Seq2SeqModel
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.head import HeadSpec, TaskHead, pool

# Where the variables of the head stand; all others are the encoder's.
HEAD = "task/"
# Standard deviation of the head's initial kernels (BERT).
_STD = 0.02


class _WithHead:
    """Adds a head to a class of encoders: `{x: int [B, T], tt, x2, n, n2}` -> float32 logits
    `[B, outputs]`, or `[B, T, outputs]` for tags.

    n, n2: tokens of each text, int `[B]`; without them padding is known by its id, which a text
    of GPT-2 may hold. frozen: the encoder has no gradient and no dropout. `pooled` tensors by name
    `u` (and `v`) in the features take the place of the encoder.
    """

    encode: Callable[..., tf.Tensor]
    pad_id: int

    def __init__(
        self,
        spec: ModelSpec,
        head: HeadSpec,
        *,
        precision: str = "float32",
        frozen: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(spec, precision=precision, **kwargs)  # type: ignore[call-arg]
        self.head_spec, self.frozen = head, frozen
        policy = self.dtype_policy  # type: ignore[attr-defined]
        self.task = TaskHead(head, spec.config.d_model, name="task", dtype=policy)

    def hidden(self, features: Mapping[str, tf.Tensor], key: Key | None) -> tf.Tensor:
        """Token vectors of one sequence."""
        found = self.encode(features, None if self.frozen else key)
        return tf.stop_gradient(found) if self.frozen else found

    def present(self, x: tf.Tensor, length: tf.Tensor | None = None) -> tf.Tensor:
        """Which positions are no padding: bool `[B, T]`. length: int `[B]`, where it is known."""
        if length is None:
            return tf.not_equal(x, self.pad_id)
        return tf.range(x.shape[1], dtype=length.dtype)[None, :] < length[:, None]

    def _pooled(self, features: Mapping[str, tf.Tensor], key: Key | None) -> list[tf.Tensor]:
        """Vectors of the text, or of both texts, before the head's dense layer."""
        found = []
        for name, size, site in (("x", "n", "text"), ("x2", "n2", "text2")):
            if name not in features:
                continue
            own = {"x": features[name]}
            if name == "x" and "tt" in features:
                own["tt"] = features["tt"]
            hidden = self.hidden(own, key.fold(site) if key is not None else None)
            there = self.present(features[name], features.get(size))
            found.append(self.task.reduce(hidden, there))
        return found

    def vectors(self, features: Mapping[str, tf.Tensor], key: Key | None = None) -> list[tf.Tensor]:
        """Pooled vectors of the text, or of both texts."""
        return [self.task.transform(vector) for vector in self._pooled(features, key)]

    def stored_vectors(self, features: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """What `HeadModel` takes in place of the encoder: float32 `[B, n]` per text."""
        return self._pooled(features, None) if self.head_spec.fresh else self.vectors(features)

    def call(self, inputs: Mapping[str, tf.Tensor], key: Key | None = None) -> tf.Tensor:
        head_key = key.fold("task") if key is not None else None
        if "u" in inputs:
            return self.task([inputs[n] for n in ("u", "v") if n in inputs], key=head_key)
        if self.head_spec.tokens:
            own = {name: inputs[name] for name in ("x", "tt") if name in inputs}
            return self.task.logits(self.task.transform(self.hidden(own, key)), head_key)
        return self.task(self.vectors(inputs, key), key=head_key)


class TaskModel(_WithHead, TransformerModel):
    """A Transformer's encoder with a head."""


class CausalTaskModel(TaskModel):
    """The same on an encoder in which no position attends to a later one."""

    causal = True


class DecoderTaskModel(_WithHead, Seq2SeqModel):  # type: ignore[misc]
    """An encoder-decoder with a head on the decoder, which reads the text again."""

    def hidden(self, features: Mapping[str, tf.Tensor], key: Key | None) -> tf.Tensor:
        found = self.decode_source(features["x"], None if self.frozen else key)
        return tf.stop_gradient(found) if self.frozen else found


class ElmoTaskModel(_WithHead, Elmo):  # type: ignore[misc]
    """ELMo with a head: `x` is int `[B, T, W]`. frozen: the mix of the layers still learns."""

    def hidden(self, features: Mapping[str, tf.Tensor], key: Key | None) -> tf.Tensor:
        if not self.frozen:
            return self.encode(features, key)
        layers = tf.stop_gradient(self.token_layers(features)[0])
        mixed = dropout(self.encoder.mix(layers), self.config.dropout, key, "mix")
        return tf.cast(mixed, self.compute_dtype)

    def present(self, x: tf.Tensor, length: tf.Tensor | None = None) -> tf.Tensor:
        return present(x)

    def stored_vectors(self, features: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Every layer by itself, pooled: the mix comes after pooling, which must be linear."""
        found = []
        for name in ("x", "x2"):
            if name in features:
                layers = tf.unstack(self.token_layers({"x": features[name]})[0])
                there = present(features[name])
                pooled = [pool(layer, there, self.head_spec.pooling) for layer in layers]
                found.append(tf.concat(pooled, axis=-1))
        return found


class _Mixing(keras.layers.Layer):
    """The mix of stored layers, under the path that it has in an ELMo: `[B, L d]` -> `[B, d]`."""

    def __init__(self, layers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = layers
        self.mix = ScalarMix(layers, name="mix", dtype=self.dtype_policy)

    def call(self, stored: tf.Tensor) -> tf.Tensor:
        width = stored.shape[-1] // self.count
        return self.mix(tf.transpose(tf.reshape(stored, (-1, self.count, width)), (1, 0, 2)))


# The models of a task by the kind of the encoder; the others are plain encoders.
_MODELS: dict[str, type[keras.Model]] = {
    "clm": CausalTaskModel,
    "elmo": ElmoTaskModel,
    "seq2seq": DecoderTaskModel,
}


class HeadModel(keras.Model):
    """The head alone, on pooled vectors that were computed before: `{u, v}` -> logits; of an ELMo
    with the mix of its layers."""

    def __init__(self, spec: ModelSpec, head: HeadSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_id = spec.pad_id
        self.encoder = (
            _Mixing(spec.elmo.layers + 1, name="encoder", dtype=self.dtype_policy)
            if spec.elmo is not None
            else None
        )
        # Vectors are stored after pooling, and after the model's own pooler where it has one.
        self.fresh = head.fresh
        self.task = TaskHead(head, spec.config.d_model, name="task", dtype=self.dtype_policy)

    def call(self, inputs: Mapping[str, tf.Tensor], key: Key | None = None) -> tf.Tensor:
        head_key = key.fold("task") if key is not None else None
        vectors = [inputs[n] for n in ("u", "v") if n in inputs]
        if self.encoder is not None:
            vectors = [self.encoder(vector) for vector in vectors]
        if self.fresh:
            vectors = [self.task.transform(vector) for vector in vectors]
        return self.task(vectors, key=head_key)


def head_suffices(spec: ModelSpec, head: HeadSpec) -> bool:
    """Whether a frozen encoder's pooled vectors are all that training needs."""
    if spec.kind == "seq2seq":  # its dense layer is not trained before
        return False
    nothing_below = head.pooling not in ("2ha", "attention")
    return not head.tokens and nothing_below and not (spec.elmo and head.pooling == "max")


def task_spec(spec: ModelSpec, dropout: float | None, *, training: bool = True) -> ModelSpec:
    """The encoder's spec as fine-tuning uses it: padding is never attended to.

    A causal model, an encoder-decoder and an ELMo keep their kind, any other becomes an encoder.
    """
    config = spec.config
    # No token of a causal model attends to the padding behind it, and the id of padding may be
    # that of a word (GPT-2).
    changes: dict[str, Any] = {"mask_pad": spec.kind != "clm", "segment_mask": False}
    if spec.kind != "clm":  # without the head that predicts tokens
        changes |= {"mlm_head": "none", "output_bias": False, "tie_weights": True}
    if training:
        # A model that was exported without its dropout is not trained without one.
        rate = max(config.dropout, 0.1) if dropout is None else dropout
        changes |= {
            "dropout": rate,
            "embeddings_dropout": rate if dropout is not None else config.embeddings_dropout,
        }
    return dataclasses.replace(
        spec,
        config=dataclasses.replace(config, **changes),
        kind=spec.kind if spec.kind in _MODELS else "embed",
        generator=None,
    )


def build_task_model(
    spec: ModelSpec,
    head: HeadSpec,
    *,
    precision: str = "float32",
    frozen: bool = False,
    head_only: bool = False,
) -> keras.Model:
    """The model with all variables zero (norms one)."""
    with tf.device("/CPU:0"):
        if head_only:
            model: keras.Model = HeadModel(spec, head, name="model")
        else:
            kind = _MODELS.get(spec.kind, TaskModel)
            model = kind(spec, head, precision=precision, frozen=frozen, name="model")
        mark_built(model)
    return model


def learns_frozen(path: str) -> bool:
    """Whether a variable is trained even where the encoder is not: the head, ELMo's mix."""
    return path.startswith((HEAD, "encoder/mix/"))


def is_encoder(path: str, *, decoder: bool = False) -> bool:
    """Whether a variable of a pre-trained model belongs to its encoder (or decoder)."""
    return path.startswith(("embeddings/", "encoder/", *(("target/", "decoder/") * decoder)))


def initial_values(
    model: keras.Model,
    encoder: Mapping[str, np.ndarray],
    pooler: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """The values to begin with: the encoder's, a pre-trained pooler's; kernels of the head are
    drawn from a truncated normal of deviation 0.02 (BERT), the scale of a norm is 1, the rest 0."""
    rng = np.random.default_rng([seed, 0x4EAD])
    values: dict[str, np.ndarray] = {}
    for path, variable in named_variables(model).items():
        shape = tuple(variable.shape)
        if not path.startswith(HEAD):
            values[path] = encoder[path]
        elif path.startswith(f"{HEAD}pooler/") and pooler:
            values[path] = pooler[path.removeprefix(HEAD)]
        elif len(shape) == 2:
            draw = rng.standard_normal(shape)
            while (far := np.abs(draw) > 2.0).any():
                draw[far] = rng.standard_normal(int(far.sum()))
            values[path] = (draw * _STD).astype(np.float32)
        else:
            fill = np.ones if path == f"{HEAD}norm/gamma" else np.zeros
            values[path] = fill(shape, np.float32)
    return values
