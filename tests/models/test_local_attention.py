"""Attention with a window, computed in blocks: the same as with every score computed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import ROWS, check, fill, hidden, keys, small
from tpu_tlm.models.layers import attention, local_attention
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.masks import causal_mask, combine_masks, segment_mask

LENGTH = 23  # neither a multiple of the blocks nor of the window
OPTIONS = {
    "plain": {},
    "rotary": {"position_encoding": ["rotary"]},
    "single-head": {"num_heads": 1, "single_head": True, "d_k": 4},
    "wide-heads": {"d_k": 12},
}
PADDED = np.arange(LENGTH)[None, None, None] < np.array([LENGTH, 20, 9, 5])[:, None, None, None]
SEGMENTS = np.sort(np.random.default_rng(2).integers(0, 4, (ROWS, LENGTH)), axis=1)
MASKS = {
    "none": None,
    "padding": PADDED,
    "causal": causal_mask(LENGTH, LENGTH),
    "two axes": causal_mask(LENGTH, LENGTH)[0, 0],
    "rows alike": np.ones((LENGTH, 1), bool),
    "segments": combine_masks(PADDED, segment_mask(SEGMENTS, SEGMENTS)),
    "by head": np.random.default_rng(3).random((ROWS, 1, LENGTH, LENGTH)) < 0.7,
}


@pytest.fixture(autouse=True)
def tile(monkeypatch):
    monkeypatch.setattr(local_attention, "TILE", 4)


def layer_of(reach=2, policy="float32", **options):
    config = small(local_window=reach, global_every=1000, **options)
    return fill(make_attention(config, 1, dtype=policy))


def run(layer, mask, key):
    """Output and gradients of one call, for real tokens."""
    x = hidden(LENGTH)
    mask = None if mask is None else tf.constant(mask)
    with tf.GradientTape() as tape:
        tape.watch(x)
        out = tf.cast(layer(x, attention_mask=mask, key=key), tf.float32)
        loss = tf.reduce_sum(tf.square(out) * tf.cast(PADDED[:, 0, 0, :, None], tf.float32))
    variables = layer.trainable_variables
    return out * PADDED[:, 0, 0, :, None], tape.gradient(loss, [x, *variables])


def with_every_score(monkeypatch):
    monkeypatch.setattr(attention, "blocks_of", lambda length, reach: None)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", OPTIONS)
def test_output_gradients_and_dropout_are_those_of_all_scores(name, mask, monkeypatch):
    layer, mask = layer_of(**OPTIONS[name]), MASKS[mask]
    if mask is not None and mask.shape[0] == ROWS and mask.shape[2] == LENGTH:
        # A query without any key has no defined output: let each have itself.
        mask = np.logical_or(mask, np.eye(LENGTH, dtype=bool))
    for key in (None, keys()):
        with monkeypatch.context() as patch:
            with_every_score(patch)
            expected = run(layer, mask, key)
        out, gradients = run(layer, mask, key)
        np.testing.assert_allclose(out, expected[0], atol=1e-5)
        for got, want in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 5])
def test_every_reach(reach, monkeypatch):
    layer = layer_of(reach)
    blocks = local_attention.blocks_of(LENGTH, reach)
    assert blocks is not None and blocks.size % 4 == 0 and blocks.size >= 2 * reach
    out, _ = run(layer, PADDED, keys())
    with_every_score(monkeypatch)
    np.testing.assert_allclose(out, run(layer, PADDED, keys())[0], atol=1e-5)


def test_bfloat16_is_close(monkeypatch):
    layer = layer_of(policy="mixed_bfloat16")
    out, gradients = run(layer, PADDED, keys())
    with_every_score(monkeypatch)
    expected, dense = run(layer, PADDED, keys())
    np.testing.assert_allclose(out, expected, atol=0.05)
    for got, want in zip(gradients, dense, strict=True):
        scale = float(tf.reduce_max(tf.abs(want)))
        np.testing.assert_allclose(got, want, atol=0.05 * scale + 1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_contract(name):
    config = small(local_window=2, global_every=1000, **OPTIONS[name])
    check(lambda policy: make_attention(config, 1, dtype=policy), (hidden(LENGTH),))


def test_a_batch_of_unknown_size():
    layer = layer_of()

    @tf.function(input_signature=[tf.TensorSpec((None, LENGTH, 16), tf.float32)])
    def call(x):
        mask = tf.ones((tf.shape(x)[0], 1, 1, LENGTH), tf.bool)
        return layer(x, attention_mask=mask)

    for rows in (1, 3):
        x = hidden(LENGTH)[:rows]
        np.testing.assert_allclose(call(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("shape", [None, (None, None, None, LENGTH)], ids=["rank", "axes"])
def test_a_mask_of_unknown_shape(shape):
    layer, mask = layer_of(), tf.constant(PADDED)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.bool)])
    def call(mask):
        return layer(hidden(LENGTH), attention_mask=mask)

    expected = layer(hidden(LENGTH), attention_mask=mask) * PADDED[:, 0, 0, :, None]
    np.testing.assert_allclose(call(mask) * PADDED[:, 0, 0, :, None], expected, atol=1e-5)


def test_scores_outside_the_blocks_are_not_computed():
    layer = layer_of()

    @tf.function(jit_compile=True)
    def call(x):
        return layer(x)

    text = call.experimental_get_compiler_ir(tf.zeros((1, 64, 16)))(stage="optimized_hlo")
    assert "[1,2,64,64]" not in text and "[2,64,64]" not in text


@pytest.mark.parametrize(
    "options",
    [
        {"rpr_k": [2]},
        {"position_encoding": ["t5"]},
        {"position_encoding": ["alibi"]},
        {"position_encoding": ["convert"], "rpr_k": [3]},
    ],
    ids=["shaw", "t5", "alibi", "convert"],
)
def test_positions_that_act_on_scores_see_all_of_them(options, monkeypatch):
    layer = layer_of(**options)
    out, _ = run(layer, PADDED, keys())
    with_every_score(monkeypatch)
    np.testing.assert_array_equal(out, run(layer, PADDED, keys())[0])


def test_short_texts_have_no_blocks(monkeypatch):
    monkeypatch.undo()
    assert local_attention.blocks_of(256, 64) is None
    assert local_attention.blocks_of(257, 64) == local_attention.Blocks(257, 64, 128)
    assert local_attention.blocks_of(10_000, None) is None
