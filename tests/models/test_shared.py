"""Tensors that a program makes once."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.shared import constant, shared, sharing


def test_a_program_has_each_constant_once_and_others_have_their_own():
    def program() -> tuple[tf.Tensor, ...]:
        with sharing():
            one, again = constant(7, tf.int32), constant(7, tf.int32)
            real, axes = constant(7, tf.float32), constant((0, 1), tf.int32)
            signs = constant(0.0, tf.float32), constant(-0.0, tf.float32)
        after = constant(7, tf.int32)
        assert one is again
        return one, real, axes, *signs, after

    function = tf.function(program, autograph=False).get_concrete_function()
    values = [op.outputs[0] for op in function.graph.get_operations() if op.type == "Const"]
    dtypes = [tf.int32, tf.float32, tf.int32, tf.float32, tf.float32, tf.int32]
    assert [v.dtype for v in values] == dtypes
    other = tf.function(program, autograph=False)()
    assert [np.asarray(t).tolist() for t in other] == [7, 7.0, [0, 1], 0.0, 0.0, 7]
    assert [bool(np.signbit(t)) for t in other[3:5]] == [False, True]


def test_the_body_of_a_loop_has_its_own():
    made = []

    def number() -> tf.Tensor:
        made.append(tf.compat.v1.get_default_graph())
        return tf.constant(3)

    @tf.function(autograph=False)
    def program() -> tf.Tensor:
        with sharing():
            outer = shared("number", number)
            _, total = tf.while_loop(
                lambda i, _: i < 4,
                lambda i, total: (i + 1, total + shared("number", number)),
                (tf.constant(0), outer),
            )
            return total + shared("number", number)

    assert int(program()) == 3 + 4 * 3 + 3
    assert len(made) == 2 and made[0] is not made[1]


def test_nothing_is_shared_eagerly_or_outside():
    with sharing():
        assert constant(1.5, tf.float32) is not constant(1.5, tf.float32)
    graph = tf.Graph()
    with graph.as_default():
        assert constant(1.5, tf.float32) is not constant(1.5, tf.float32)


def test_dropout_draws_the_same_with_shared_numbers():
    # The second shape has as many elements, in other places.
    shapes = (3, 5, 8), (3, 8, 5), (3, 1, 8)

    @tf.function(autograph=False)
    def drawn(position: tf.Tensor) -> list[tf.Tensor]:
        key = Key.of(11, position)
        return [
            dropout(tf.ones(shape), rate, key, site)
            for shape in shapes
            for site in "ab"
            for rate in (0.1, 0.5)
        ]

    @tf.function(autograph=False)
    def sharing_numbers(position: tf.Tensor) -> list[tf.Tensor]:
        with sharing():
            return drawn.python_function(position)

    position = tf.constant([5, 6, 2**40], tf.int64)
    for one, other in zip(drawn(position), sharing_numbers(position), strict=True):
        np.testing.assert_array_equal(one, other)
