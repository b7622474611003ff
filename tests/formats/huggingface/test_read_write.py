"""HuggingFace directories that `transformers` wrote: its numbers, written back by the array."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.huggingface.safetensors import decode, encode
from tpu_tlm.formats.huggingface.write import hf_files

GOLDEN = DATA_FILES / "hf_golden"
MODELS = sorted(path.name for path in GOLDEN.iterdir())


def arrays_of(directory):
    return decode((directory / "model.safetensors").read_bytes(), "file")


def copied(name, directory, *, config=None, change=None):
    """A golden directory with another configuration or other arrays."""
    shutil.copytree(GOLDEN / name, directory)
    if config:
        path = directory / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    if change:
        (directory / "model.safetensors").write_bytes(encode(change(dict(arrays_of(directory)))))
    return str(directory)


def put(files, directory):
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def outputs(saved, io):
    features = {"x": tf.constant(io["input_ids"].astype(np.int32))}
    if "token_type_ids" in io:
        features["tt"] = tf.constant(io["token_type_ids"].astype(np.int32))
    model = saved.model()
    hidden = model.encode(features).numpy()
    found = {"hidden": hidden}
    if saved.spec.kind != "embed":
        logits = model(features).numpy()
        found["logits"] = found["prediction_logits"] = (
            logits[..., : saved.spec.vocab_size] if logits.ndim == 3 else logits
        )
    if "pooler/kernel" in saved.extras:
        pooled = np.tanh(hidden[:, 0] @ saved.extras["pooler/kernel"] + saved.extras["pooler/bias"])
        found["pooler_output"] = pooled
        if "next_sentence/kernel" in saved.extras:
            found["seq_relationship_logits"] = (
                pooled @ saved.extras["next_sentence/kernel"] + saved.extras["next_sentence/bias"]
            )
    return found


@pytest.mark.parametrize("name", MODELS)
def test_same_numbers_as_transformers(name):
    io = np.load(GOLDEN / name / "io.npz")
    saved = read_hf(str(GOLDEN / name))
    found = outputs(saved, io)
    compared = [k for k in io.files if k not in ("input_ids", "token_type_ids", "attention_mask")]
    assert "hidden" in compared and saved.unused == ()
    real = io["attention_mask"] == 1
    for key in compared:
        rows = real if io[key].shape[:2] == real.shape else slice(None)
        np.testing.assert_allclose(found[key][rows], io[key][rows], atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_written_back_array_for_array(name, tmp_path):
    saved = read_hf(str(GOLDEN / name))
    written, _ = hf_files(saved)
    ours, theirs = decode(written["model.safetensors"], "ours"), arrays_of(GOLDEN / name)
    assert set(ours) == set(theirs)  # so `transformers` finds no key missing and none unexpected
    for key, array in theirs.items():
        np.testing.assert_array_equal(ours[key], array, err_msg=key)
    config, golden = (
        json.loads(written["config.json"]),
        json.loads((GOLDEN / name / "config.json").read_text()),
    )
    assert {k: golden[k] for k in config if k in golden} == {
        k: config[k] for k in config if k in golden
    }
    again = read_hf(str(put(written, tmp_path / "again")))
    assert again.spec == saved.spec and set(again.extras) == set(saved.extras)
    for path, value in saved.values.items():
        np.testing.assert_array_equal(again.values[path], value)


def old_names(arrays):
    def rename(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    return {rename(name): array for name, array in arrays.items()}


def without_prefix(arrays):
    return {name.removeprefix("bert."): array for name, array in arrays.items()}


def with_buffers(arrays):
    head = {"cls.predictions.decoder.weight": arrays["bert.embeddings.word_embeddings.weight"]}
    return {**arrays, **head, "bert.embeddings.position_ids": np.arange(20, dtype=np.int64)[None]}


@pytest.mark.parametrize("change", [old_names, without_prefix, with_buffers])
def test_other_ways_to_name_the_same(change, tmp_path):
    expected, saved = (
        read_hf(str(GOLDEN / "bert")),
        read_hf(copied("bert", tmp_path / "model", change=change)),
    )
    assert saved.unused == () and saved.spec == expected.spec
    for path, value in expected.values.items():
        np.testing.assert_array_equal(saved.values[path], value)


def test_several_weight_files(tmp_path):
    directory = Path(copied("bert", tmp_path / "model"))
    arrays = arrays_of(directory)
    (directory / "model.safetensors").unlink()
    halves = [dict(list(arrays.items())[::2]), dict(list(arrays.items())[1::2])]
    for number, half in enumerate(halves):
        (directory / f"model-{number}.safetensors").write_bytes(encode(half))
    index = {
        name: f"model-{number}.safetensors" for number, half in enumerate(halves) for name in half
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    saved = read_hf(str(directory))
    assert {"model-0.safetensors", "model-1.safetensors", "config.json"} <= set(saved.hashes)
    np.testing.assert_array_equal(
        saved.values["embeddings/x/positions"],
        read_hf(str(GOLDEN / "bert")).values["embeddings/x/positions"],
    )


def test_arrays_of_a_task_are_reported(tmp_path):
    path = copied(
        "bert",
        tmp_path / "model",
        change=lambda a: {**a, "classifier.weight": np.zeros((2, 32), np.float32)},
    )
    assert read_hf(path).unused == ("classifier.weight",)


def dropped(key):
    return lambda arrays: {k: v for k, v in arrays.items() if k != key}


@pytest.mark.parametrize(
    ("config", "change", "says"),
    [
        ({"num_hidden_layers": 1}, None, "encoder.layer.1.*no place"),
        ({"num_hidden_layers": 3}, None, "encoder.layer.2.*needs"),
        ({"vocab_size": 100}, None, "99 rows.*100 vocabulary"),
        ({"max_position_embeddings": 40}, None, "positions.*shape"),
        ({"hidden_size": 64}, None, "shape"),
        ({"intermediate_size": 128}, None, "shape"),
        ({"type_vocab_size": 3}, None, "tt/table.*shape"),
        (
            {},
            dropped("bert.encoder.layer.1.attention.self.key.bias"),
            "attention.self.key.bias.*needs",
        ),
        ({}, dropped("cls.predictions.transform.dense.weight"), "BertForMaskedLM, but there is no"),
        ({"num_attention_heads": 5}, None, "divided among 5 heads"),
        ({"hidden_act": "mish"}, None, "hidden_act is 'mish'"),
        (
            {"position_embedding_type": "relative_key"},
            None,
            "position_embedding_type is 'relative_key'",
        ),
        ({"is_decoder": True}, None, "is_decoder"),
        ({"model_type": "deberta"}, None, "deberta.*disentangled"),
        ({"hidden_size": None}, None, "hidden_size is None"),
    ],
)
def test_what_does_not_fit_is_refused(config, change, says, tmp_path):
    with pytest.raises(TlmError, match=says) as error:
        read_hf(copied("bert", tmp_path / "model", config=config, change=change))
    assert str(tmp_path) in str(error.value)


def test_a_changed_directory_loses_our_own_configuration(tmp_path):
    written, _ = hf_files(read_hf(str(GOLDEN / "bert")))
    config = json.loads(written["config.json"])
    directory = put(
        {**written, "config.json": json.dumps({**config, "hidden_act": "gelu_new"}).encode()},
        tmp_path / "model",
    )
    saved = read_hf(str(directory))
    assert saved.spec.config.activation == "gelu" and any("changed" in note for note in saved.notes)


def test_what_bert_always_has_is_added_and_taken_back(tmp_path):
    """A model without token types or logit bias gets zeros as a BERT, and comes back without."""
    from dataclasses import replace

    from tpu_tlm.models.layers.variables import named_variables
    from tpu_tlm.models.registry import build_model
    from tpu_tlm.models.spec import ModelSpec

    saved = read_hf(str(GOLDEN / "bert"))
    spec = ModelSpec(
        **{
            **vars(saved.spec),
            "config": replace(saved.spec.config, type_vocab_size=0, output_bias=False),
        }
    )
    values = {path: v.numpy() for path, v in named_variables(build_model(spec, seed=1)).items()}
    written, notes = hf_files(saved.replaced(spec=spec, values=values))
    assert len([n for n in notes if n.startswith("added")]) == 2
    back = read_hf(str(put(written, tmp_path / "model")))
    assert back.spec == spec and set(back.values) == set(values)
    x = tf.constant([[5, 6, 7, 8]])
    plain = saved.replaced(spec=spec, values=values).model()(x)
    config = json.loads(written["config.json"])
    del config["tpu_tlm"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    np.testing.assert_allclose(read_hf(str(tmp_path / "model")).model()(x), plain, atol=1e-6)


def test_a_model_without_a_place_names_the_flags():
    from tpu_tlm.config import ModelConfig
    from tpu_tlm.models.layers.variables import named_variables
    from tpu_tlm.models.registry import build_model
    from tpu_tlm.models.spec import ModelSpec

    saved = read_hf(str(GOLDEN / "bert"))
    spec = ModelSpec(ModelConfig(d_model=32, d_ff=64, num_heads=2, num_layers=1), 99, 16)
    values = {path: v.numpy() for path, v in named_variables(build_model(spec)).items()}
    with pytest.raises(
        UsageError,
        match="--position_encoding learned.*--transformer_type post-layer-norm",
    ):
        hf_files(saved.replaced(spec=spec, values=values))
    with pytest.raises(UsageError, match="mlm.*gpt2"):
        hf_files(saved, "gpt2")
