"""The linear probe that ELECTRA is compared by: it finds what is there, and nothing where
nothing is.
"""

from __future__ import annotations

import numpy as np

from benchmarks.electra import probe, regression


def test_regression_reaches_the_minimum():
    """The gradient of the penalised loss is zero there."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 5)), rng.integers(0, 3, 200)
    weights = regression(x, y, 1e-2, rounds=2000)
    scores = np.exp(x @ weights)
    gradient = (
        x.T @ (scores / scores.sum(axis=1, keepdims=True) - np.eye(3)[y]) / len(x) + 1e-2 * weights
    )
    assert np.abs(gradient).max() < 1e-6


def test_the_probe_finds_a_direction_and_invents_none():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2000, 8)) * [1, 5, 1, 1, 0.1, 1, 1, 1], rng.integers(0, 2, 2000)
    assert abs(probe(x, y, 0) - 0.5) < 0.08
    x[:, 4] += 0.4 * y
    assert probe(x, y, 0) > 0.94
    assert probe(x, y, 0) == probe(x, y, 0)
