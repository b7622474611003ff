"""What every layer must keep: one call checks it all, so that a new layer's test is a few lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.initializers import initial_value
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import mark_built, named_variables

ROWS = 4
Make = Callable[[keras.DTypePolicy], keras.layers.Layer]


def _plainly(layer: keras.layers.Layer, *inputs: tf.Tensor, **others: Any) -> Any:
    return layer(*inputs, **others)


def small(**options: Any) -> ModelConfig:
    """A tiny configuration; dropout on, so that contracts hold with it."""
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


def keys(first: int = 0, rows: int = ROWS) -> Key:
    """Keys of examples `first`..."""
    return Key.of(7, tf.range(first, first + rows, dtype=tf.int64))


def fill(layer: keras.layers.Layer, seed: int = 0) -> keras.layers.Layer:
    """Give every variable a value that does something: also those that start at zero or one."""
    mark_built(layer)
    for path, variable in named_variables(layer).items():
        noise = 0.1 * np.random.default_rng(seed).standard_normal(variable.shape)
        variable.assign(initial_value(path, tuple(variable.shape), small(), seed) + noise)
    return layer


def _flat(outputs: Any) -> list[np.ndarray]:
    return [tf.cast(t, tf.float32).numpy() for t in tf.nest.flatten(outputs)]


def check(
    make: Make,
    inputs: tuple[tf.Tensor, ...],
    *,
    call: Callable[..., Any] = _plainly,
    with_key: bool = True,
    tolerance: float = 0.1,
    **others: Any,
) -> list[np.ndarray]:
    """Check a layer's contract and give back its outputs in float32.

    `make(policy)` builds it; `call(layer, *inputs, key=, **others)` runs it, on tensors whose first axis is the example.
    1. XLA compiles it with static shapes, and computes the same.  2. In bfloat16 it keeps float32 parameters and comes close.
    3. A second instance with the same values by path gives the same.  4. Rows do not depend on the batch they are in, dropout included.
    5. Every variable gets a gradient.
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
    assert variables, "a layer without variables keeps no values: test its numbers"
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

    again = fill(make(keras.DTypePolicy("float32")), seed=1)
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
    return expected
