"""Classification heads of each family: trained, written, and read as `transformers` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import hf
from tests.tasks.toy_tasks import cpu, options, reviews
from tests.training.finetuning.toy_families import family, logits
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.predict import load_predictor

pytestmark = hf.needs_torch
# "!" is the token 0 of the toy GPT-2, as of the real one.
TEXTS = ["a good day", "the film is very bad and sad", "it was!"]


def trained(place: Path, model: Path, **more: Any) -> str:
    """The run directory of a step or two from a model."""
    # So fast that the head tells texts apart after two steps.
    fit = {"epochs": 1, "head_lr": 0.1}
    reviews(place / "train.csv", 24)
    given = {"train": str(place / "train.csv"), "pooling": "cls", "tokenizer": None}
    return finetune(options(place, model=str(model), **{**given, **fit, **more}), cpu()).run_dir


def same_numbers(run: str, target: Path, architecture: str, texts: Any = TEXTS) -> Any:
    """Export a run; `transformers`, the run and the export give the same logits."""
    save(load(run), str(target), "hf")
    theirs = hf.load(architecture, target)
    expected = logits(theirs, target, texts)
    for path in (run, str(target)):
        predictor = load_predictor(path)
        found = predictor.logits(predictor.rows(texts))
        np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=2e-5, err_msg=path)
    assert np.ptp(np.stack(expected), axis=0).max() > 1e-3  # the texts are told apart
    return theirs


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("DistilBert", "Model"),
        ("Electra", "Model"),
        ("Albert", "ForMaskedLM"),
        ("Roberta", "ForMaskedLM"),
        # With a pooler, as models that give vectors of sentences.
        ("XLMRoberta", "Model"),
        ("MPNet", "Model"),
        ("ModernBert", "Model"),
        ("GPT2", "LMHeadModel"),
    ],
)
def test_the_head_of_a_family_is_trained_and_written(start: str, end: str, tmp_path: Path) -> None:
    family(tmp_path / "theirs", start, end)
    pooling = "auto" if start == "GPT2" else "cls"
    run = trained(tmp_path, tmp_path / "theirs", pooling=pooling)
    model = same_numbers(run, tmp_path / "hf", f"{start}ForSequenceClassification")
    assert model.config.id2label == {0: "neg", 1: "pos"}
