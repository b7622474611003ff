"""Files that MEAD wrote: read with MEAD's numbers, written back array for array.

The numbers are outputs, losses and gradients. GOLDEN_MEAD names another directory of such files.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.load import load as load_model
from tpu_tlm.formats.mead.arrays import CONFIG_KEY, from_mead, read_npz, spec_of, to_mead
from tpu_tlm.formats.mead.config import spec_from_mead
from tpu_tlm.formats.mead.npz import described_by_json, npz_bytes
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model

GOLDEN = Path(os.environ.get("GOLDEN_MEAD", DATA_FILES / "golden_mead"))
VARIANTS = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
# What MEAD does not store of a model with its own head, and where the golden file has it.
EXTRA_HEAD = {
    "head/kernel": "extra/output/kernel",
    "head/bias": "extra/output/bias",
    "head/unit/kernel": "extra/proj_to_output/kernel",
    "head/unit/bias": "extra/proj_to_output/bias",
}
TOLERANCE = 1e-4


def load(name):
    variant = VARIANTS[name]
    arrays = read_npz((GOLDEN / variant["checkpoint"]).read_bytes(), name)
    io = read_npz((GOLDEN / variant["io"]).read_bytes(), name)
    config = variant["config"]
    if "source" in config:  # the configuration of the model that it was made of
        config = VARIANTS[config["source"].removesuffix(".npz")]["config"] | {
            "layer_norm_eps": config["layer_norm_eps"]
        }
    tables = [v.shape[0] for k, v in arrays.items() if k.endswith("pos_weights")]
    types = [v.shape[0] for k, v in arrays.items() if k.endswith("Embeddings/tt/weights")]
    spec = spec_from_mead(
        config,
        kind=variant["kind"],
        max_positions=(tables or [io["x"].shape[1]])[0],
        token_types=(types or [2])[0],
    )
    return spec, arrays, io


def model_of(spec, arrays, io):
    values = from_mead(arrays, spec, "golden", without=("head/",))
    model = build_model(spec)
    for path, variable in named_variables(model).items():
        if path in values:
            variable.assign(values[path])
        else:
            extra = io[EXTRA_HEAD[path]]
            padding = [(0, 0)] * (extra.ndim - 1) + [(0, variable.shape[-1] - extra.shape[-1])]
            variable.assign(np.pad(extra, padding))
    return model


def cross_entropy(labels, logits):
    weights = tf.cast(labels != 0, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    return tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)


def language_model(model, io, spec):
    features = {k: tf.constant(io[k]) for k in ("x", "tt") if k in io}
    logits = model(features)[..., : spec.vocab_size]
    loss = cross_entropy(tf.constant(io["y"]), logits)
    return {
        "embedded": model.embeddings(features),
        "hidden": model.encode(features),
        "logits": logits,
        "loss": loss,
    }


def embed(model, io, spec):
    x = tf.constant(io["x"])
    return {
        "words": model(x),
        **{f"pooled_{kind}": model.pooled(x, kind) for kind in ("cls", "mean", "max")},
    }


def dual(model, io, spec):
    u, v = model({k: tf.constant(io[k]) for k in "xy"})
    cosine = (
        tf.matmul(tf.math.l2_normalize(u, -1), tf.math.l2_normalize(v, -1), transpose_b=True) * np.e
    )
    rows, columns = (
        -tf.reduce_mean(tf.linalg.diag_part(tf.nn.log_softmax(cosine, axis))) for axis in (1, 0)
    )
    losses = {"loss_contrastive": rows, "loss_symmetric": (rows + columns) / 2}
    return {"encoded_x": u, "encoded_y": v, "base_x": model.reduce(tf.constant(io["x"])), **losses}


def discriminator(model, io, spec):
    logits = model(tf.constant(io["x"]))
    losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(io["labels"], tf.float32), logits)
    return {"logits": logits, "loss": tf.reduce_mean(losses)}


def seq2seq(model, io, spec):
    logits = model({k: tf.constant(io[k]) for k in "xy"})[..., : spec.vocab_size]
    loss = cross_entropy(tf.constant(io["y"][:, 1:]), logits[:, :-1])
    return {"encoded": model.encode(tf.constant(io["x"])), "logits": logits, "loss": loss}


OUTPUTS = {
    "mlm": language_model,
    "clm": language_model,
    "embed": embed,
    "dual": dual,
    "discriminator": discriminator,
    "seq2seq": seq2seq,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_same_numbers_as_mead(name):
    spec, arrays, io = load(name)
    model = model_of(spec, arrays, io)
    variables = named_variables(model)
    with tf.GradientTape() as tape:
        tape.watch([v.value for v in variables.values()])
        outputs = OUTPUTS[spec.kind](model, io, spec)
    expected = {
        k for k in io if not k.startswith(("grad", "extra/")) and not k.endswith("_torch")
    } - {"x", "y", "tt", "labels"}
    assert set(outputs) == expected
    for key in expected:
        np.testing.assert_allclose(outputs[key], io[key], atol=TOLERANCE, err_msg=key)
    gradients = [k for k in io if k.startswith("grads/")]
    assert bool(gradients) == (spec.kind in ("mlm", "clm"))
    if gradients:
        of = tape.gradient(outputs["loss"], {path: v.value for path, v in variables.items()})
        stored = to_mead({path: tf.convert_to_tensor(g).numpy() for path, g in of.items()}, spec)
        for key in gradients:
            np.testing.assert_allclose(
                stored[key.removeprefix("grads/")], io[key], atol=TOLERANCE, err_msg=key
            )


@pytest.mark.parametrize("name", VARIANTS)
def test_written_back_identical(name):
    spec, arrays, io = load(name)
    model = model_of(spec, arrays, io)
    written = read_npz(
        npz_bytes(
            PretrainedModel({p: v.numpy() for p, v in named_variables(model).items()}, spec, name)
        ),
        name,
    )
    ours = {k: v for k, v in written.items() if not k.startswith("tpu_tlm/")}
    assert set(ours) == set(arrays)
    for key in arrays:
        assert ours[key].dtype == arrays[key].dtype
        np.testing.assert_array_equal(ours[key], arrays[key], err_msg=key)
    assert spec_of(written, name) == spec
    assert written[CONFIG_KEY].dtype == np.uint8


def test_tables_that_ought_to_be_one_must_be_equal():
    spec, arrays, _ = load("seq2seq_rpr3")
    arrays["Seq2Seq/TgtEmbedding/y/weights"] = arrays["Seq2Seq/TgtEmbedding/y/weights"] + 1
    with pytest.raises(TlmError, match="differ"):
        from_mead(arrays, spec, "golden")


def test_a_configuration_that_does_not_fit_is_refused():
    spec, arrays, _ = load("mlm_t5")
    with pytest.raises(TlmError, match="rel_embedding"):
        from_mead(arrays, load("mlm_alibi")[0], "golden")
    with pytest.raises(TlmError, match="rpr_key"):
        from_mead(arrays, load("mlm_rpr8")[0], "golden")


def with_bias(form):
    """A golden model with MEAD's `learned-positional-w-bias`, as its two sides write the bias."""
    variant = VARIANTS["mlm_learned"]
    arrays = read_npz((GOLDEN / variant["checkpoint"]).read_bytes(), "golden")
    bias = np.linspace(-1, 1, arrays["TLM/Embeddings/x/weights"].shape[1], dtype=np.float32)
    if form == "tensorflow":
        arrays["TLM/Embeddings/x/bias"] = bias
    else:
        arrays["TLM/Embeddings/tt/weights"] = np.stack([bias, 0 * bias])
    config = {**variant["config"], "embed_type": "learned-positional-w-bias"}
    return config, arrays


@pytest.mark.parametrize("form", ["tensorflow", "pytorch"])
def test_both_forms_of_the_position_bias_are_written_back_as_they_were(form, tmp_path):
    config, arrays = with_bias(form)
    np.savez(tmp_path / "mead.npz", **arrays)
    describe = described_by_json(json.dumps({"config": config}).encode(), "here")
    saved = load_model(str(tmp_path / "mead.npz"), describe=describe)
    for _ in range(2):  # from MEAD's file, and from ours
        save(saved, str(tmp_path / "ours.npz"))
        written = read_npz((tmp_path / "ours.npz").read_bytes(), "ours")
        assert {k for k in written if not k.startswith("tpu_tlm/")} == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(written[key], array, err_msg=key)
        saved = load_model(str(tmp_path / "ours.npz"))
    _, others = with_bias({"tensorflow": "pytorch"}.get(form, "tensorflow"))
    other = from_mead(others, saved.spec, "golden")
    np.testing.assert_array_equal(other["embeddings/x/bias"], saved.values["embeddings/x/bias"])


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({}, "mlm", {"mask_pad": False, "layer_norm_eps": 1e-12}),
        ({"mask_pad": True}, "mlm", {"mask_pad": True}),
        ({"mask_pad": False}, "embed", {"mask_pad": False}),
        ({"word_embed_type": "learned-positional"}, "embed", {"position_encoding": ["learned"]}),
        ({"reduction": "sum-layer-norm"}, "embed", {"embeddings_reduction": "sum-layer-norm"}),
        ({"dropout": 0.2, "ff_pdrop": 0.3}, "mlm", {"dropout": 0.2, "ffn_pdrop": 0.3}),
        ({"tie": False, "output_bias": False}, "mlm", {"tie_weights": False, "output_bias": False}),
        ({"finetune": False, "pooling": "mean", "layers": 3}, "embed", {"num_layers": 3}),
        ({"token_type_vsz": 2}, "embed", {"type_vocab_size": 2}),
        ({"dsz": 8}, "mlm", {"embedding_size": 8}),
    ],
)
def test_options_of_meads_classes(options, kind, expected):
    base = {"vocab": 50, "d_model": 16, "d_ff": 32, "num_heads": 2}
    found = spec_from_mead({**base, **options}, max_positions=20, kind=kind).config
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"colour": 3}, "colour"),
        ({"d_model": "x"}, "d_model"),
        ({"num_heads": 0}, "num_heads"),
        ({"mask_pad": 1}, "mask_pad"),
        ({"dropout": 2}, "dropout"),
        ({"rpr_k": ["a"]}, "rpr_k"),
        ({"embed_type": "other"}, "embed_type"),
        ({"ra_type": []}, "ra_type"),
        ({"features": 0.5}, "features"),
        ({"layers": float("nan")}, "layers"),
        ({"d_ff": float("inf")}, "d_ff"),
    ],
)
def test_wrong_options_are_named(options, says):
    base = {"vocab": 50, "d_model": 16, "d_ff": 32, "num_heads": 2}
    with pytest.raises(TlmError, match=says):
        spec_from_mead({**base, **options}, max_positions=20)
