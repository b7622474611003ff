"""ELMo as the model of a task: fine-tuned, frozen with a learning mix, embedded, as a layer."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tpu_tlm as tlm
from tests.paths import DATA_FILES
from tests.tasks.toy_tasks import cpu, options, reviews
from tpu_tlm.convert import main as convert
from tpu_tlm.embed import main as embed
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.layer import load_encoder
from tpu_tlm.training.finetuning.predict import load_predictor

MODEL = str(DATA_FILES / "golden_elmo" / "stored.weights.hdf5")
TEXTS = ["the film is good", "a very sad day", "happy", "Zürich 日本語 naïve"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("elmo")
    reviews(directory / "train.csv", 96)
    reviews(directory / "valid.csv", 40, seed=1)
    (directory / "train.conll").write_text(
        "\n\n".join("the\tO\nfilm\tNOUN\nis\tO\ngood\tADJ\na\tO" for _ in range(16)) + "\n"
    )
    return directory


def run(place: Path, name: str, **values: object) -> object:
    given = {"model": MODEL, "tokenizer": None, "run_dir": str(place / name), "buckets": 1}
    given |= {"train": str(place / "train.csv"), "valid": str(place / "valid.csv")}
    return finetune(options(place, **{**given, "dropout": 0.0, **values}), cpu())


def mix_of(values: dict[str, np.ndarray]) -> np.ndarray:
    return values["encoder/mix/weights"]


@pytest.fixture(scope="module")
def tuned(place: Path) -> str:
    result = run(place, "tuned", lr=5e-3, head_lr=2e-2, head_dropout=0.0, epochs=10)
    assert result.valid["accuracy"] > 0.6
    return result.run_dir


def test_a_fine_tuned_run_predicts_and_is_a_model_again(tuned: str, tmp_path: Path) -> None:
    before, after = load(MODEL), load(tuned)
    assert after.spec.kind == "elmo" and after.tokenizer().kind == "elmo"
    assert any(np.abs(after.values[p] - v).max() > 1e-3 for p, v in before.values.items())
    predictor = load_predictor(tuned)
    together = predictor(TEXTS)
    alone = [predictor([text])[0] for text in TEXTS]
    for one, other in zip(together, alone, strict=True):  # no text depends on its neighbours
        assert one.probability == pytest.approx(other.probability, abs=1e-5)
    assert convert([tuned, str(tmp_path / "elmo"), "--to", "elmo"]) == 0
    again = load(str(tmp_path / "elmo"))
    for path, value in after.values.items():
        np.testing.assert_array_equal(again.values[path], value)


def test_frozen_vectors_are_kept_and_the_mix_learns(place: Path) -> None:
    result = run(place, "frozen", finetune=False, lr=5e-2, epochs=10)
    assert list((Path(result.run_dir) / "features").iterdir())
    before, after = load(MODEL).values, load(result.run_dir).values
    changed = {path for path, value in before.items() if not np.array_equal(value, after[path])}
    assert changed == {"encoder/mix/weights", "encoder/mix/gamma"}
    assert np.abs(mix_of(after)).max() > 1e-2
    # Scores of the stored vectors are those of the whole model.
    predictor = load_predictor(result.run_dir)
    rows = [line.split(",") for line in (place / "valid.csv").read_text().splitlines()[1:]]
    right = [
        found.guess == label
        for found, (_, label) in zip(predictor([t for t, _ in rows]), rows, strict=True)
    ]
    assert np.mean(right) == pytest.approx(result.valid["accuracy"])


def test_tags_are_given_to_words_as_they_are(place: Path) -> None:
    conll = str(place / "train.conll")
    result = run(place, "tags", task="tag", train=conll, valid=conll, lr=3e-2, epochs=8, freeze=1)
    assert result.valid["accuracy"] > 0.8
    (found,) = load_predictor(result.run_dir)([["the", "New York", ""]])
    assert len(found.guess) == 3


def test_pairs_are_encoded_each_by_itself(place: Path) -> None:
    pairs = place / "pairs.tsv"
    lines = [f"the film {i}\tthe film {i % 2}\t{i % 2}" for i in range(16)]
    pairs.write_text("\n".join(["text\ttext2\tlabel", *lines]) + "\n")
    given = {"task": "pair", "train": str(pairs), "valid": str(pairs), "epochs": 1}
    with pytest.raises(UsageError, match="pair_encoder shared"):
        run(place, "joint", **given)
    run(place, "shared", pair_encoder="shared", **given)


def test_vectors_of_the_command_the_layer_and_the_model_agree(place: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    out = str(tmp_path / "vectors.npy")
    assert embed(["--model", MODEL, "--input", str(tmp_path / "texts.txt"), "--output", out]) == 0
    layer = load_encoder(MODEL, pooling="mean", max_length=8)
    np.testing.assert_allclose(layer(tf.constant(TEXTS)), np.load(out), atol=1e-5)
    np.testing.assert_allclose(tlm.load(MODEL).encode(TEXTS), np.load(out), atol=1e-5)


def test_the_layer_trains_is_saved_and_loaded(tmp_path: Path) -> None:
    texts = keras.Input((), dtype="string")
    layer = load_encoder(MODEL, pooling="max", max_length=6)
    model = keras.Model(texts, keras.layers.Dense(2)(layer(texts)))
    # Traced, so small a model takes longer to be prepared than to be trained.
    model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    before = np.asarray(layer.encoder.encoder.mix.weights_).copy()
    model.fit(tf.constant(TEXTS), np.eye(2)[[0, 1, 0, 1]], epochs=1, verbose=0)
    assert np.abs(np.asarray(layer.encoder.encoder.mix.weights_) - before).max() > 0
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(tf.constant(TEXTS)), model(tf.constant(TEXTS)), atol=1e-6)
