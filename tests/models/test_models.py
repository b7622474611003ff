"""Whole models: masks, generation from caches, recomputation, LayerDrop, initial values, NPZ."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import elmo, fill, inputs_of, keys, small, tokens
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.mead.arrays import from_mead, read_npz, spec_of
from tpu_tlm.formats.mead.npz import npz_bytes
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.initializers import initial_value
from tpu_tlm.models.layers.variables import named_variables, substituted, unallocated
from tpu_tlm.models.registry import KINDS, build_model
from tpu_tlm.models.spec import ModelSpec

VOCAB, LENGTH = 20, 8

POSITIONS = {
    "learned": {"position_encoding": ["learned"]},
    "learned-bias": {
        "position_encoding": ["learned-with-bias"],
        "transformer_type": "post-layer-norm",
    },
    "sines": {"position_encoding": ["sinusoidal"]},
    "sines-t2t": {"position_encoding": ["sinusoidal-t2t"]},
    "modular-convert": {"position_encoding": ["modular", "convert"], "rpr_k": [3, 5]},
    "shaw": {"rpr_k": [2, 20], "transformer_type": "mead"},
    "shaw-keys-only": {"rpr_k": [3], "rpr_value_on": False},
    "windowed": {"rpr_k": [2], "windowed_ra": True},
    "t5": {"position_encoding": ["t5"]},
    "alibi": {"position_encoding": ["alibi"]},
    "rotary-local": {
        "position_encoding": ["rotary"],
        "local_window": 2,
        "global_every": 2,
        "activation": "swiglu",
        "norm_type": "rms-norm",
    },
    "single-head": {"num_heads": 1, "single_head": True, "d_k": 4, "rpr_k": [2]},
    "segments": {"position_encoding": ["alibi"], "segment_mask": True},
    "factorised": {
        "embedding_size": 6,
        "position_encoding": ["learned"],
        "embeddings_reduction": "sum-layer-norm",
    },
}


def make(kind, seed=0, precision="float32", **options):
    generator = small(**options) if kind == "electra" else None
    spec = ModelSpec(small(**options), VOCAB, LENGTH, kind=kind, eol_id=2, generator=generator)
    return fill(build_model(spec, precision=precision), seed), spec


@pytest.mark.parametrize("name", POSITIONS)
def test_cached_steps_are_the_full_pass(name):
    model, _ = make("clm", **POSITIONS[name])
    x = tf.constant(np.random.default_rng(1).integers(1, VOCAB, (3, LENGTH)), tf.int32)
    full = model(x)
    caches = model.caches(3, LENGTH, tf.constant(0))
    for i in range(LENGTH):
        for cache in caches:
            cache.position = tf.constant(i)
        np.testing.assert_allclose(model.step(x, tf.constant(i), caches), full[:, i], atol=2e-4)


@pytest.mark.parametrize("name", POSITIONS)
def test_a_causal_model_does_not_attend_to_later_tokens(name):
    model, _ = make("clm", **POSITIONS[name])
    x = np.random.default_rng(1).integers(3, VOCAB, (3, LENGTH)).astype(np.int32)
    other = x.copy()
    other[:, 5:] = 3 + (x[:, 5:] - 3 + 1) % (VOCAB - 3)
    a, b = model(tf.constant(x)).numpy(), model(tf.constant(other)).numpy()
    np.testing.assert_allclose(a[:, :5], b[:, :5], atol=1e-4)
    assert np.abs(a[:, 5:] - b[:, 5:]).max() > 1e-2


def test_decoder_steps_are_the_full_pass():
    model, _ = make("seq2seq", rpr_k=[2], num_decoder_layers=1, num_layers=1)
    x, y = tokens(), tf.constant(np.random.default_rng(1).integers(1, VOCAB, (4, 5)), tf.int32)
    full = model({"x": x, "y": y})
    caches = model.caches(x, 5, tf.constant(0))
    for i in range(5):
        for cache in caches:
            cache.position = tf.constant(i)
        np.testing.assert_allclose(model.step(x, y, tf.constant(i), caches), full[:, i], atol=1e-4)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_segments_do_not_attend_to_each_other(kind):
    model, _ = make(kind, segment_mask=True, rpr_k=[3])
    x = tf.constant([[5, 6, 7, 2, 8, 9, 10, 2]])
    alone = model(tf.constant([[5, 6, 7, 2, 0, 0, 0, 0]]))[:, :4]
    np.testing.assert_allclose(model(x)[:, :4], alone, atol=1e-4)
    changed = model(tf.constant([[15, 16, 17, 2, 8, 9, 10, 2]]))
    np.testing.assert_allclose(model(x)[:, 4:], changed[:, 4:], atol=1e-4)
    free, _ = make(kind, rpr_k=[3])
    assert (
        np.abs(free(x)[:, 4:] - free(tf.constant([[15, 16, 17, 2, 8, 9, 10, 2]]))[:, 4:]).max()
        > 1e-2
    )


@pytest.mark.parametrize(
    "options",
    [{"rpr_k": [2], "windowed_ra": True}, {"local_window": 2, "global_every": 9}],
    ids=["windowed", "local"],
)
def test_windows(options):
    model, _ = make("mlm", num_layers=2, **options)
    if "local_window" in options:  # layer 0 is global: leave it out
        model.encoder.blocks = model.encoder.blocks[1:]
    reach = 2 * len(model.encoder.blocks)
    x = np.full((1, LENGTH), 5, np.int32)
    other = x.copy()
    other[0, 0] = 9
    changed = np.abs(model(tf.constant(x)) - model(tf.constant(other))).max(-1)[0]
    assert (changed[reach + 1 :] < 1e-5).all() and (changed[: reach + 1] > 1e-5).all()


def gradients_of(kind, inputs, **options):
    """A traced function of the values -> loss and gradients, and the values."""
    model, _ = make(kind, **options)
    variables = named_variables(model)

    def run(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope(state_mapping=[(v, values[p]) for p, v in variables.items()]):
                loss = tf.reduce_sum(tf.square(model(inputs, key=keys())[..., :VOCAB]))
        return loss, tape.gradient(loss, values)

    return run, {path: tf.convert_to_tensor(v) for path, v in variables.items()}


@pytest.mark.parametrize("kind, order", [("mlm", "pre-layer-norm"), ("seq2seq", "post-layer-norm")])
def test_recomputation_gives_the_same_gradients(kind, order):
    x = tokens()
    inputs = {"x": x, "y": x} if kind == "seq2seq" else x
    options = {
        "rpr_k": [2],
        "ffn_pdrop": 0.1,
        "layer_drop": 0.2,
        "num_layers": 1,
        "transformer_type": order,
    }
    run, values = gradients_of(kind, inputs, **options)
    loss, expected = tf.function(run, autograph=False)(values)
    run, _ = gradients_of(kind, inputs, recompute=True, **options)
    again, gradients = tf.function(run, autograph=False)(values)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for path, gradient in expected.items():
        a, b = tf.convert_to_tensor(gradient), tf.convert_to_tensor(gradients[path])
        np.testing.assert_allclose(b, a, atol=1e-5 * float(tf.reduce_max(tf.abs(a))), err_msg=path)
        # A change of all scores of a query by one amount has no effect.
        assert path.endswith("qkv/bias") or np.abs(b).max() > 0, path


def test_xla_does_compute_again():
    def products(recompute):
        run, values = gradients_of("mlm", tokens(), num_layers=1, dropout=0.0, recompute=recompute)
        hlo = tf.function(run, autograph=False, jit_compile=True).experimental_get_compiler_ir(
            values
        )(stage="optimized_hlo")
        return hlo.count(" dot(") + hlo.count("custom-call(")

    stored, again = products(False), products(True)
    # One block's forward pass: queries-keys-values, scores, values, output, expansion. The result
    # of the last product is not needed again.
    assert again >= stored + 5, (stored, again)


def test_layer_drop_skips_blocks_per_example():
    model, _ = make("mlm", num_layers=1, dropout=0.0, layer_drop=0.5)
    x = tf.tile(tokens()[:1], (32, 1))
    drawn = model.encode(x, key=keys(0, 32)).numpy()
    whole = model.encode(x).numpy()[0]
    embedded = model.encoder.ln(model.embeddings({"x": x})).numpy()[0]
    dropped = [np.allclose(row, embedded, atol=1e-5) for row in drawn]
    whole_rows = [np.allclose(row, whole, atol=1e-5) for row in drawn]
    assert all(a != b for a, b in zip(dropped, whole_rows, strict=True))
    assert 6 <= sum(dropped) <= 26
    np.testing.assert_allclose(model.encode(x[5:6], key=keys(5, 1))[0], drawn[5], atol=1e-5)


def test_residual_scaling_divides_the_ends_of_branches():
    plain, scaled = small(num_layers=8), small(num_layers=8, residual_scaling=True)
    for path, factor in (
        ("encoder/3/attn/w_O/kernel", 0.25),
        ("encoder/0/ffn/squeeze/kernel", 0.25),
        ("encoder/0/ffn/expansion/kernel", 1.0),
    ):
        a, b = (
            initial_value(path, (4, 8, 32)[-2 if "ffn" in path else 0 :], c, 0)
            for c in (plain, scaled)
        )
        np.testing.assert_allclose(b, a * factor, rtol=1e-6)


MODELS = [
    ("mlm", {"mlp": True}),
    (
        "mlm",
        {
            "norm_type": "rms-norm",
            "activation": "geglu",
            "mlm_head": "bert",
            "output_bias": True,
            "embedding_size": 6,
            "type_vocab_size": 2,
        },
    ),
    (
        "mlm",
        {
            "position_encoding": ["modular", "convert"],
            "rpr_k": [3, 5],
            "single_head": True,
            "num_heads": 1,
            "d_k": 4,
        },
    ),
    ("mlm", {"position_encoding": ["learned-with-bias"], "embedding_size": 6}),
    (
        "clm",
        {
            "position_encoding": ["learned-with-bias"],
            "type_vocab_size": 2,
            "tie_weights": False,
            "embeddings_reduction": "concat",
        },
    ),
    ("seq2seq", {"position_encoding": ["t5"], "num_decoder_layers": 1}),
    ("dual", {"stacking_layers": [32, 32], "d_out": 8, "reduction_d_k": 4}),
    ("dual", {"reduction_type": "mean", "d_out": 16}),
    ("discriminator", {"mlm_head": "bert", "embedding_size": 6}),
    ("embed", {"position_encoding": ["rotary"]}),
]


@pytest.mark.parametrize(
    "kind, options", MODELS, ids=[f"{k}-{i}" for i, (k, _) in enumerate(MODELS)]
)
def test_every_kind_goes_through_an_npz_and_back(kind, options):
    model, spec = make(kind, **options)
    written = read_npz(
        npz_bytes(
            PretrainedModel({p: v.numpy() for p, v in named_variables(model).items()}, spec, "test")
        ),
        "test",
    )
    assert spec_of(written, "test") == spec
    values = from_mead(written, spec, "test")
    again = build_model(spec)
    assert set(values) == set(named_variables(again))
    for path, variable in named_variables(again).items():
        variable.assign(values[path])
    x = tokens()
    given = {"x": x, "y": x} if kind in ("dual", "seq2seq") else x
    for a, b in zip(tf.nest.flatten(model(given)), tf.nest.flatten(again(given)), strict=True):
        # Padding rows and columns of the vocabulary are not stored.
        a, b = (t[..., :VOCAB] if kind in ("mlm", "clm", "seq2seq") else t for t in (a, b))
        np.testing.assert_array_equal(a, b)


def test_the_bias_of_learned_positions_is_read_in_either_form():
    model, spec = make("mlm", position_encoding=["learned-with-bias"])
    arrays = read_npz(
        npz_bytes(
            PretrainedModel({p: v.numpy() for p, v in named_variables(model).items()}, spec, "test")
        ),
        "test",
    )
    bias = arrays["TLM/Embeddings/x/bias"]
    rest = {key: array for key, array in arrays.items() if "/bias" not in key or "/x/" not in key}
    for form in (
        {"TLM/Embeddings/x/bias": bias},
        {"TLM/Embeddings/tt/weights": np.stack([bias, 0 * bias])},
    ):
        other = from_mead({**rest, **form}, spec, "test")
        np.testing.assert_array_equal(other["embeddings/x/bias"], bias)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_in_bfloat16_with_a_key(kind):
    if kind == "elmo":
        model = fill(build_model(elmo(), precision="bfloat16"))
    else:
        model, _ = make(kind, precision="bfloat16", rpr_k=[2])
    outputs = tf.nest.flatten(model(inputs_of(kind), key=keys()))
    assert all(np.isfinite(tf.cast(t, tf.float32)).all() for t in outputs)
    assert all(v.dtype == "float32" for v in named_variables(model).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_memory_computes_with_values_that_are_given(kind):
    if kind == "elmo":
        model = fill(build_model(elmo()))
        spec = elmo()
    else:
        model, spec = make(kind, rpr_k=[2])
    with unallocated():
        bare = build_model(spec)
    values = {path: tf.convert_to_tensor(v) for path, v in named_variables(model).items()}
    for _ in range(2):
        with substituted(bare, values):
            found = tf.nest.flatten(bare(inputs_of(kind)))
        for one, other in zip(found, tf.nest.flatten(model(inputs_of(kind))), strict=True):
            np.testing.assert_array_equal(one, other)
        assert all(variable._value is None for variable in named_variables(bare).values())
    missing = dict(list(values.items())[1:])
    with pytest.raises(KeyError):
        substituted(bare, missing)


@pytest.mark.parametrize(
    "kind, options, message",
    [
        ("mlm", {"num_heads": 3}, "divided among 3 heads"),
        ("clm", {"mlp": True}, "cannot be causal"),
        ("mlm", {"single_head": True}, "--num_heads 2"),
        ("mlm", {"windowed_ra": True}, "--rpr_k"),
        ("mlm", {"windowed_ra": True, "rpr_k": [2], "local_window": 2}, "give one"),
        ("mlm", {"rpr_k": [1, 2, 3]}, "3 numbers for 2 layers"),
        ("mlm", {"position_encoding": ["convert"]}, "rpr_k must be 1"),
        ("mlm", {"position_encoding": ["rotary"], "d_k": 3}, "even head width"),
        ("tagger", {}, "not one of"),
        ("mlm", {"d_model": 0}, "d_model 0: must be at least 1"),
        ("discriminator", {"d_ff": 0}, "d_ff 0: must be at least 1"),
        ("mlm", {"num_heads": 0}, "num_heads 0: must be at least 1"),
        ("clm", {"num_layers": -1}, "num_layers -1: must be at least 1"),
        ("dual", {"d_out": 0}, "d_out 0: must be at least 1"),
        ("dual", {"reduction_d_k": 0}, "reduction_d_k 0: must be at least 1"),
        ("dual", {"stacking_layers": [16, 0]}, "stacking_layers 0: must be at least 1"),
        ("seq2seq", {"num_decoder_layers": -1}, "num_decoder_layers -1: must be at least 1"),
    ],
)
def test_sizes_that_do_not_go_together(kind, options, message):
    with pytest.raises(UsageError, match=message):
        make(kind, **options)
