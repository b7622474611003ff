"""The contract of every layer: one call checks all of it, so that a new layer's test is short."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.formats.elmo.options import spec_of as elmo_spec
from tpu_tlm.models.initializers import initial_value
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import mark_built, named_variables
from tpu_tlm.models.spec import ModelSpec

ROWS = 4
Make = Callable[[keras.DTypePolicy], keras.layers.Layer]


def _call(layer: keras.layers.Layer, *inputs: tf.Tensor, **others: Any) -> Any:
    return layer(*inputs, **others)


def small(**options: Any) -> ModelConfig:
    """A tiny configuration, with dropout, so that the contract includes it."""
    sizes = {
        "d_model": 16,
        "d_ff": 32,
        "num_heads": 2,
        "num_layers": 2,
        "rpr_k": [0],
        "dropout": 0.1,
        "weight_std": 0.3,
        "layer_norm_eps": 1e-6,
    }
    return ModelConfig(**{**sizes, **options})


def hidden(length: int = 8, width: int = 16, seed: int = 0) -> tf.Tensor:
    """Random hidden states `[ROWS, length, width]`."""
    return tf.constant(
        np.random.default_rng(seed).standard_normal((ROWS, length, width)), tf.float32
    )


def tokens(length: int = 8, vocab: int = 20, seed: int = 0) -> tf.Tensor:
    """Random ids `[ROWS, length]`, the last row padded."""
    x = np.random.default_rng(seed).integers(1, vocab, (ROWS, length)).astype(np.int32)
    x[-1, length // 2 :] = 0
    return tf.constant(x)


def elmo() -> ModelSpec:
    """A small ELMo."""
    return elmo_spec(ElmoConfig(10, 4, ((1, 4), (2, 4)), "relu", 1, 8, 6, 2, 3.0, 3.0))


def inputs_of(kind: str) -> Any:
    """Inputs of a model of this kind: ids of tokens, pairs of them, or ids of characters."""
    if kind == "elmo":
        return np.random.default_rng(3).integers(1, 257, (ROWS, 8, 10)).astype(np.int32)
    x = tokens()
    return {"x": x, "y": x} if kind in ("dual", "seq2seq") else x


def keys(first: int = 0, rows: int = ROWS) -> Key:
    """Keys of the examples `first` to `first + rows - 1`."""
    return Key.of(7, tf.range(first, first + rows, dtype=tf.int64))


def fill(layer: keras.layers.Layer, seed: int = 0) -> keras.layers.Layer:
    """Give every variable a value that matters, also those that start at zero or one."""
    mark_built(layer)
    for path, variable in named_variables(layer).items():
        noise = 0.1 * np.random.default_rng(seed).standard_normal(variable.shape)
        variable.assign(initial_value(path, tuple(variable.shape), small(), seed) + noise)
    return layer


def _flat(outputs: Any) -> list[np.ndarray]:
    return [tf.cast(t, tf.float32).numpy() for t in tf.nest.flatten(outputs)]


def restored(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer that Keras builds from this one's configuration."""
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert config["registered_name"] == f"tpu_tlm>{type(layer).__name__}"
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer) and again.get_config() == layer.get_config()
    return again


def check(
    make: Make,
    inputs: tuple[tf.Tensor, ...],
    *,
    call: Callable[..., Any] = _call,
    with_key: bool = True,
    tolerance: float = 0.1,
    **others: Any,
) -> list[np.ndarray]:
    """Check a layer's contract; returns its outputs in float32.

    `make(policy)` builds it; `call(layer, *inputs, key=, **others)` runs it on tensors whose first
    axis is the example.

    1. XLA compiles it with static shapes, with the same results.
    2. In bfloat16 its parameters stay float32, and results are close.
    3. Keras restores it from its configuration as JSON; with the same values by path it computes
       exactly the same.
    4. Rows do not depend on their batch, dropout included.
    5. Every variable gets a gradient.
    6. Without a key, `training=True` drops out exactly where a key does.
    """
    layer = fill(make(keras.DTypePolicy("float32")))

    def run(
        this: keras.layers.Layer,
        given: tuple[tf.Tensor, ...],
        first: int,
        rows: int,
        more: Mapping[str, Any],
    ) -> Any:
        return call(this, *given, **({"key": keys(first, rows)} if with_key else {}), **more)

    @tf.function(jit_compile=True, autograph=False)
    def compiled(*given: tf.Tensor) -> Any:
        outputs = run(layer, given, 0, ROWS, others)
        for tensor in tf.nest.flatten(outputs):
            assert tensor.shape.is_fully_defined(), f"a dynamic shape: {tensor}"
        return outputs

    variables = named_variables(layer)
    assert variables, "a layer without variables has no values to keep: test its numbers"
    with tf.GradientTape() as tape:
        outputs = run(layer, inputs, 0, ROWS, others)
        # Squares, since a plain sum is blind to what a norm passes on.
        total = tf.add_n([tf.reduce_sum(tf.square(t)) for t in tf.nest.flatten(outputs)])
    expected = _flat(outputs)
    assert all(np.isfinite(e).all() for e in expected)
    for path, gradient in tape.gradient(total, {p: v.value for p, v in variables.items()}).items():
        assert gradient is not None, f"no gradient for {path}"

    for got, want in zip(_flat(compiled(*inputs)), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)

    half = fill(make(keras.DTypePolicy("mixed_bfloat16")))
    assert list(named_variables(half)) == list(variables)
    for path, variable in named_variables(half).items():
        assert variable.dtype == "float32", path
        variable.assign(variables[path])
    cast = tuple(tf.cast(t, tf.bfloat16) if t.dtype == tf.float32 else t for t in inputs)
    for got, want in zip(_flat(run(half, cast, 0, ROWS, others)), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=tolerance * max(1.0, float(np.abs(want).max())))

    again = fill(restored(layer), seed=1)
    for path, variable in named_variables(again).items():
        variable.assign(variables[path].numpy())
    for got, want in zip(_flat(run(again, inputs, 0, ROWS, others)), expected, strict=True):
        np.testing.assert_array_equal(got, want)

    middle = ROWS // 2
    parts = []
    for first in (0, middle):
        rows = {
            k: v[first : first + middle] if isinstance(v, tf.Tensor) and v.shape[0] == ROWS else v
            for k, v in others.items()
        }
        parts.append(
            _flat(run(layer, tuple(t[first : first + middle] for t in inputs), first, middle, rows))
        )
    for got, want in zip(zip(*parts, strict=True), expected, strict=True):
        np.testing.assert_allclose(np.concatenate(got), want, atol=1e-5)

    if with_key:
        still = _flat(call(layer, *inputs, **others))
        random = [_flat(call(layer, *inputs, training=True, **others)) for _ in range(2)]
        for without, with_mask, first, second in zip(still, expected, *random, strict=True):
            drops = not np.allclose(without, with_mask, atol=1e-6)
            assert drops == (not np.allclose(without, first, atol=1e-6))
            assert drops == (not np.allclose(first, second, atol=1e-6))
    return expected
