"""ELMo's files: variants against plain NumPy, and what is damaged, hostile or not supported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.elmo.arrays import arrays
from tpu_tlm.formats.elmo.options import spec_of
from tpu_tlm.formats.load import load
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import check_same, save

GOLDEN = DATA_FILES / "golden_elmo"
VARIANTS = {
    "no projections, clips or highway": ElmoConfig(
        12, 3, ((1, 2), (3, 4)), "tanh", 0, 6, 6, 1, skip=False, projected=False
    ),
    "three layers without skip": ElmoConfig(
        8, 4, ((2, 5),), "relu", 1, 5, 3, 3, 0.3, None, skip=False
    ),
    "projection clip alone": ElmoConfig(50, 2, ((1, 3),), "relu", 2, 4, 3, 2, None, 0.1),
}


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def clip(x, limit):
    return x if limit is None else np.clip(x, -limit, limit)


def plain_layers(config, v, ids):
    """The layers of one sentence of ids with its marks, step by step, float64."""
    table = np.concatenate([np.zeros((1, config.character_size)), v["embeddings/char_embed"]])
    x = table[ids]
    parts = []
    for i, (width, _) in enumerate(config.filters):
        kernel, bias = v[f"embeddings/cnn{i}/kernel"][0], v[f"embeddings/cnn{i}/bias"]
        places = range(config.characters - width + 1)
        found = np.stack([np.einsum("twe,wec->tc", x[:, p : p + width], kernel) for p in places])
        parts.append(found.max(0) + bias)
    y = np.concatenate(parts, -1)
    y = np.tanh(y) if config.activation == "tanh" else np.maximum(y, 0)
    for i in range(config.highway):
        carry, transform = (
            y @ v[f"embeddings/highway{i}/{n}/kernel"] + v[f"embeddings/highway{i}/{n}/bias"]
            for n in ("carry", "transform")
        )
        gate = sigmoid(carry)
        y = gate * np.maximum(transform, 0) + (1 - gate) * y
    if config.projected:
        y = y @ v["embeddings/projection/kernel"] + v["embeddings/projection/bias"]
    layers, inputs = [np.concatenate([y, y], -1)], [y, y[::-1]]
    for layer in range(config.layers):
        for number, direction in enumerate(("forward", "backward")):
            path = f"encoder/{layer}/{direction}"
            c, h, out = np.zeros(config.dim), np.zeros(config.projection), []
            for step in inputs[number]:
                z = np.concatenate([step, h]) @ v[f"{path}/kernel"] + v[f"{path}/bias"]
                i, j, f, o = np.split(z, 4)
                c = clip(sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j), config.cell_clip)
                h = sigmoid(o) * np.tanh(c)
                if f"{path}/projection" in v:
                    h = clip(h @ v[f"{path}/projection"], config.proj_clip)
                out.append(h + step if config.skip and layer else h)
            inputs[number] = np.stack(out)
        layers.append(np.concatenate([inputs[0], inputs[1][::-1]], -1))
    return np.stack(layers)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_written_read_and_computed(name, tmp_path):
    config = VARIANTS[name]
    rng = np.random.default_rng(0)
    values = {a.path: rng.normal(0, 0.7, a.shape).astype(np.float32) for a in arrays(config)}
    saved = PretrainedModel(values, spec_of(config), "random")
    save(saved, str(tmp_path / "elmo"), "elmo")
    again = load(str(tmp_path / "elmo"))
    assert check_same(saved, again) == len(values)
    model = again.model()
    tokens = [["a", "bc", "", "läuft"], ["xyz"]]
    ids = np.zeros((2, 4, config.characters), np.int32)
    for row, own in zip(ids, tokens, strict=True):
        row[: len(own)] = again.own_tokenizer.rows(own)
    marked, count = (np.asarray(t) for t in model.with_marks(tf.constant(ids)))
    found = model.token_layers(tf.constant(ids))[0].numpy()
    for row, own in enumerate(tokens):
        expected = plain_layers(config, values, marked[row, : count[row]])[:, 1:-1]
        np.testing.assert_allclose(found[:, row, : len(own)], expected, atol=2e-5)


@pytest.fixture
def model(tmp_path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("options.json", "weights.hdf5"):
        shutil.copy(GOLDEN / f"base.{name}", directory / f"elmo_{name}")
    return directory


def change(directory, part, **values):
    path = directory / "elmo_options.json"
    options = json.loads(path.read_text())
    options[part] = {**options[part], **values}
    path.write_text(json.dumps(options))


def test_either_file_or_the_directory_names_the_model(model):
    for path in (model, model / "elmo_options.json", model / "elmo_weights.hdf5"):
        assert load(str(path)).spec.kind == "elmo"
    shutil.copy(model / "elmo_weights.hdf5", model / "other_weights.hdf5")
    with pytest.raises(UsageError, match="2 models"):
        load(str(model))
    (model / "elmo_options.json").unlink()
    with pytest.raises(UsageError, match=r"elmo_options\.json"):
        load(str(model / "elmo_weights.hdf5"))


@pytest.mark.parametrize(
    ("part", "values", "words"),
    [
        ("lstm", {"dim": 33}, "W_0.*shape"),
        ("lstm", {"n_layers": 3}, "Cell2"),
        ("lstm", {"n_layers": 10**9}, "n_layers"),
        ("lstm", {"projection_dim": "16"}, "projection_dim"),
        ("lstm", {"cell_clip": -1}, "cell_clip"),
        ("lstm", {"use_skip_connections": "yes"}, "use_skip_connections"),
        ("char_cnn", {"filters": [[1, 8], [2]]}, "filters"),
        ("char_cnn", {"filters": [[51, 8]]}, "filters"),
        ("char_cnn", {"activation": "gelu"}, "activation"),
        ("char_cnn", {"n_characters": 300}, "n_characters"),
        ("char_cnn", {"embedding": 4}, "embedding"),
    ],
)
def test_options_that_cannot_be_meant(model, part, values, words):
    change(model, part, **values)
    with pytest.raises((UsageError, TlmError), match=words) as caught:
        load(str(model))
    assert "\n" not in str(caught.value) and "elmo_" in str(caught.value)


def hostile(kind, file, directory):
    name = "CNN_proj/b_proj"
    del file[name]
    if kind == "external":
        file[name] = h5py.ExternalLink(str(directory / "other.hdf5"), "/x")
    elif kind == "soft":
        file[name] = h5py.SoftLink("/CNN_proj/W_proj")
    elif kind == "outside":
        (directory / "raw").write_bytes(bytes(64))
        file.create_dataset(name, (16,), "f4", external=[(str(directory / "raw"), 0, 64)])
    elif kind == "bomb":
        file.create_dataset(name, (16,), "f4", chunks=(16,), compression="gzip")
    elif kind == "unfilled":
        file.create_dataset(name, (2**40,), "f4")
    elif kind == "integers":
        file[name] = np.zeros(16, np.int64)
    elif kind == "nan":
        file[name] = np.full(16, np.nan, np.float32)
    elif kind == "loop":
        file["CNN_proj/loop"] = file["CNN_proj"]


@pytest.mark.parametrize(
    "kind", ["external", "soft", "outside", "bomb", "unfilled", "integers", "nan", "loop", "gone"]
)
def test_a_hostile_file_is_one_line(model, kind):
    with h5py.File(model / "elmo_weights.hdf5", "a") as file:
        hostile(kind, file, model)
    with pytest.raises(TlmError, match=r"elmo_weights\.hdf5") as caught:
        load(str(model))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 100, 50_000])
def test_a_damaged_file_is_one_line(model, keep):
    path = model / "elmo_weights.hdf5"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TlmError, match=r"elmo_weights\.hdf5") as caught:
        load(str(model))
    assert "\n" not in str(caught.value)
