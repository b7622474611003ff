"""Gradients written out in layers, against those that TensorFlow derives from the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import fill, hidden, keys
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.core import LayerNorm
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.masks import MASKED, causal_mask, padding_mask
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.shaw import MultiHeadedRelativeAttention
from tpu_tlm.models.positions.t5 import T5Attention

ATTENTIONS = {
    "plain": (MultiHeadedAttention, {}),
    "shaw": (MultiHeadedRelativeAttention, {"rpr_k": 2}),
    "t5": (T5Attention, {}),
}


def derived(
    layer: MultiHeadedAttention, x: tf.Tensor, attention_mask: tf.Tensor | None, key: Key | None
) -> tf.Tensor:
    """Attention by its formula, with the layer's own projections."""
    q, k, v = layer.qkv(x)
    tables = layer.position_tables()
    scores = tf.cast(layer.scores(q * layer.d_k**-0.5, k, None, tables), tf.float32)
    bias = layer.position_bias(q.shape[2], k.shape[2], None, tables)
    if bias is not None:
        scores += bias
    if attention_mask is not None:
        scores = tf.where(attention_mask, scores, MASKED)
    return layer.w_O(
        layer.weighted_values(
            dropout(tf.cast(tf.nn.softmax(scores), v.dtype), layer.pdrop, key, "attn"),
            v,
            None,
            tables,
        )
    )


def gradients(call: Any, layer: Any, x: tf.Tensor) -> dict[str, np.ndarray]:
    """Gradients of the sum of cubes of `call(x)` by the input and by each variable."""
    values = {path: v.value for path, v in named_variables(layer).items()}
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(call(x) ** 3)
    found = tape.gradient(total, {"x": x, **values})
    return {path: tf.convert_to_tensor(g).numpy() for path, g in found.items()}


# In float64 the weights are computed again in the backward pass, as in bfloat16, but precisely
# enough to compare (T5's bias is float32 only).
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((k, "float32") for k in ATTENTIONS), ("plain", "float64"), ("shaw", "float64")],
)
def test_attention(kind: str, dtype: str, masked: bool) -> None:
    make, options = ATTENTIONS[kind]
    layer = fill(make(16, 2, pdrop=0.3, dtype=dtype, **options))
    x, key = tf.cast(hidden(), dtype), keys()
    tokens = np.ones((4, 8), np.int32)
    tokens[1, 5:] = 0
    tokens[3] = 0  # a row in which everything is masked
    attention_mask = padding_mask(tf.constant(tokens), 0) & causal_mask(8, 8) if masked else None
    ours = gradients(lambda x: layer(x, attention_mask=attention_mask, key=key), layer, x)
    for path, expected in gradients(
        lambda x: derived(layer, x, attention_mask, key), layer, x
    ).items():
        np.testing.assert_allclose(
            ours[path],
            expected,
            rtol=1e-4,
            atol=1e-5 * max(1.0, np.abs(expected).max()),
            err_msg=path,
        )


def test_layer_norm() -> None:
    layer = fill(LayerNorm(16, epsilon=1e-3))

    def plain(x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-3) * layer.gamma + layer.beta

    x = 0.1 * hidden() + 2.0
    ours = gradients(layer, layer, x)
    for path, expected in gradients(plain, layer, x).items():
        np.testing.assert_allclose(
            ours[path],
            expected,
            rtol=1e-3,
            atol=1e-5 * max(1.0, np.abs(expected).max()),
            err_msg=path,
        )
