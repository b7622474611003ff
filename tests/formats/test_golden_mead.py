"""Files that MEAD wrote: read with MEAD's logits, hidden states and gradients, written back array for array."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.mead_config import spec_from_mead
from tpu_tlm.formats.mead_npz import CONFIG_KEY, encode_npz, from_mead, read_npz, spec_of, to_mead
from tpu_tlm.models.build import build_model
from tpu_tlm.models.variables import named_variables

GOLDEN = Path(os.environ.get("GOLDEN_MEAD", Path(__file__).parent.parent / "data_files" / "golden_mead"))
VARIANTS = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
BUILT = {"mlm"}
# What MEAD does not store of a model with its own head, and where the golden file has it.
EXTRA_HEAD = {"head/kernel": "extra/output/kernel", "head/bias": "extra/output/bias"}


def load(name):
    variant = VARIANTS[name]
    if variant["kind"] not in BUILT:
        pytest.skip(f"kind {variant['kind']!r} is not built yet")
    arrays = read_npz((GOLDEN / variant["checkpoint"]).read_bytes(), name)
    io = read_npz((GOLDEN / variant["io"]).read_bytes(), name)
    tables = [v.shape[0] for k, v in arrays.items() if k.endswith("pos_weights")]
    types = [v.shape[0] for k, v in arrays.items() if k.endswith("Embeddings/tt/weights")]
    try:
        spec = spec_from_mead(variant["config"], mxlen=(tables or [io["x"].shape[1]])[0], token_types=(types or [2])[0])
    except UsageError as error:
        pytest.skip(f"not built yet: {error}")
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
    return model, values


@pytest.mark.parametrize("name", VARIANTS)
def test_same_numbers_as_mead(name):
    spec, arrays, io = load(name)
    model, values = model_of(spec, arrays, io)
    features = {k: tf.constant(io[k]) for k in ("x", "tt") if k in io}
    variables = named_variables(model)
    with tf.GradientTape() as tape:
        tape.watch([v.value for v in variables.values()])
        embedded = model.embeddings(features)
        hidden = model.encode(features)
        logits = model(features)[..., : spec.vocab_size]
        labels = tf.constant(io["y"])
        weights = tf.cast(labels != 0, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
    np.testing.assert_allclose(embedded, io["embedded"], atol=1e-4)
    np.testing.assert_allclose(hidden, io["hidden"], atol=1e-4)
    np.testing.assert_allclose(logits, io["logits"], atol=1e-4)
    np.testing.assert_allclose(loss, io["loss"], atol=1e-4)
    gradients = tape.gradient(loss, {path: v.value for path, v in variables.items()})
    stored = to_mead({path: tf.convert_to_tensor(g).numpy() for path, g in gradients.items()}, spec)
    compared = [k for k in io if k.startswith("grads/")]
    assert compared
    for key in compared:
        np.testing.assert_allclose(stored[key.removeprefix("grads/")], io[key], atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", VARIANTS)
def test_written_back_identical(name):
    spec, arrays, io = load(name)
    model, _ = model_of(spec, arrays, io)
    written = read_npz(encode_npz({p: v.numpy() for p, v in named_variables(model).items()}, spec), name)
    ours = {k: v for k, v in written.items() if not k.startswith("tpu_tlm/")}
    assert set(ours) == set(arrays)
    for key in arrays:
        assert ours[key].dtype == arrays[key].dtype
        np.testing.assert_array_equal(ours[key], arrays[key], err_msg=key)
    assert spec_of(written, name) == spec
    assert written[CONFIG_KEY].dtype == np.uint8
