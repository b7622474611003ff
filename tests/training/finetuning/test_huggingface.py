"""A fine-tuned run as a HuggingFace model: transformers gives its numbers, and it is read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tasks.test_docs import toy_bert
from tests.tasks.toy_tasks import WORDS, cpu, options, reviews, tags
from tpu_tlm.convert import main as convert
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.predict import load_predictor

TEXTS = ["a good day", "the film is very bad and awful", "it was"]


def written(place: Path, name: str, **more: object) -> tuple[str, str]:
    """(run directory, HuggingFace directory) of a fine-tuned toy BERT."""
    result = finetune(
        options(
            place,
            model=str(place / "bert"),
            tokenizer=None,
            epochs=1,
            buckets=1,
            run_dir=str(place / name),
            **more,
        ),
        cpu(),
    )
    target = str(place / f"{name}-hf")
    assert convert([result.run_dir, target, "--to", "hf"]) == 0
    return result.run_dir, target


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hf")
    toy_bert(directory, directory / "bert")
    reviews(directory / "train.csv", 48)
    tags(directory / "tags.conll", 24)
    return directory


def test_a_classifier_s_logits_are_transformers_own(place: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run, target = written(place, "classify", train=str(place / "train.csv"))
    config = json.loads((Path(target) / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "neg", "1": "pos"}
    model = AutoModelForSequenceClassification.from_pretrained(target).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    with torch.no_grad():
        theirs = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    ours = load_predictor(run)
    rows = ours.rows(TEXTS)
    np.testing.assert_allclose(np.stack(ours.logits(rows)), theirs, atol=1e-4)
    back = load_predictor(target)
    np.testing.assert_allclose(np.stack(back.logits(rows)), theirs, atol=1e-4)
    assert [p.guess for p in back(TEXTS)] == [p.guess for p in ours(TEXTS)]


def test_a_tagger_s_logits_are_transformers_own(place: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    run, target = written(place, "tag", train=str(place / "tags.conll"), task="tag")
    model = AutoModelForTokenClassification.from_pretrained(target).eval()
    tokenizer = AutoTokenizer.from_pretrained(target)
    text = "John is in Paris"
    with torch.no_grad():
        theirs = model(**tokenizer(text, return_tensors="pt")).logits[0].numpy()
    ours, back = load_predictor(run), load_predictor(target)
    (logits,) = ours.logits(ours.rows([text]))
    assert len(logits) == 4
    np.testing.assert_allclose(logits[0], theirs[1], atol=1e-4)
    np.testing.assert_allclose(back.logits(back.rows([text]))[0], logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
def test_a_head_with_a_norm_predicts(kind: str, place: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "max_position_embeddings": 24, "local_attention": 8}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.ModernBertConfig(
        vocab_size=len(WORDS),
        classifier_pooling="mean",
        id2label={0: "a", 1: "b", 2: "c"},
        **{**sizes, **ids, "cls_token_id": 2, "sep_token_id": 3},
    )
    model = getattr(transformers, f"ModernBertFor{kind}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    predictor = load_predictor(str(tmp_path))
    (logits,) = predictor.logits(predictor.rows(["the film is good"]))
    tokens = [2, *(WORDS.index(word) for word in "the film is good".split()), 3]
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([tokens])).logits[0].numpy()
    if kind == "TokenClassification":
        expected = expected[1:-1]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_head_that_has_no_form_elsewhere_is_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(place, "hidden", train=str(place / "train.csv"), hidden=[8])
    assert "head of the fine-tuned run is left out" in capsys.readouterr().out
