"""A MEAD user's YAML, and MEAD's own numbers for its pooled embeddings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tests.tasks.toy_tasks import reviews, toy_model
from tpu_tlm.errors import UsageError
from tpu_tlm.finetune import main
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.npz import described_by_json
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.tasks.head import HeadSpec, pool
from tpu_tlm.tasks.mead_config import is_mead_file, read_mead
from tpu_tlm.tasks.model import build_task_model, task_spec

GOLDEN = Path(os.environ.get("GOLDEN_MEAD", DATA_FILES / "golden_mead"))
PAGE = """
task: classify
basedir: {run}
dataset: SST2
features:
- embeddings:
    word_embed_type: learned-positional-w-bias
    label: bert-base-uncased-npz
    type: tlm-words-embed-pooled
    reduction: sum-layer-norm
    layer_norms_after: True
    finetune: True
    dropout: 0.1
    mlm: True
  name: bert
  vectorizer:
    label: bert-base-uncased
model:
  model_type: fine-tune
train:
  epochs: 2
  batchsz: 16
  eta: 1.0e-3
  optim: adamw
  weight_decay: 1.0e-8
  early_stopping_metric: acc
  patience: 5
  verbose: True
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mead")
    toy_model(directory)
    reviews(directory / "train.csv", 64)
    reviews(directory / "valid.csv", 32, seed=1)
    (directory / "mead.yml").write_text(PAGE.format(run=directory / "run"))
    index = [
        {"label": "bert-base-uncased-npz", "file": "model.npz", "dsz": 32},
        {"label": "bert-base-uncased", "file": str(directory / "tokenizer")},
    ]
    (directory / "index.json").write_text(json.dumps(index))
    return directory


def test_the_page_s_block_means_the_same_here(place: Path) -> None:
    found = read_mead(str(place / "mead.yml"), str(place / "index.json"))
    values = found.values
    assert values["model"] == str(place / "model.npz") and values["task"] == "classify"
    assert values["tokenizer"] == str(place / "tokenizer")
    expected = {"pooling": "cls", "finetune": True, "dropout": 0.1, "epochs": 2, "lr": 1e-3}
    expected |= {"batch_size": 16, "optimizer": "adamw", "metric": "accuracy", "patience": 5}
    assert expected.items() <= values.items()
    described = json.loads(values["mead_config"])
    assert described["kind"] == "embed" and described["config"]["d_model"] == 768
    assert described["config"]["embed_type"] == "learned-positional-w-bias"
    assert described["config"]["embeddings_reduction"] == "sum-layer-norm"
    notes = "\n".join(found.notes)
    assert "dataset" in notes and "train.verbose" in notes


def test_the_page_s_block_trains_by_one_command(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(place / "mead.yml"), "--embeddings_index", str(place / "index.json")]
    argv += ["--train", str(place / "train.csv"), "--valid", str(place / "valid.csv")]
    assert main([*argv, "--epochs", "1", "--xla", "false", "--distribute", "none"]) == 0
    assert "1 epochs of 64 texts" in capsys.readouterr().out  # the flag wins
    assert (place / "run" / "report.json").exists()


def test_labels_and_models_that_cannot_be_resolved(place: Path, tmp_path: Path) -> None:
    path = str(place / "mead.yml")
    with pytest.raises(UsageError, match="bert-base-uncased-npz.*--embeddings_index"):
        read_mead(path, None)
    text = PAGE.format(run="r").replace("fine-tune", "lstm")
    (tmp_path / "m.yml").write_text(text)
    with pytest.raises(UsageError, match="lstm"):
        read_mead(str(tmp_path / "m.yml"), str(place / "index.json"))
    (tmp_path / "ours.yml").write_text("task: classify\nmodel: path\n")
    assert not is_mead_file(str(tmp_path / "ours.yml")) and is_mead_file(path)


def test_other_forms(place: Path, tmp_path: Path) -> None:
    text = PAGE.format(run="r").replace("task: classify", "task: tagger")
    text = text.replace("tlm-words-embed-pooled", "tlm-words-embed").replace(
        "mlm: True", "mlm: False"
    )
    (tmp_path / "m.yml").write_text(text)
    values = read_mead(str(tmp_path / "m.yml"), str(place / "index.json")).values
    assert values["task"] == "tag" and "pooling" not in values
    assert json.loads(values["mead_config"])["config"]["causal"] is True


def test_pooled_embeddings_agree_with_mead_s_own() -> None:
    variants = json.loads((GOLDEN / "manifest.json").read_text())["variants"]
    variant = variants["tlm_words_embed"]
    config = variants[variant["config"]["source"].removesuffix(".npz")]["config"]
    config = {**config, "layer_norm_eps": variant["config"]["layer_norm_eps"]}
    describe = described_by_json(json.dumps({"kind": "embed", "config": config}).encode(), "golden")
    saved = load(str(GOLDEN / variant["checkpoint"]), describe=describe)
    io = np.load(GOLDEN / variant["io"])
    spec = task_spec(saved.spec, None)
    x = tf.constant(io["x"])
    model = build_task_model(spec, HeadSpec(2, pooling="cls"))
    for path, variable in named_variables(model).items():
        if path in saved.values:
            variable.assign(saved.values[path])
    words = model.encode({"x": x})
    np.testing.assert_allclose(words, io["words"], atol=1e-4)
    present = tf.not_equal(x, spec.pad_id)
    for kind in ("cls", "mean", "max"):
        found = pool(words, present, kind)
        np.testing.assert_allclose(found, io[f"pooled_{kind}"], atol=1e-4, err_msg=kind)
