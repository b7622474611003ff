"""Every layer keeps the contract, and small layers compute their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import check, fill, hidden, keys, small, tokens
from tpu_tlm.models.layers import attention_group
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.core import FFN, RMSNorm
from tpu_tlm.models.layers.decoder import TransformerDecoder
from tpu_tlm.models.layers.embeddings_stack import EmbeddingsStack
from tpu_tlm.models.layers.encoder import TransformerEncoder
from tpu_tlm.models.layers.gmlp import GatedMLPEncoder
from tpu_tlm.models.layers.heads import BinaryHead, Head
from tpu_tlm.models.layers.masks import causal_mask, segment_ids, segment_mask
from tpu_tlm.models.layers.pooling import Reduction
from tpu_tlm.models.positions.sinusoidal import sines

ATTENTION = {
    "plain": {},
    "shaw": {"rpr_k": [2]},
    "shaw-beyond-the-text": {"rpr_k": [20]},
    "shaw-keys-only": {"rpr_k": [3], "rpr_value_on": False},
    "windowed": {"rpr_k": [2], "windowed_ra": True},
    "windowed-mead": {"rpr_k": [2], "windowed_ra": True, "compat": "mead", "mask_pad": False},
    "t5": {"position_encoding": ["t5"]},
    "alibi": {"position_encoding": ["alibi"]},
    "convert": {"position_encoding": ["convert"], "rpr_k": [3]},
    "rotary": {"position_encoding": ["rotary"]},
    "single-head": {"num_heads": 1, "single_head": True, "d_k": 4},
    "single-head-shaw": {"num_heads": 1, "single_head": True, "d_k": 4, "rpr_k": [2]},
    "wide-heads": {"d_k": 12},
    "local": {"local_window": 2, "global_every": 1000},
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name):
    config = small(**ATTENTION[name])
    check(lambda policy: make_attention(config, 1, dtype=policy), (hidden(),))


def test_attention_over_many_keys_is_the_same(monkeypatch):
    """From `LONG` keys on bfloat16 shares the largest score another way."""

    def run():
        layer = fill(make_attention(small(), 0, dtype="mixed_bfloat16"))
        x = tf.cast(hidden(), tf.bfloat16)
        mask = tf.sequence_mask([8, 8, 5, 3], 8)[:, None, None]
        with tf.GradientTape() as tape:
            tape.watch(x)
            out = tf.cast(layer(x, attention_mask=mask, key=keys()), tf.float32)
            loss = tf.reduce_sum(tf.square(out))
        found = [out, *tape.gradient(loss, [x, *layer.trainable_variables])]
        return [tf.cast(t, tf.float32).numpy() for t in found]

    expected = run()
    monkeypatch.setattr(attention_group, "LONG", 8)
    for got, want in zip(run(), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())


@pytest.mark.parametrize("options", [{}, {"rpr_k": [2]}], ids=["plain", "shaw"])
def test_cross_attention_with_another_length(options):
    config = small(**options)
    check(
        lambda policy: make_attention(config, 0, cross=True, dtype=policy),
        (hidden(),),
        encoder_output=hidden(5, seed=1),
    )


@pytest.mark.parametrize("order", ["pre-layer-norm", "post-layer-norm", "mead"])
@pytest.mark.parametrize("kind", [TransformerEncoder, TransformerDecoder])
def test_blocks(order, kind):
    config = small(transformer_type=order)
    inputs = (hidden(),) if kind is TransformerEncoder else (hidden(), hidden(5, seed=1))
    check(lambda policy: kind(config, 0, dtype=policy), inputs)


@pytest.mark.parametrize("activation", ["gelu", "gelu-exact", "relu", "geglu", "swiglu"])
def test_feed_forward(activation):
    check(lambda policy: FFN(16, 32, activation=activation, pdrop=0.1, dtype=policy), (hidden(),))


def test_rms_norm():
    x = hidden()
    (y,) = check(lambda policy: RMSNorm(16, epsilon=1e-6, dtype=policy), (x,), with_key=False)
    layer = fill(RMSNorm(16, epsilon=1e-6))
    np.testing.assert_allclose(
        y, x / np.sqrt(np.mean(np.square(x), -1, keepdims=True)) * layer.gamma, atol=1e-5
    )


def test_gated_mlp():
    check(lambda policy: GatedMLPEncoder(small(), 8, dtype=policy), (hidden(),))


EMBEDDINGS = {
    "lookup": {},
    "learned": {"position_encoding": ["learned"]},
    "learned-bias": {"position_encoding": ["learned-with-bias"]},
    "sines": {"position_encoding": ["sinusoidal"]},
    "sines-t2t": {"position_encoding": ["sinusoidal-t2t"]},
    "modular": {"position_encoding": ["modular"]},
    "types": {"type_vocab_size": 2},
    "types-concat": {"type_vocab_size": 2, "embeddings_reduction": "concat"},
    "factorised": {
        "embedding_size": 6,
        "embeddings_reduction": "sum-layer-norm",
        "type_vocab_size": 2,
    },
    "rms": {"embeddings_reduction": "sum-layer-norm", "norm_type": "rms-norm"},
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(name):
    config = small(embeddings_dropout=0.1, **EMBEDDINGS[name])

    def call(layer, x, tt, **others):
        assert ("tt" in layer.features) == bool(config.type_vocab_size)
        return layer({"x": x, "tt": tt} if config.type_vocab_size else {"x": x}, **others)

    x = tokens()
    (y,) = check(lambda policy: EmbeddingsStack(config, 20, 8, dtype=policy), (x, x % 2), call=call)
    assert y.shape == (4, 8, 16)


@pytest.mark.parametrize("compat", ["none", "mead"])
@pytest.mark.parametrize("kind", ["2ha", "2ha_mean", "2ha_max", "sha"])
def test_reductions_with_heads(kind, compat):
    config = small(reduction_type=kind, reduction_d_k=4, compat=compat)
    token_mask = tf.not_equal(tokens(), 0)
    (y,) = check(
        lambda policy: Reduction(config, dtype=policy),
        (hidden(),),
        with_key=False,
        token_mask=token_mask,
    )
    assert y.shape == (4, 16 if kind == "sha" else 32)


@pytest.mark.parametrize("kind", ["mean", "max", "sqrt_length", "cls", "2ha", "2ha_max"])
def test_reductions_do_not_count_padding(kind):
    layer = fill(Reduction(small(reduction_type=kind, reduction_d_k=4)))
    x, token_mask = hidden(), tf.sequence_mask([3, 3, 3, 3], 8)
    noise = tf.where(token_mask[:, :, None], x, 100.0)
    np.testing.assert_allclose(
        layer(x, token_mask=token_mask), layer(noise, token_mask=token_mask), atol=1e-5
    )
    short = layer(x[:, :3], token_mask=token_mask[:, :3])
    np.testing.assert_allclose(layer(x, token_mask=token_mask), short, atol=1e-5)


def test_plain_reductions_are_their_formulas():
    x, token_mask = hidden().numpy(), tf.sequence_mask([8, 8, 8, 2], 8)
    of = {
        kind: Reduction(small(reduction_type=kind))(x, token_mask=token_mask).numpy()
        for kind in ("mean", "max", "sqrt_length", "cls")
    }
    np.testing.assert_allclose(of["mean"][3], x[3, :2].mean(0), atol=1e-6)
    np.testing.assert_allclose(of["max"][3], x[3, :2].max(0), atol=1e-6)
    np.testing.assert_allclose(of["sqrt_length"][3], x[3, :2].sum(0) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(of["cls"], x[:, 0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mlm_head": "bert", "output_bias": True},
        {"embedding_size": 6},
        {"embedding_size": 6, "mlm_head": "bert"},
    ],
)
def test_tied_heads(options):
    config = small(**options)
    table = tf.constant(
        np.random.default_rng(3).standard_normal((128, config.embedding_size or 16)), tf.float32
    )
    if not options:  # no variables: the table is the whole head
        logits = Head(config, 20)(hidden(), table)
        np.testing.assert_allclose(
            logits[..., :20], hidden().numpy() @ table.numpy()[:20].T, atol=1e-4
        )
        assert logits.shape == (4, 8, 128) and (logits.numpy()[..., 20:] < -1e8).all()
        return

    check(
        lambda policy: Head(config, 20, dtype=policy),
        (hidden(),),
        call=lambda head, x: head(x, table)[..., :20],
        with_key=False,
    )


@pytest.mark.parametrize("head", ["none", "bert"])
def test_binary_head(head):
    (y,) = check(
        lambda policy: BinaryHead(small(mlm_head=head), dtype=policy), (hidden(),), with_key=False
    )
    assert y.shape == (4, 8)


def test_sine_tables_by_hand():
    interleaved = sines(tf.range(5), 6, halves=False).numpy()
    halves = sines(tf.range(5), 6, halves=True).numpy()
    for position in range(5):
        for j in range(3):
            angle = position * 10000.0 ** (-2 * j / 6)
            np.testing.assert_allclose(
                interleaved[position, 2 * j : 2 * j + 2], [np.sin(angle), np.cos(angle)], atol=1e-5
            )
            angle = position * 10000.0 ** (-j / 2)
            np.testing.assert_allclose(
                halves[position, [j, j + 3]], [np.sin(angle), np.cos(angle)], atol=1e-5
            )


def test_segments_end_with_their_token():
    segments = segment_ids(tf.constant([[5, 2, 6, 7, 2, 2, 8]]), 2)
    np.testing.assert_array_equal(segments, [[0, 0, 1, 1, 1, 2, 3]])
    mask = segment_mask(segments, segments)[0, 0].numpy()
    assert mask[1, 0] and not mask[2, 1] and mask[2, 4]
    assert (
        not causal_mask(3, 3)[0, 0, 0, 1]
        and causal_mask(1, 3, 1)[0, 0, 0, 1]
        and not causal_mask(1, 3, 1)[0, 0, 0, 2]
    )
