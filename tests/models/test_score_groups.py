"""Attention in groups of rows and heads, as a TPU computes it: the same as in one group."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import ROWS, fill, hidden, keys, small
from tpu_tlm.models.layers import local_attention, score_groups
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.masks import causal_mask
from tpu_tlm.models.layers.target import traced_for

LENGTH, HEADS = 12, 4
ENCODINGS = {
    "plain": {},
    "no biases": {"use_bias": False},
    "rotary": {"position_encoding": ["rotary"]},
    "shaw": {"rpr_k": [3]},
    "t5": {"position_encoding": ["t5"]},
    "alibi": {"position_encoding": ["alibi"]},
    "convert": {"position_encoding": ["convert"], "rpr_k": [3]},
    "window": {"local_window": 2, "global_every": 1000},
}
MASKS = {
    "none": None,
    "padding": np.arange(LENGTH)[None, None, None] < np.array([12, 9, 5, 1])[:, None, None, None],
    "causal": causal_mask(LENGTH, LENGTH),
    "two axes": causal_mask(LENGTH, LENGTH)[0, 0],
    "by head": np.random.default_rng(3).random((ROWS, HEADS, LENGTH, LENGTH)) < 0.7,
}
# Heads in a group, over rows: half of the rows, one row, half of the heads, one head.
GROUPS = {"two rows": 8, "one row": 4, "two heads": 2, "one head": 1}


@pytest.fixture(autouse=True)
def few_keys(monkeypatch):
    monkeypatch.setattr(score_groups, "FEWEST_KEYS", 1)
    monkeypatch.setattr(score_groups, "UNDIVIDED", 0)


def layer_of(policy="float32", **options):
    config = small(num_heads=HEADS, **options)
    return fill(make_attention(config, 1, dtype=policy))


def run(layer, heads, monkeypatch, mask=None, key=None, source=None):
    """Output and gradients with at most `heads` heads in a group, and the groups made."""
    made = []
    whole = score_groups.score_groups

    def recorded(*args, **others):
        made.append(whole(*args, **others))
        return made[-1]

    x = hidden(LENGTH)
    with monkeypatch.context() as patch, traced_for("TPU"), tf.GradientTape() as tape:
        patch.setattr(score_groups, "LARGEST", heads * LENGTH * LENGTH)
        patch.setattr("tpu_tlm.models.layers.attention.score_groups", recorded)
        tape.watch(x)
        out = tf.cast(layer(x, attention_mask=mask, key=key, encoder_output=source), tf.float32)
        loss = tf.reduce_sum(tf.square(out) * tf.cast(tf.range(1, 17), tf.float32))
    return out, tape.gradient(loss, [x, *layer.trainable_variables]), {len(g) for g in made}


def assert_same(found, expected, tolerance=1e-5):
    for got, want in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        got, want = tf.convert_to_tensor(got), tf.convert_to_tensor(want)
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance * float(tf.reduce_max(tf.abs(want)))
        )


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("groups", ["two rows", "two heads"])
def test_every_encoding(name, groups, monkeypatch):
    monkeypatch.setattr(local_attention, "TILE", 4)
    layer = layer_of(**ENCODINGS[name])
    expected = run(layer, 1000, monkeypatch, MASKS["padding"], keys())
    found = run(layer, GROUPS[groups], monkeypatch, MASKS["padding"], keys())
    assert_same(found, expected)
    assert expected[2] == {1}
    by_content = name in ("plain", "no biases", "rotary", "window")
    assert max(found[2]) > 1 or (groups == "two heads" and not by_content)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("groups", GROUPS)
def test_every_mask(mask, groups, monkeypatch):
    layer, mask = layer_of(), MASKS[mask]
    if mask is not None and mask.shape[-2] == LENGTH:
        mask = np.logical_or(mask, np.eye(LENGTH, dtype=bool))
    expected = run(layer, 1000, monkeypatch, mask, keys())
    found = run(layer, GROUPS[groups], monkeypatch, mask, keys())
    assert found[2] == {ROWS * HEADS // GROUPS[groups]}
    assert_same(found, expected)


def test_cross_attention(monkeypatch):
    layer, source = layer_of(), hidden(LENGTH, seed=1)
    expected = run(layer, 1000, monkeypatch, MASKS["padding"], keys(), source)
    found = run(layer, 2, monkeypatch, MASKS["padding"], keys(), source)
    assert found[2] == {8}
    assert_same(found, expected)


def test_bfloat16(monkeypatch):
    layer = layer_of("mixed_bfloat16")
    expected = run(layer, 1000, monkeypatch, MASKS["padding"], keys())
    found = run(layer, 2, monkeypatch, MASKS["padding"], keys())
    assert_same(found, expected, 2e-2)
    np.testing.assert_array_equal(found[0], expected[0])


def test_groups_are_for_tpus(monkeypatch):
    monkeypatch.setattr(score_groups, "LARGEST", 1)
    for device, count in (("CPU", 1), ("GPU", 1), ("TPU", 24)):
        with traced_for(device):
            assert len(score_groups.score_groups(4, 6, 1, 1)) == count
    with traced_for("TPU"):
        assert len(score_groups.score_groups(None, 6, 1, 1)) == 1


@pytest.mark.parametrize(
    "rows, heads, length, expected",
    [
        (64, 12, 128, (64, 12)),  # BERT-base, 128 tokens
        (256, 12, 128, (256, 12)),  # too few keys
        (32, 12, 256, (16, 12)),
        (4, 16, 512, (4, 16)),  # BERT-large
        (8, 16, 512, (2, 16)),
        (8, 12, 512, (4, 12)),
        (6, 12, 512, (3, 12)),
        (7, 12, 512, (1, 12)),  # equal parts only
        (4, 12, 1024, (1, 12)),
        (2, 12, 2048, (1, 3)),
        (2, 16, 2048, (1, 2)),
        (2, 12, 8192, (2, 12)),  # one head has more scores than a group
    ],
)
def test_sizes(rows, heads, length, expected, monkeypatch):
    monkeypatch.undo()  # the limits as they are, not those of `few_keys`
    with traced_for("TPU"):
        groups = score_groups.score_groups(rows, heads, length, length).groups
    x = np.zeros((rows, heads, 1))
    assert {x[group.rows, group.heads].shape[:2] for group in groups} == {expected}
    covered = np.zeros((rows, heads))
    for group in groups:
        covered[group.rows, group.heads] += 1
    assert (covered == 1).all()
