"""Causal language modelling: what is predicted, and from what."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.clm import CausalLanguageModeling

X = np.array([[4, 5, 2, 6, 7, 2, 0, 0], [4, 8, 9, 10, 11, 12, 13, 2]], np.int32)


def test_labels_are_the_next_tokens():
    labels, weights = CausalLanguageModeling(0).labels(tf.constant(X))
    np.testing.assert_array_equal(labels[:, :-1], X[:, 1:])
    np.testing.assert_array_equal(weights, [[1, 1, 1, 1, 1, 0, 0, 0], [1] * 7 + [0]])
    _, apart = CausalLanguageModeling(0, segment_end=2).labels(tf.constant(X))
    np.testing.assert_array_equal(apart, [[1, 1, 0, 1, 1, 0, 0, 0], [1] * 7 + [0]])


def test_the_sums_are_those_of_a_loop_over_prefixes():
    config = ModelConfig(d_model=16, d_ff=32, num_heads=2, num_layers=1, rpr_k=[3], weight_std=0.3)
    model = build_model(ModelSpec(config, 14, 8, kind="clm"), seed=1)
    batch = {"x": tf.constant(X), "position": tf.constant([0, 1], tf.int64)}
    sums = CausalLanguageModeling(0)(model, batch, Key.of(0, batch["position"]), training=False)
    total = count = right = 0
    for row in X:
        for at in range(1, len(row)):
            if row[at] != 0:
                logits = model(tf.constant(row[None, :at]))[0, -1, :14].numpy().astype(np.float64)
                total += np.log(np.exp(logits).sum()) - logits[row[at]]
                right += logits.argmax() == row[at]
                count += 1
    np.testing.assert_allclose(sums.loss, total, rtol=1e-5)
    assert sums.weight == count and sums.metrics["accuracy"] == (right, count)
    half = CausalLanguageModeling(0)(
        model,
        {**batch, "valid": tf.constant([1.0, 0.0])},
        Key.of(0, batch["position"]),
        training=False,
    )
    assert half.weight == 5


def test_records_with_masks_are_refused():
    with pytest.raises(UsageError, match="static masks"):
        CausalLanguageModeling(0)(
            None, {"x": tf.constant(X), "y": tf.constant(X)}, None, training=True
        )
