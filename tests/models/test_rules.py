"""Rules that docstrings of the models state and no other test of theirs covers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import fill, hidden, keys, small, tokens
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.initializers import initial_value, initial_values
from tpu_tlm.models.language_models import gather_positions
from tpu_tlm.models.layers.attention import MultiHeadedAttention
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.counter_rng import Key, dropout_mask
from tpu_tlm.models.layers.embeddings_stack import EmbeddingsStack, padded_vocab_size
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.gmlp import GatedMLPEncoder
from tpu_tlm.models.layers.heads import Head
from tpu_tlm.models.layers.masks import padding_mask, window_mask
from tpu_tlm.models.layers.pooling import pooled
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.shaw import MultiHeadedRelativeAttention
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec


def build(kind="mlm", seed=None, **options):
    return build_model(ModelSpec(small(**options), 20, 8, kind=kind), seed=seed)


def test_keys_depend_on_seed_position_and_site_alone():
    bits = keys(0, 4).bits(1000).numpy()
    np.testing.assert_array_equal(keys(2, 2).bits(1000), bits[2:])
    others = [Key.of(8, tf.range(1, dtype=tf.int64)), keys().fold("a"), keys().fold("b")]
    others.append(Key.of(7, tf.constant([1 << 32], tf.int64)))
    rows = [*bits, *(key.bits(1000).numpy()[0] for key in others)]
    assert all((a == b).mean() < 0.01 for i, a in enumerate(rows) for b in rows[:i])


def test_keys_made_from_a_seed_differ_by_seed_and_row():
    rows = [
        row
        for seed in ([1, 0], [1, 1], [2, 0])
        for row in Key.from_seed(tf.constant(seed), tf.constant(3)).bits(1000).numpy()
    ]
    assert all((a == b).mean() < 0.01 for i, a in enumerate(rows) for b in rows[:i])


def test_numbers_drawn_from_keys_have_their_distributions():
    key = Key.of(0, tf.range(4, dtype=tf.int64))
    uniform, gumbel, below = key.uniform(50_000), key.gumbel(50_000), key.below(7, 50_000)
    assert 0 <= uniform.numpy().min() and uniform.numpy().max() < 1
    assert np.mean(uniform) == pytest.approx(0.5, abs=0.01)
    assert np.isfinite(gumbel).all() and np.mean(gumbel) == pytest.approx(0.5772, abs=0.02)
    assert np.bincount(below.numpy().ravel()).tolist() == pytest.approx([200_000 / 7] * 7, rel=0.05)


def test_the_dropout_mask_keeps_its_rate():
    mask = dropout_mask(0.3, keys(), "site", (10_000,))
    assert mask.dtype == tf.bool and np.mean(mask) == pytest.approx(0.7, abs=0.01)
    assert dropout_mask(0.0, keys(), "site", (2,)) is dropout_mask(0.3, None, "site", (2,)) is None
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="dropout rate"):
            dropout_mask(rate, None, "site", (2,))


def test_masks_are_true_where_attention_goes():
    assert padding_mask(tf.constant([[5, 0]]), 0)[0, 0, 0].numpy().tolist() == [True, False]
    window = window_mask(3, 4, 1, 1).numpy().tolist()
    assert window == [[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]


def test_pooling_without_any_position():
    none = tf.zeros((4, 8), tf.bool)
    assert not pooled(hidden(), none, "mean").numpy().any()
    assert not pooled(hidden(), none, "sqrt_length").numpy().any()
    assert (pooled(hidden(), none, "max").numpy() == -1e9).all()


def test_positions_are_gathered_exactly():
    x, at = tf.cast(hidden(), tf.bfloat16), tf.constant([[0, 7], [3, 3], [1, 2], [6, 5]])
    np.testing.assert_array_equal(gather_positions(x, at), tf.gather(x, at, batch_dims=1))


@pytest.mark.parametrize("options", [{"output_bias": True}, {"tie_weights": False}])
def test_padding_ids_have_no_probability(options):
    head = fill(Head(small(**options), 20))
    logits = head(hidden(), tf.ones((padded_vocab_size(20), 16))).numpy()
    assert logits.shape[-1] == 128 and (logits[..., 20:] == -1e9).all()
    assert (np.abs(logits[..., :20]) < 1e3).all()


def test_a_feature_that_is_not_given_counts_as_zeros():
    layer = fill(EmbeddingsStack(small(type_vocab_size=2), 20, 8))
    x = tokens()
    np.testing.assert_array_equal(layer({"x": x}), layer({"x": x, "tt": tf.zeros_like(x)}))
    assert np.abs(layer({"x": x}) - layer({"x": x, "tt": tf.ones_like(x)})).max() > 1e-3


def test_cross_attention_has_no_window_and_only_shaws_positions():
    config = small(position_encoding=["shaw"], rpr_k=[2], windowed_ra=True)
    shaw = make_attention(config, 0, cross=True)
    assert isinstance(shaw, MultiHeadedRelativeAttention) and shaw.window is None
    for name in ("t5", "alibi", "rotary", "convert"):
        config = small(position_encoding=[name], rpr_k=[2])
        assert type(make_attention(config, 0, cross=True)) is MultiHeadedAttention


def test_buckets_of_t5_in_causal_layers():
    config = small(position_encoding=["t5"])
    assert not make_attention(config, 0, causal=True).bidirectional
    assert make_attention(config, 0).bidirectional
    mead = small(position_encoding=["t5"], compat="mead")
    assert make_attention(mead, 0, causal=True).bidirectional


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer_drop": 1.0}, "layer_drop 1.0"),
        ({"local_window": 2, "global_every": 0}, "global_every"),
        ({"mlp": True, "d_ff": 33}, "33 is odd"),
        ({"position_encoding": ["sinusoidal"], "d_model": 15, "num_heads": 3}, "even width"),
        ({"segment_mask": True}, "eol_token"),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises((UsageError, ValueError), match=words):
        build(**options)(tokens())


def test_gated_mlps_take_one_length_and_one_mask():
    layer = fill(GatedMLPEncoder(small(), 8))
    with pytest.raises(ValueError, match="8 tokens cannot take 7"):
        layer(hidden(7))
    with pytest.raises(ValueError, match="one mask for all positions"):
        layer(hidden(), attention_mask=tf.ones((4, 1, 8, 8), tf.bool))
    x, mask = hidden().numpy(), np.ones((4, 1, 1, 8), bool)
    mask[..., 5:] = False
    other = x.copy()
    other[:, 5:] += 1.0
    first, second = (layer(tf.constant(v), attention_mask=mask) for v in (x, other))
    np.testing.assert_allclose(first[:, :5], second[:, :5], atol=1e-6)


def test_a_last_norm_unless_norms_are_last_in_each_block():
    for order, last in (("pre-layer-norm", True), ("mead", True), ("post-layer-norm", False)):
        stack = TransformerEncoderStack(small(transformer_type=order), 8)
        assert (stack.ln is not None) == last


def test_a_discriminator_has_the_same_paths_in_electra():
    options = {"mlm_head": "bert", "type_vocab_size": 2, "embedding_size": 6}
    alone = set(named_variables(build("discriminator", **options)))
    spec = ModelSpec(small(**options), 20, 8, kind="electra", generator=small(d_model=8, d_ff=16))
    both = set(named_variables(build_model(spec)))
    assert alone < both and all(path.startswith("generator/") for path in both - alone)
    with pytest.raises(UsageError, match="generator"):
        build("electra")


def test_heads_of_a_dual_encoder():
    assert build("dual", reduction_type="mean", d_out=16).ff1 is None
    model = build("dual", seed=0, reduction_type="mean", d_out=8, init_temp=0.5)
    assert model.ff1 is not model.ff2 and float(model.temperature) == 0.5
    u, v = model({"x": tokens(), "y": tokens(6)})
    assert u.dtype == v.dtype == tf.float32 and u.shape == v.shape == (4, 8)


def test_initial_values_are_functions_of_seed_and_path():
    shapes = {"embeddings/x/table": (128, 16), "encoder/0/ffn/expansion/kernel": (16, 32)}
    values = dict(initial_values(shapes, small(), 20, 0, 3))
    assert not values["embeddings/x/table"][20:].any() and values["embeddings/x/table"][:20].all()
    one = {"encoder/0/ffn/expansion/kernel": (16, 32)}
    (alone,) = (value for _, value in initial_values(one, small(), 20, 0, 3))
    np.testing.assert_array_equal(alone, values["encoder/0/ffn/expansion/kernel"])
    (other,) = (value for _, value in initial_values(one, small(), 20, 0, 4))
    assert np.abs(other - alone).min() > 0 or (other != alone).mean() > 0.99
    mead = dict(initial_values(shapes, small(weight_init="mead"), 20, 5, 3))
    assert not mead["embeddings/x/table"][5].any() and mead["embeddings/x/table"][4].all()


def test_norms_gates_and_biases_start_where_they_should():
    for path in ("encoder/ln/gamma", "encoder/0/sgu/proj/bias"):
        assert (initial_value(path, (8,), small(), 0) == 1).all()
    for path in ("encoder/ln/beta", "encoder/0/attn/qkv/bias", "x/rel_bias"):
        assert not initial_value(path, (8,), small(), 0).any()


def test_without_a_seed_values_are_zero_and_the_host_has_them():
    model = build()
    for path, variable in named_variables(model).items():
        assert path.endswith("gamma") or not variable.numpy().any(), path
        assert "CPU:0" in variable.value.device


def test_a_damaged_spec_is_refused_by_name():
    text = ModelSpec(small(), 20, 8).to_json()
    newer = {**json.loads(text), "from_the_future": 1}
    for damaged in ("", "[1]", text[:-5], json.dumps(newer)):
        with pytest.raises(TlmError, match="my-file"):
            ModelSpec.from_json(damaged, "my-file")
