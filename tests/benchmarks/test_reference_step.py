"""The reference trains: what it is timed on is the whole job."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.reference_step import Model, Reference
from benchmarks.workloads import DROPOUTS, WORKLOADS, Workload

TINY = Workload(
    vocab=50,
    d_model=16,
    layers=1,
    heads=2,
    d_ff=32,
    rows=4,
    tokens=8,
    predictions=3,
    steps_per_call=5,
)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_loss_starts_at_uniform_and_falls(dropout: str) -> None:
    reference = Reference(TINY, dropout)
    before = [v.numpy() for v in reference.model.variables]
    reference(1)
    assert reference.last_loss == pytest.approx(math.log(TINY.vocab), rel=0.02)
    assert reference(60) > 0
    assert int(reference.step) == 5 * 61
    assert reference.last_loss < 0.95 * math.log(TINY.vocab)
    assert all(
        np.any(v.numpy() != b) for v, b in zip(reference.model.variables, before, strict=True)
    )


def test_dropout_changes_with_the_step_only_when_on() -> None:
    ids, places = tf.zeros((4, 8), tf.int32), tf.zeros((4, 3), tf.int32)
    for dropout, differs in (("stateless", True), ("none", False)):
        model = Model(TINY, dropout)
        losses = {float(model.loss(ids, places, places, tf.constant(seed))) for seed in range(3)}
        assert (len(losses) > 1) is differs


def test_only_predicted_places_count() -> None:
    model = Model(TINY, "none")
    ids = tf.random.stateless_uniform((4, 8), (1, 2), 0, 50, tf.int32)
    zero, two = tf.zeros((4, 3), tf.int32), tf.fill((4, 3), 2)
    full = [float(model.loss(ids, place, two, tf.constant(0))) for place in (zero, two)]
    assert full[0] != full[1]


def test_first_update_is_adamw_s() -> None:
    """After one step Adam's update is the rate times the gradient's sign, plus the decay of
    matrices.
    """
    one = Workload(**{**TINY.__dict__, "steps_per_call": 1})
    reference = Reference(one, "none")
    bias = reference.model.head[1]
    with tf.GradientTape() as tape:
        loss = reference.model.loss(
            reference.ids[0], reference.places[0], reference.targets[0], tf.constant(0)
        )
    gradient = tape.gradient(loss, bias).numpy()
    reference(1)
    clear = np.abs(gradient) > 1e-5
    assert clear.any()
    # The epsilon is added before the bias correction, so it weighs 1/sqrt(1 - 0.999) more than in
    # the paper.
    expected = -1e-4 * gradient / (np.abs(gradient) + 1e-6 / math.sqrt(1 - 0.999))
    np.testing.assert_allclose(bias.numpy()[clear], expected[clear], rtol=2e-2)


def test_sizes_of_the_workloads() -> None:
    for name, parameters in (("W1", 1_486_720), ("W2", 11_102_778)):
        assert (
            sum(int(np.prod(v.shape)) for v in Model(WORKLOADS[name], "none").variables)
            == parameters
        )
