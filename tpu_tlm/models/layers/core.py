"""Dense, norms, activations and the feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.cpu_gradients import add_bias, column_sums, multiply_by_scale, stored
from tpu_tlm.models.layers.layer import Layer
from tpu_tlm.models.layers.tpu_gradients import activated, gelu_tanh_with_derivative


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=True)


def _gelu_exact(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.gelu(x, approximate=False)


_Elementwise = Callable[[tf.Tensor], tf.Tensor]

# For gated activations: the function that is applied to the gate.
ACTIVATIONS: dict[str, _Elementwise] = {
    "gelu": _gelu_tanh,
    "gelu-exact": _gelu_exact,
    "relu": tf.nn.relu,
    "geglu": _gelu_tanh,
    "geglu-exact": _gelu_exact,
    "swiglu": tf.nn.silu,
}
GATED = ("geglu", "geglu-exact", "swiglu")
# Those that are computed together with their derivative in fewer operations than one by one.
_WITH_DERIVATIVE: dict[_Elementwise, Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]] = {
    _gelu_tanh: gelu_tanh_with_derivative
}


class Dense(Layer):
    """Affine map of the last axis, `x @ kernel + bias`: `[..., in] -> [..., out]`.

    Kernel `[in, out]`, bias `[out]`; computed in the compute dtype.
    """

    def __init__(
        self, input_size: int, output_size: int, *, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.output_size = output_size
        self.kernel = self.add_weight(
            name="kernel", shape=(input_size, output_size), initializer="zeros"
        )
        self.bias = (
            self.add_weight(name="bias", shape=(output_size,), initializer="zeros")
            if use_bias
            else None
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), self.kernel)
        y = tf.reshape(y, (-1, *x.shape[1:-1], self.output_size))
        return y if self.bias is None else add_bias(y, self.bias)


@tf.custom_gradient
def _layer_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: tf.Tensor
) -> tuple[tf.Tensor, Any]:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis.

    Computed in float32, returned in x's dtype. The gradient is written in its closed form: one pass
    for the four sums and one for the result, from x and two numbers per row.
    """
    y = tf.cast(x, tf.float32)
    mean = tf.reduce_mean(y, axis=-1, keepdims=True)
    if x.dtype == tf.float32:
        variance = tf.reduce_mean(tf.square(y - mean), axis=-1, keepdims=True)
    else:
        # Both sums in one pass, which a TPU fuses into the product before. The precision that this
        # loses is below the rounding of a bfloat16 x.
        variance = tf.maximum(
            tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) - tf.square(mean), 0.0
        )
    scale = tf.math.rsqrt(variance + epsilon)

    def backward(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, None]:
        d = stored(tf.cast(gradient, tf.float32))
        normal = (tf.cast(x, tf.float32) - mean) * scale
        d_gamma, d_beta = column_sums(d * normal), column_sums(d)
        d *= gamma
        first, second = (
            tf.reduce_mean(d, axis=-1, keepdims=True),
            tf.reduce_mean(d * normal, axis=-1, keepdims=True),
        )
        return tf.cast((d - first - normal * second) * scale, x.dtype), d_gamma, d_beta, None

    return tf.cast((y - mean) * scale * gamma + beta, x.dtype), backward


class LayerNorm(Layer):
    """Layer normalization of the last axis (arXiv 1607.06450).

    Statistics and parameters are float32 for every input dtype. `use_bias`: whether beta is added.
    """

    def __init__(self, size: int, *, epsilon: float, use_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gamma = self.add_weight(
            name="gamma", shape=(size,), initializer="ones", autocast=False
        )
        self.beta = (
            self.add_weight(name="beta", shape=(size,), initializer="zeros", autocast=False)
            if use_bias
            else None
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gamma = tf.convert_to_tensor(self.gamma)
        y = _layer_norm(
            x,
            gamma,
            tf.zeros_like(gamma) if self.beta is None else tf.convert_to_tensor(self.beta),
            tf.constant(self.epsilon),
        )
        return tf.cast(y, self.compute_dtype)


class RMSNorm(Layer):
    """x / sqrt(mean(x^2) + epsilon) * gamma over the last axis, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, *, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.gamma = self.add_weight(
            name="gamma", shape=(size,), initializer="ones", autocast=False
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.cast(x, tf.float32)
        y *= tf.math.rsqrt(tf.reduce_mean(tf.square(y), axis=-1, keepdims=True) + self.epsilon)
        return tf.cast(multiply_by_scale(y, self.gamma), self.compute_dtype)


def make_norm(config: ModelConfig, size: int | None = None, **kwargs: Any) -> Layer:
    """The norm of the configuration (`norm_type`) over `size` units (None: d_model)."""
    size, epsilon = size or config.d_model, config.layer_norm_eps
    if config.norm_type == "rms-norm":
        return RMSNorm(size, epsilon=epsilon, **kwargs)
    return LayerNorm(size, epsilon=epsilon, use_bias=config.norm_bias, **kwargs)


class FFN(Layer):
    """Position-wise feed-forward layer: `[B, T, d] -> [B, T, d]` (arXiv 1706.03762, 3.3).

    `squeeze(dropout(activation(expansion(x))))`; with `geglu` and `swiglu`
    `squeeze(dropout(f(gate(x)) * expansion(x)))`, f gelu or silu (arXiv 2002.05202). All have
    biases, unless `use_bias` is false.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: str,
        pdrop: float,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pdrop = pdrop
        self.activation = ACTIVATIONS[activation]
        biases: dict[str, Any] = {"use_bias": use_bias, "dtype": self.dtype_policy}
        self.expansion = Dense(d_model, d_ff, name="expansion", **biases)
        self.gate = Dense(d_model, d_ff, name="gate", **biases) if activation in GATED else None
        self.squeeze = Dense(d_ff, d_model, name="squeeze", **biases)

    def call(self, x: tf.Tensor, key: Key | None = None, training: bool | None = None) -> tf.Tensor:
        key = self.dropout_key(x, key, training)
        y = self.expansion(x)
        if self.gate is not None:
            y = self.activation(self.gate(x)) * y
        elif key is None or self.activation is tf.nn.relu:  # no training, or nothing to save
            y = self.activation(y)
        else:
            y = activated(self.activation, y, _WITH_DERIVATIVE.get(self.activation))
        return self.squeeze(dropout(y, self.pdrop, key, "ffn"))
