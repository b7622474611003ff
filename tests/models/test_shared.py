"""Tensors that a program makes once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_runs import one_device, options_of
from tpu_tlm.models.layers.counter_rng import Key, dropout
from tpu_tlm.models.layers.shared import constant, shared, sharing
from tpu_tlm.training import make_trainer
from tpu_tlm.training.step import TrainStep


def test_a_program_has_each_constant_once_and_others_have_their_own():
    def program() -> tuple[tf.Tensor, ...]:
        with sharing():
            one, again = constant(7, tf.int32), constant(7, tf.int32)
            real, axes = constant(7, tf.float32), constant((0, 1), tf.int32)
        after = constant(7, tf.int32)
        assert one is again
        return one, real, axes, after

    function = tf.function(program, autograph=False).get_concrete_function()
    values = [op.outputs[0] for op in function.graph.get_operations() if op.type == "Const"]
    assert len(values) == 4
    assert [v.dtype for v in values] == [tf.int32, tf.float32, tf.int32, tf.int32]
    other = tf.function(program, autograph=False)()
    assert [np.asarray(t).tolist() for t in other] == [7, 7.0, [0, 1], 7]


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
    x = tf.ones((3, 5, 8))

    @tf.function(autograph=False)
    def drawn(position: tf.Tensor) -> list[tf.Tensor]:
        key = Key.of(11, position)
        return [dropout(x, rate, key, site) for site in "ab" for rate in (0.1, 0.5)]

    @tf.function(autograph=False)
    def sharing_numbers(position: tf.Tensor) -> list[tf.Tensor]:
        with sharing():
            return drawn.python_function(position)

    position = tf.constant([5, 6, 2**40], tf.int64)
    for one, other in zip(drawn(position), sharing_numbers(position), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("replicas", [False, True])
def test_the_step_of_one_device_shares_and_that_of_replicas_does_not(
    toy_corpus, tmp_path, monkeypatch, replicas
):
    # Sums are traced for steps and for evaluations.
    sums, same = TrainStep.sums, []

    def seen(step, *args, **options):
        same.append((options["training"], constant(7, tf.int32) is constant(7, tf.int32)))
        return sums(step, *args, **options)

    monkeypatch.setattr(TrainStep, "sums", seen)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"]) if replicas else None
    devices = dataclasses.replace(one_device(), strategy=strategy)
    flags = ("--steps", 8, "--valid_dir", toy_corpus.valid)
    options = options_of(toy_corpus, tmp_path / "run", *flags)
    make_trainer(options, devices, display=False).fit()
    assert set(same) == {(True, not replicas), (False, not replicas)}
