"""The step to beat: masked-LM training as a good programmer writes it in plain TensorFlow, by hand
and for one model only.

One `tf.function(jit_compile=True)` runs ten steps: post-LN blocks with fused QKV, learned
positions, dropout on attention weights and residual branches, BERT's head at the gathered positions
with the tied table, cross-entropy, AdamW without clipping; float32. Which positions are predicted
is part of the input: nothing is masked here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks.workloads import DROPOUTS, WORKLOADS, Workload

LR, BETA1, BETA2, EPS, WEIGHT_DECAY = 1e-4, 0.9, 0.999, 1e-6, 0.01


class Model:
    """Variables and the loss of the workload's model."""

    def __init__(self, w: Workload, dropout: str) -> None:
        if dropout not in DROPOUTS:
            raise ValueError(f"dropout {dropout!r} is not one of {', '.join(DROPOUTS)}")
        self.w, self.dropout_kind = w, dropout
        self.variables: list[tf.Variable] = []
        self.decayed: list[bool] = []
        self.generator = np.random.default_rng(0)
        d, f = w.d_model, w.d_ff
        self.table, self.positions = self._matrix(w.vocab, d), self._matrix(w.tokens, d)
        self.embedding_norm = self._norm(d)
        self.blocks = [
            (
                self._matrix(d, 3 * d),
                self._vector(3 * d),
                self._matrix(d, d),
                self._vector(d),
                self._norm(d),
            )
            + (
                self._matrix(d, f),
                self._vector(f),
                self._matrix(f, d),
                self._vector(d),
                self._norm(d),
            )
            for _ in range(w.layers)
        ]
        self.head = (self._matrix(d, d), self._vector(d), self._norm(d), self._vector(w.vocab))

    def _variable(self, value: np.ndarray, decayed: bool) -> tf.Variable:
        self.variables.append(tf.Variable(value.astype(np.float32)))
        self.decayed.append(decayed)
        return self.variables[-1]

    def _matrix(self, rows: int, columns: int) -> tf.Variable:
        return self._variable(0.02 * self.generator.standard_normal((rows, columns)), True)

    def _vector(self, size: int) -> tf.Variable:
        return self._variable(np.zeros(size), False)

    def _norm(self, size: int) -> tuple[tf.Variable, tf.Variable]:
        return self._variable(np.ones(size), False), self._vector(size)

    def _drop(self, x: tf.Tensor, seed: tf.Tensor, site: int) -> tf.Tensor:
        if self.dropout_kind == "stateful":
            return tf.nn.dropout(x, self.w.dropout)
        if self.dropout_kind == "stateless":
            return tf.nn.experimental.stateless_dropout(x, self.w.dropout, tf.stack([seed, site]))
        return x

    def loss(
        self, ids: tf.Tensor, places: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Mean cross-entropy: ids int32 [rows, tokens]; places, targets int32 [rows,
        predictions]; seed int32 scalar.
        """
        w, d, heads = self.w, self.w.d_model, self.w.heads
        x = layer_norm(tf.gather(self.table, ids) + self.positions, *self.embedding_norm)
        for i, (
            qkv,
            qkv_bias,
            out,
            out_bias,
            norm1,
            up,
            up_bias,
            down,
            down_bias,
            norm2,
        ) in enumerate(self.blocks):
            split = tf.reshape(
                tf.reshape(x, (-1, d)) @ qkv + qkv_bias, (w.rows, w.tokens, 3, heads, d // heads)
            )
            q, k, v = tf.unstack(tf.transpose(split, (2, 0, 3, 1, 4)))
            weights = tf.nn.softmax(tf.matmul(q * (d // heads) ** -0.5, k, transpose_b=True))
            mixed = tf.transpose(tf.matmul(self._drop(weights, seed, 3 * i), v), (0, 2, 1, 3))
            attended = tf.reshape(mixed, (-1, d)) @ out + out_bias
            x = layer_norm(x + self._drop(tf.reshape(attended, x.shape), seed, 3 * i + 1), *norm1)
            inner = tf.nn.gelu(tf.reshape(x, (-1, d)) @ up + up_bias, approximate=True)
            x = layer_norm(
                x + self._drop(tf.reshape(inner @ down + down_bias, x.shape), seed, 3 * i + 2),
                *norm2,
            )
        dense, dense_bias, norm, bias = self.head
        chosen = tf.reshape(tf.gather(x, places, batch_dims=1), (-1, d))
        hidden = layer_norm(tf.nn.gelu(chosen @ dense + dense_bias, approximate=True), *norm)
        logits = tf.matmul(hidden, self.table, transpose_b=True) + bias
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(targets, (-1,)), logits)
        )


def layer_norm(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """Normalise the last axis."""
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-12) * scale + shift


class Reference:
    """The compiled training of a workload on random ids; call it to time it."""

    def __init__(self, w: Workload, dropout: str = DROPOUTS[0]) -> None:
        self.w, self.model = w, Model(w, dropout)
        self.first = [tf.Variable(tf.zeros_like(v)) for v in self.model.variables]
        self.second = [tf.Variable(tf.zeros_like(v)) for v in self.model.variables]
        self.step = tf.Variable(0, dtype=tf.int32)
        rng = np.random.default_rng(1)
        size = (w.steps_per_call, w.rows)
        self.ids = tf.constant(rng.integers(0, w.vocab, (*size, w.tokens), np.int32))
        self.places = tf.constant(
            np.argsort(rng.random((*size, w.tokens)))[..., : w.predictions].astype(np.int32)
        )
        self.targets = tf.constant(rng.integers(0, w.vocab, (*size, w.predictions), np.int32))
        self.parameters = sum(int(np.prod(v.shape)) for v in self.model.variables)

    @tf.function(jit_compile=True)
    def steps(self, ids: tf.Tensor, places: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """As many steps as the leading axis holds; the last loss."""
        loss = tf.zeros([])
        for i in tf.range(self.w.steps_per_call):
            with tf.GradientTape() as tape:
                loss = self.model.loss(ids[i], places[i], targets[i], self.step)
            grads = tape.gradient(loss, self.model.variables)
            self.step.assign_add(1)
            t = tf.cast(self.step, tf.float32)
            rate = LR * tf.sqrt(1.0 - BETA2**t) / (1.0 - BETA1**t)
            for v, m, s, g, decayed in zip(
                self.model.variables,
                self.first,
                self.second,
                grads,
                self.model.decayed,
                strict=True,
            ):
                gradient = tf.convert_to_tensor(g)
                m.assign(BETA1 * m + (1.0 - BETA1) * gradient)
                s.assign(BETA2 * s + (1.0 - BETA2) * gradient * gradient)
                update = rate * m / (tf.sqrt(s) + EPS)
                v.assign_sub(update + LR * WEIGHT_DECAY * v if decayed else update)
        return loss

    def __call__(self, calls: int) -> float:
        """Run so many calls of `steps_per_call` steps; seconds per step."""
        begin = time.perf_counter()
        for _ in range(calls):
            loss = self.steps(self.ids, self.places, self.targets)
        self.last_loss = float(loss)
        return (time.perf_counter() - begin) / (calls * self.w.steps_per_call)


def build(workload: str, dropout: str = DROPOUTS[0]) -> Callable[[int], float]:
    """A compiled step of W1 or W2 that is called with a number of calls and says seconds per
    step.
    """
    reference = Reference(WORKLOADS[workload], dropout)
    reference(1)
    return reference
