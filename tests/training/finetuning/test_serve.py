"""A SavedModel of a fine-tuned run gives strings the predictor's probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.tasks.toy_tasks import cpu, options, reviews, toy_model
from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.examples import Framer
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.predict import TaskPredictor, load_predictor
from tpu_tlm.training.finetuning.serve import save_serving

TEXTS = [
    "a good day",
    "the film is very bad",
    " ".join(["happy"] * 50),
    " ".join(["the"] * 18),  # fills one window
    " ".join(["the"] * 30 + ["bad"] * 31),
    " ".join(["the"] * 18 + ["awful"]),
]


def test_strings_give_the_predictor_s_probabilities(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_text")
    toy_model(tmp_path)
    train = reviews(tmp_path / "train.csv", 64)
    given = {"train": str(train), "epochs": 1, "serving": True, "buckets": 1, "max_length": 20}
    run = finetune(options(tmp_path, **given), cpu()).run_dir
    predictor = load_predictor(run)
    compare(predictor, f"{run}/serving")
    with pytest.raises(UsageError, match="length 99"):
        save_serving(predictor, str(tmp_path / "x"), 99)
    # A run with --stride has another framer and is else the same.
    predictor.framer = Framer(predictor.spec, predictor.tokenizer, max_length=20, stride=5)
    save_serving(predictor, str(tmp_path / "windows"))
    compare(predictor, str(tmp_path / "windows"))
    with pytest.raises(UsageError, match="length 7.*--stride 5"):
        save_serving(predictor, str(tmp_path / "x"), 7)


def compare(predictor: TaskPredictor, directory: str) -> None:
    """Assert that a SavedModel gives the labels and probabilities of a predictor."""
    served = tf.saved_model.load(directory)
    found = served.signatures["serving_default"](text=tf.constant(TEXTS))
    expected = predictor(TEXTS)
    names = served.signatures["labels"]()["labels"].numpy().tolist()
    assert names == [b"neg", b"pos"]
    for one, label, row in zip(expected, found["label"], found["probabilities"], strict=True):
        assert label.numpy().decode() == one.guess
        np.testing.assert_allclose(row, list(one.scores.values()), atol=1e-5)
