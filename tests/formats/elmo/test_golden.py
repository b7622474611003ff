"""ELMo files with the numbers of the programs that define the format: AllenNLP and bilm-tf.

GOLDEN_ELMO names another directory of such files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.formats.elmo.arrays import arrays
from tpu_tlm.formats.load import load
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model

GOLDEN = Path(os.environ.get("GOLDEN_ELMO", DATA_FILES / "golden_elmo"))
VARIANTS = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
CASES = [
    (name, case) for name, variant in VARIANTS.items() for case in sorted(variant.get("cases", {}))
]
ORDERED = [name for name, variant in VARIANTS.items() if "call_order" in variant]
WITH_GRADIENTS = [name for name, variant in VARIANTS.items() if variant.get("grad_file")]
_LOADED = {}


def loaded(name):
    """(variant, what was read, its model, the io file) of a variant; read once."""
    if name not in _LOADED:
        variant = VARIANTS[name]
        # Variants may share weights, so the manifest says which options belong to them.
        with tempfile.TemporaryDirectory() as place:
            for kind, name_there in (("weights", "weights.hdf5"), ("options", "options.json")):
                shutil.copyfile(GOLDEN / variant[f"{kind}_file"], Path(place, name_there))
            saved = load(place)
        io = dict(np.load(GOLDEN / variant["io_file"]))
        _LOADED[name] = variant, saved, saved.model(), io
    return _LOADED[name]


def ids_of(saved, sentences):
    width = saved.spec.elmo.characters
    ids = np.zeros((len(sentences), max(map(len, sentences)), width), np.int32)
    for i, tokens in enumerate(sentences):
        ids[i, : len(tokens)] = saved.own_tokenizer.rows(tokens)
    return ids


def with_mix(model, weights, gamma):
    model.encoder.mix.weights_.assign(np.asarray(weights, np.float32))
    model.encoder.mix.gamma.assign(np.reshape(gamma, (1,)).astype(np.float32))
    return model


def normalizing(saved, kind):
    elmo = dataclasses.replace(saved.spec.elmo, layer_norm=kind)
    spec = dataclasses.replace(saved.spec, elmo=elmo)
    model = build_model(spec)
    for path, variable in named_variables(model).items():
        variable.assign(saved.values[path])
    return model


def compiled(function, *arguments):
    return tf.nest.map_structure(
        np.asarray, tf.function(function, jit_compile=True, autograph=False)(*arguments)
    )


@pytest.mark.parametrize(("name", "case"), CASES)
def test_forward_numbers(name, case):
    variant, saved, model, io = loaded(name)
    sentences = variant["cases"][case]
    ids = ids_of(saved, sentences)
    np.testing.assert_array_equal(ids, io[f"{case}/char_ids"])
    real = ids.any(-1)
    np.testing.assert_array_equal(real, io[f"{case}/mask"])
    x = tf.constant(ids)
    marked, count = model.with_marks(x)
    if f"{case}/char_ids_bos_eos" in io:
        np.testing.assert_array_equal(marked, io[f"{case}/char_ids_bos_eos"])
    parameters = variant["scalar_parameters"]
    layers, inner = model.token_layers(x)[0].numpy(), model.layers_with_marks(x)[0].numpy()
    found = {"layers": layers, "token_embedding": model.embeddings(marked).numpy()}
    found["layers_bos_eos"] = inner
    found["mixed_default"] = with_mix(model, np.zeros(len(parameters)), 1.0).encode(x).numpy()
    found["mixed"] = with_mix(model, parameters, variant["gamma"]).encode(x).numpy()
    for key, kind in (("mixed_ln", "allennlp"), ("bilm_mixed_ln", "bilm")):
        if f"{case}/{key}" in io:
            other = with_mix(normalizing(saved, kind), parameters, variant["gamma"])
            found[key] = other.encode(x).numpy()
    compared = 0
    both = np.asarray(np.arange(ids.shape[1] + 2)[None] < np.asarray(count)[:, None])
    for key, value in found.items():
        if f"{case}/{key}" not in io:
            continue
        expected = io[f"{case}/{key}"]
        mask = real if key not in ("token_embedding", "layers_bos_eos") else both
        mask = mask if value.ndim == 3 else np.broadcast_to(mask, value.shape[:3])
        np.testing.assert_allclose(
            value[mask], expected[mask], rtol=0, atol=variant["tolerance"]["forward_abs"]
        )
        compared += 1
    assert compared >= 2
    assert not layers[:, ~real].any()


class Stateful:
    """The model with the states of its rows kept from call to call, as both programs do it."""

    def __init__(self, model, sizes):
        self.model, self.sizes = model, sizes
        self.states = [
            (
                np.zeros((2, 0, sizes.dim), np.float32),
                np.zeros((2, 0, sizes.projection), np.float32),
            )
            for _ in range(sizes.layers)
        ]

    def __call__(self, ids):
        rows = len(ids)
        self.states = [
            tuple(np.pad(s, [(0, 0), (0, max(0, rows - s.shape[1])), (0, 0)]) for s in state)
            for state in self.states
        ]
        given = [tuple(tf.constant(s[:, :rows]) for s in state) for state in self.states]
        layers, after = self.model.token_layers(tf.constant(ids), given)
        for state, new in zip(self.states, after, strict=True):
            for own, value in zip(state, new, strict=True):
                own[:, :rows] = value.numpy()
        return layers.numpy()

    def stored(self, which):
        """[L, rows, 2 width]: forward then backward."""
        return np.stack([np.concatenate(list(state[which]), axis=-1) for state in self.states])


@pytest.mark.parametrize("name", ORDERED)
def test_calls_one_after_the_other_with_states(name):
    variant, saved, model, io = loaded(name)
    stateful = Stateful(model, saved.spec.elmo)
    tolerance = variant["tolerance"]["forward_abs"]
    if "sentences_file" in variant:
        texts = json.loads((GOLDEN / variant["sentences_file"]).read_text())
        offsets, number = io["offsets"], 0
        for batch in zip(*texts, strict=True):
            sentences = [text.split() for text in batch]
            top = stateful(ids_of(saved, sentences))[-1]
            for row, tokens in enumerate(sentences):
                expected = io["top_layer"][offsets[number] : offsets[number + 1]]
                np.testing.assert_allclose(
                    top[row, : len(tokens)], expected, rtol=0, atol=tolerance
                )
                number += 1
        assert number == len(offsets) - 1
        return
    for number, case in enumerate(variant["call_order"]):
        sentences = variant["cases"][case]
        ids = ids_of(saved, sentences)
        layers, key = stateful(ids), f"seq/{number}_{case}"
        real = np.broadcast_to(ids.any(-1), layers.shape[:3])
        np.testing.assert_allclose(layers[real], io[f"{key}/layers"][real], rtol=0, atol=tolerance)
        for which, part in ((1, "state_h"), (0, "state_c")):
            np.testing.assert_allclose(
                stateful.stored(which), io[f"{key}/{part}"], rtol=0, atol=tolerance
            )


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients(name):
    variant, saved, _, _ = loaded(name)
    expected = dict(np.load(GOLDEN / variant["grad_file"]))
    model = with_mix(saved.model(), variant["scalar_parameters"], variant["gamma"])
    x = tf.constant(ids_of(saved, variant["cases"]["A"]))
    variables = named_variables(model)

    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model.encode(x) * expected["cotangent"])
        return loss, tape.gradient(loss, [v.value for v in variables.values()])

    loss, found = compiled(gradients, x)
    names = {array.path: array.name for array in arrays(saved.spec.elmo)}
    names |= {"encoder/mix/weights": "scalar_parameters", "encoder/mix/gamma": "gamma"}
    limit = variant["tolerance"]["grad_abs"]
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5, atol=limit)
    assert {names[path] for path in variables} == set(expected) - {"loss", "cotangent"}
    for path, gradient in zip(variables, found, strict=True):
        np.testing.assert_allclose(
            gradient, expected[names[path]], rtol=0, atol=limit, err_msg=path
        )
