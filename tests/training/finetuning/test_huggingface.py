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


def test_training_ends_with_the_weights_of_pytorch(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, on the same batches: loss, clipping, decay, schedule and AdamW together."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    from tpu_tlm.models.layers.variables import named_variables
    from tpu_tlm.training.finetuning.run import FinetuneRun

    begun: list[tuple[FinetuneRun, np.ndarray]] = []
    original = FinetuneRun.__init__

    def watched(self: FinetuneRun, *given: object) -> None:
        original(self, *given)
        begun.append((self, named_variables(self.step.model)["task/out/kernel"].numpy()))

    monkeypatch.setattr(FinetuneRun, "__init__", watched)
    # So small that it does not matter whether it is added before the correction of v or after it.
    fit = {"lr": 2e-2, "warmup": 0.5, "weight_decay": 0.1, "clip": 0.5, "eps": 1e-12}
    same = {"batch_size": 8, "dropout": 0.0, "head_dropout": 0.0, "pooling": "cls"}
    _, target = written(place, "trajectory", train=str(place / "train.csv"), **fit, **same)
    ((run, kernel),) = begun

    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForSequenceClassification.from_pretrained(
        place / "bert", num_labels=2, classifier_dropout=0.0, **none
    )
    with torch.no_grad():
        model.classifier.weight.copy_(torch.tensor(kernel.T))
        model.classifier.bias.zero_()
    bare = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if n.endswith(bare) == alone],
            "weight_decay": 0.0 if alone else fit["weight_decay"],
        }
        for alone in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=fit["lr"], eps=fit["eps"])
    steps = len(run.plan.order)
    warm = int(fit["warmup"] * steps)
    assert steps >= 4 and warm >= 2
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: (k + 1) / warm if k + 1 < warm else (steps - 1 - k) / (steps - warm),
    )
    before = {n: v.clone() for n, v in model.state_dict().items()}
    model.train()
    arrays = run.buckets[0].arrays
    for rows in run.plan.rows[0]:
        rows = rows[rows >= 0]
        ids = torch.tensor(arrays["x"][rows], dtype=torch.long)
        label = torch.tensor(arrays["label"][rows], dtype=torch.long)
        model(ids, attention_mask=(ids != run.prepared.spec.pad_id), labels=label).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), fit["clip"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    ours = AutoModelForSequenceClassification.from_pretrained(target).state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("key.bias"):  # no gradient reaches it, and Adam enlarges rounding errors
            continue
        moved = float((value - before[name]).abs().max())
        np.testing.assert_allclose(ours[name], value, atol=max(1e-5, 2e-3 * moved), err_msg=name)
