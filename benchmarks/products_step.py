"""The matrix products of a training step and nothing else: what no step can be faster than."""

from __future__ import annotations

import time
from collections.abc import Callable

import tensorflow as tf

from benchmarks.workloads import WORKLOADS


def build(workload: str) -> Callable[[int], float]:
    """A callable(calls) -> seconds per step of the float32 products that a step cannot do without.

    Forward and backward: projections, scores and weighted values, feed-forward, and the head at the
    predicted positions. XLA compiles them as one program per step; every product is written to
    memory, and nothing else is computed.
    """
    load = WORKLOADS[workload]
    rows, d, heads = load.rows * load.tokens, load.d_model, load.heads
    dense = [
        *[(rows, d, d)] * 4 * load.layers,
        *[(rows, d, load.d_ff), (rows, load.d_ff, d)] * load.layers,
        (load.rows * load.predictions, d, d),
        (load.rows * load.predictions, d, load.vocab),
    ]
    pairs = [tf.random.normal((load.rows, heads, load.tokens, d // heads)) for _ in range(2)]
    square = tf.random.normal((load.rows, heads, load.tokens, load.tokens))
    given = [
        (tf.random.normal((m, k)), tf.random.normal((k, n)), tf.random.normal((m, n)))
        for m, k, n in dense
    ]
    # Operands differ, or XLA would compute equal products once.
    attention = [
        ([x + 0.1 * number for x in pairs], square + 0.1 * number) for number in range(load.layers)
    ]

    @tf.function(jit_compile=True, autograph=False)
    def step(
        dense: list[tuple[tf.Tensor, ...]], attention: list[tuple[list[tf.Tensor], tf.Tensor]]
    ) -> list[tf.Tensor]:
        found = []
        for x, kernel, gradient in dense:
            found.append(tf.matmul(x, kernel))
            found.append(tf.matmul(gradient, kernel, transpose_b=True))
            found.append(tf.matmul(x, gradient, transpose_a=True))
        for (first, second), weights in attention:
            found.append(tf.matmul(first, second, transpose_b=True))
            found.append(tf.matmul(second, first, transpose_b=True))
            found.append(tf.matmul(weights, first))
            found.append(tf.matmul(weights, second))
            found.append(tf.matmul(weights, first, transpose_a=True))
            found.append(tf.matmul(weights, second, transpose_a=True))
        return found

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls * load.steps_per_call):
            last = step(given, attention)
        float(last[-1][0, 0, 0, 0])
        return (time.perf_counter() - began) / (calls * load.steps_per_call)

    run(1)
    return run
