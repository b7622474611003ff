"""Layers against their formulas in plain loops, and the distributions of initial values."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import fill, hidden, keys, small, tokens
from tpu_tlm.models.initializers import initial_value
from tpu_tlm.models.layers.blocks import make_attention
from tpu_tlm.models.layers.core import FFN
from tpu_tlm.models.layers.embeddings_stack import EmbeddingsStack
from tpu_tlm.models.layers.encoder import TransformerEncoderStack
from tpu_tlm.models.layers.pooling import Reduction
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.alibi import alibi_slopes
from tpu_tlm.models.positions.t5 import t5_bucket

ATTENTION = {
    "plain": {},
    "wide-heads": {"d_k": 12},
    "shaw": {"rpr_k": [2]},
    "shaw-keys-only": {"rpr_k": [3], "rpr_value_on": False},
    "windowed": {"rpr_k": [2], "windowed_ra": True},
    "local": {"local_window": 3, "global_every": 1000},
    "t5": {"position_encoding": ["t5"]},
    "alibi": {"position_encoding": ["alibi"], "num_heads": 4},
    "convert": {"position_encoding": ["convert"], "rpr_k": [3]},
    "rotary": {"position_encoding": ["rotary"]},
    "single-head": {"num_heads": 1, "single_head": True, "d_k": 4},
}


def values_of(layer):
    return {
        path: variable.numpy().astype(np.float64)
        for path, variable in named_variables(layer).items()
    }


def clip(offset, reach):
    return max(-reach, min(reach, offset)) + reach


def bucket(offset):
    """T5's 32 buckets of a bidirectional encoder (arXiv 1910.10683), for one offset."""
    away, later = abs(offset), 16 if offset > 0 else 0
    return later + (
        away if away < 8 else min(15, 8 + int(math.log(away / 8) / math.log(128 / 8) * 8))
    )


def rotated(x, position):
    half = len(x) // 2
    pairs = [
        complex(x[j], x[j + half]) * cmath.exp(1j * position * 10000.0 ** (-2 * j / len(x)))
        for j in range(half)
    ]
    return np.array([z.real for z in pairs] + [z.imag for z in pairs])


def by_loops(config, values, x, mask):
    """Attention of one text `[T, d]`, one query, head and key at a time, where `mask` is True."""
    heads, length = config.num_heads, len(x)
    if config.single_head:
        q, k, v = (
            (x @ values[f"qkv/{name}/kernel"] + values[f"qkv/{name}/bias"])[None] for name in "qkv"
        )
    else:
        q, k, v = (
            np.einsum("td,dphk->phtk", x, values["qkv/kernel"]) + values["qkv/bias"][:, :, None]
        )
    relative = config.position_encoding[0] if config.position_encoding else None
    reach, window, out = (
        config.rpr_k_of(1),
        config.window_of(1),
        np.zeros((heads, length, v.shape[-1])),
    )
    for h in range(heads):
        for i in np.flatnonzero(mask):
            scores = np.full(length, -np.inf)
            for j in range(length):
                if not mask[j] or (window is not None and abs(i - j) > window):
                    continue
                a, b = (
                    (rotated(q[h, i], i), rotated(k[h, j], j))
                    if relative == "rotary"
                    else (q[h, i], k[h, j])
                )
                if "rpr_key" in values:
                    b = b + values["rpr_key"][clip(j - i, reach)]
                scores[j] = a @ b / math.sqrt(q.shape[-1])
                if relative == "t5":
                    scores[j] += values["rel_embedding"][h, bucket(j - i)]
                if relative == "alibi":
                    scores[j] -= 2.0 ** (-2 * (h + 1)) * abs(i - j)  # four heads
                if relative == "convert":
                    scores[j] += values["rel_bias"][h, clip(j - i, reach)]
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            for j in range(length):
                out[h, i] += weights[j] * (
                    v[h, j]
                    + (values["rpr_value"][clip(j - i, reach)] if "rpr_value" in values else 0)
                )
    return (
        out[0]
        if config.single_head
        else np.einsum("htk,hkd->td", out, values["w_O/kernel"]) + values["w_O/bias"]
    )


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_its_formula(name):
    config = small(**ATTENTION[name], dropout=0.0)
    layer, x, lengths = fill(make_attention(config, 1)), hidden(), [8, 8, 8, 5]
    found = layer(x, attention_mask=tf.sequence_mask(lengths, 8)[:, None, None, :]).numpy()
    for row, length in enumerate(lengths):
        expected = by_loops(
            config, values_of(layer), x.numpy()[row].astype(np.float64), np.arange(8) < length
        )
        np.testing.assert_allclose(found[row, :length], expected[:length], atol=2e-5)


def test_t5_buckets_and_alibi_slopes():
    offsets = np.arange(-400, 401)
    assert t5_bucket(offsets, True).tolist() == [bucket(int(offset)) for offset in offsets]
    earlier = t5_bucket(offsets, False)
    assert (earlier[offsets >= 0] == 0).all() and len(set(earlier)) == 32
    assert earlier[400 - 15] == 15 and earlier[0] == 31
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu-exact": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.maximum(x, 0),
    "swiglu": lambda x: x * sigmoid(x),
}
FUNCTIONS["geglu"] = FUNCTIONS["gelu"]


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_feed_forward_is_its_formula(activation):
    layer, x = (
        fill(FFN(16, 32, activation=activation, pdrop=0.0)),
        hidden().numpy().astype(np.float64),
    )
    values = values_of(layer)
    inner = {
        name: x @ values[f"{name}/kernel"] + values[f"{name}/bias"]
        for name in ("expansion", "gate")
        if f"{name}/bias" in values
    }
    function = FUNCTIONS[activation]
    middle = (
        function(inner["gate"]) * inner["expansion"]
        if "gate" in inner
        else function(inner["expansion"])
    )
    np.testing.assert_allclose(
        layer(tf.constant(x, tf.float32)),
        middle @ values["squeeze/kernel"] + values["squeeze/bias"],
        atol=1e-5,
    )
    assert ("gate" in inner) == (activation in ("geglu", "swiglu"))


@pytest.mark.parametrize("name", ["learned", "learned-with-bias", "modular"])
def test_learned_positions_are_their_formula(name):
    layer = fill(EmbeddingsStack(small(position_encoding=[name]), 20, 64))
    x = tokens(64)
    values = {path.split("/")[-1]: value for path, value in values_of(layer).items()}
    for i in range(64):
        expected = values["table"][x.numpy()[:, i]]
        if name == "modular":
            expected = (
                expected + values["positions_long"][i % 47] + values["positions_short"][i % 11]
            )
        else:
            expected = expected + values["positions"][i] + values.get("bias", 0)
        np.testing.assert_allclose(layer({"x": x})[:, i], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["sha", "2ha", "2ha_mean", "2ha_max"])
def test_reductions_with_heads_are_their_formula(kind):
    layer = fill(Reduction(small(reduction_type=kind, reduction_d_k=4)))
    x, values, lengths = hidden().numpy().astype(np.float64), values_of(layer), [8, 7, 3, 1]
    found = layer(hidden(), token_mask=tf.sequence_mask(lengths, 8)).numpy()
    for row, length in enumerate(lengths):
        text, parts = x[row, :length], []
        for head in ("head1", "head2")[: 1 if kind == "sha" else 2]:
            q, k = (
                text @ values[f"{head}/{name}/kernel"] + values[f"{head}/{name}/bias"]
                for name in "qk"
            )
            weights = np.exp(q @ k.T / 2)
            parts.append(weights / weights.sum(-1, keepdims=True) @ text)
        joined = np.concatenate(parts, -1)
        how = {"mean": joined.mean(0), "max": joined.max(0)}.get(
            kind.partition("_")[2], joined.sum(0) / math.sqrt(length)
        )
        np.testing.assert_allclose(found[row], how, atol=1e-5)


def test_layer_drop_and_dropout_under_xla():
    config = small(layer_drop=0.5, rpr_k=[2])
    stack = fill(TransformerEncoderStack(config, 8))

    def run(x):
        return stack(x, key=keys())

    compiled = tf.function(run, jit_compile=True, autograph=False)(hidden())
    np.testing.assert_allclose(compiled, run(hidden()), atol=1e-4)
    assert np.abs(compiled - stack(hidden())).max() > 1e-2


def test_initial_values_follow_their_distributions():
    bert = initial_value("encoder/0/ffn/expansion/kernel", (400, 500), small(weight_std=0.02), 0)
    assert np.abs(bert).max() <= 0.04 and bert.std() == pytest.approx(
        0.02 * 0.8796, rel=0.01
    )  # of a normal cut off at two deviations
    mead = small(weight_init="mead")
    glorot = initial_value("encoder/0/ffn/expansion/kernel", (400, 500), mead, 0)
    limit = math.sqrt(6 / 900)
    assert np.abs(glorot).max() <= limit and glorot.std() == pytest.approx(
        limit / math.sqrt(3), rel=0.01
    )
    table = initial_value("embeddings/x/table", (1000, 100), mead, 0)
    assert np.abs(table).max() <= 0.1 and table.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.01)
