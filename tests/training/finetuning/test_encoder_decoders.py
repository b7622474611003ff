"""Classifiers and taggers of encoder-decoder families: transformers' numbers, runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import hf
from tests.tasks.toy_tasks import WORDS, cpu, options, reviews, tags, toy_model
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.predict import main as predict
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.predict import load_predictor

pytestmark = hf.needs_torch
LABELS = {"id2label": {0: "neg", 1: "pos", 2: "so"}, "label2id": {"neg": 0, "pos": 1, "so": 2}}
# Of T5 padding is 0 and the end token 1, of BART 1 and 2.
SIZES: dict[str, dict[str, Any]] = {
    "T5": {
        **{"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2},
        **{"num_decoder_layers": 3, "decoder_start_token_id": 0},
    },
    "Bart": {
        **{"d_model": 16, "max_position_embeddings": 24, "encoder_layers": 2, "decoder_layers": 3},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
        **{"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None},
    },
}
SPECIAL = {"T5": ["<pad>", "</s>", "<unk>"], "Bart": ["<s>", "<pad>", "</s>", "<unk>"]}
TEXTS = ["a good day", "the film was very bad and awful it was a sad house", "Paris"]


def directory(path: Path, start: str, end: str, **config: Any) -> Any:
    """Write a random model of `transformers` with a tokenizer; returns the model."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(5)
    words = [*SPECIAL[start], *(word for word in WORDS if word.isalpha())]
    sizes = {**SIZES[start], **LABELS, **config, "vocab_size": len(words)}
    model = getattr(transformers, start + end)(getattr(transformers, f"{start}Config")(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(path)
    pipeline = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    pipeline.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    first = "<s> " if start == "Bart" else ""
    pipeline.post_processor = processors.TemplateProcessing(
        single=f"{first}$A </s>", special_tokens=[(w, words.index(w)) for w in SPECIAL[start]]
    )
    pipeline.add_special_tokens(SPECIAL[start])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=pipeline, **names)
    fast.save_pretrained(path)
    return model.eval()


def transformers_logits(model: Any, path: Path, texts: list[str]) -> np.ndarray:
    """Logits of a padded batch of texts."""
    import torch
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(path))
    given = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model(**given).logits.numpy()


def fine_tuned(tmp_path: Path, model: str, **more: Any) -> str:
    """The run directory of one epoch over a few reviews, from a model in `tmp_path`."""
    train = str(tmp_path / "train.csv")
    reviews(tmp_path / "train.csv", 24)
    given = options(
        tmp_path, model=str(tmp_path / model), tokenizer=None, train=train, epochs=1, **more
    )
    return finetune(given, cpu()).run_dir


@pytest.mark.parametrize("start", ["T5", "Bart"])
def test_predict_classify_gives_the_logits_of_transformers(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = directory(tmp_path / "theirs", start, "ForSequenceClassification")
    expected = transformers_logits(model, tmp_path / "theirs", TEXTS)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the texts are told apart
    predictor = load_predictor(str(tmp_path / "theirs"))
    found = np.stack(predictor.logits(predictor.rows(TEXTS)))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Written and read again, and by the command.
    save(load(str(tmp_path / "theirs")), str(tmp_path / "ours"), "hf")
    back = hf.load(f"{start}ForSequenceClassification", tmp_path / "ours")
    assert back.config.id2label == LABELS["id2label"]
    np.testing.assert_allclose(
        transformers_logits(back, tmp_path / "ours", TEXTS), expected, atol=1e-5
    )
    capsys.readouterr()
    assert predict(["classify", "--model", str(tmp_path / "ours"), "--json", "--text", *TEXTS]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    soft = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    scores = [[line["scores"][label] for label in ("neg", "pos", "so")] for line in lines]
    np.testing.assert_allclose(scores, soft, atol=1e-4)


def test_predict_tag_gives_the_logits_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = directory(tmp_path / "theirs", "T5", "ForTokenClassification")
    expected = transformers_logits(model, tmp_path / "theirs", TEXTS)
    predictor = load_predictor(str(tmp_path / "theirs"))
    found = predictor.logits(predictor.rows(TEXTS))
    for text, ours, theirs in zip(TEXTS, found, expected, strict=True):
        assert len(ours) == len(text.split())
        np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-4)
    capsys.readouterr()
    assert predict(["tag", "--model", str(tmp_path / "theirs"), "--text", TEXTS[0]]) == 0
    guess = [("neg", "pos", "so")[i] for i in expected[0].argmax(-1)]
    tagged = " ".join(f"{w}/{t}" for w, t in zip(TEXTS[0].split(), guess, strict=False))
    assert capsys.readouterr().out.strip() == tagged


def test_a_tagger_from_t5_is_one_of_transformers(tmp_path: Path) -> None:
    """Fine-tuned from an encoder-decoder, exported, and fine-tuned further as a tagger."""
    directory(tmp_path / "t5", "T5", "ForConditionalGeneration")
    tags(tmp_path / "tags.conll", 24)
    base = {"train": str(tmp_path / "tags.conll"), "task": "tag", "tokenizer": None, "epochs": 1}
    run = str(tmp_path / "run")
    finetune(options(tmp_path, model=str(tmp_path / "t5"), run_dir=run, **base), cpu())
    saved = load(run)
    assert saved.classifier is not None and saved.spec.kind == "embed"
    save(saved, str(tmp_path / "hf"), "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["T5ForTokenClassification"]
    assert sorted(config["id2label"].values()) == ["B-LOC", "B-PER", "O"]
    theirs = hf.load("T5ForTokenClassification", tmp_path / "hf")
    text = "John is in Paris"
    ours = load_predictor(run)
    (logits,) = ours.logits(ours.rows([text]))
    expected = transformers_logits(theirs, tmp_path / "hf", [text])[0]
    np.testing.assert_allclose(logits, expected[:4], atol=1e-4)
    again = finetune(
        options(tmp_path, model=str(tmp_path / "hf"), run_dir=str(tmp_path / "again"), **base),
        cpu(),
    )
    assert load(again.run_dir).family == "t5"


def test_the_encoder_of_a_classifier_is_fine_tuned_further(tmp_path: Path) -> None:
    """And written, without the head, which stands on the encoder."""
    directory(tmp_path / "t5", "T5", "ForSequenceClassification")
    saved = load(fine_tuned(tmp_path, "t5"))
    assert any("head of the fine-tuned run is left out" in note for note in saved.notes)
    save(saved, str(tmp_path / "hf"), "hf")
    hf.load("T5EncoderModel", tmp_path / "hf")
    assert load(str(tmp_path / "hf")).spec.kind == "embed"


@pytest.mark.parametrize(("start", "trained"), [("T5", True), ("T5", False), ("Bart", True)])
def test_a_head_on_the_decoder_is_one_of_transformers(
    start: str, trained: bool, tmp_path: Path
) -> None:
    """`--pooling decoder` trains what `...ForSequenceClassification` is."""
    directory(tmp_path / "theirs", start, "ForConditionalGeneration")
    before = load(str(tmp_path / "theirs")).values
    run = fine_tuned(tmp_path, "theirs", pooling="decoder", finetune=trained)
    saved = load(run)
    left = [p for p, v in saved.values.items() if np.array_equal(v, before[p])]
    # Encoder and decoder have both learned, or neither; the dense layer of the head always.
    assert len(left) == (0 if trained else len(saved.values))
    assert saved.extras["classifier/dense/bias"].any()
    save(saved, str(tmp_path / "hf"), "hf")
    theirs = hf.load(f"{start}ForSequenceClassification", tmp_path / "hf")
    assert theirs.config.id2label == {0: "neg", 1: "pos"}
    expected = transformers_logits(theirs, tmp_path / "hf", TEXTS)
    for path in (run, str(tmp_path / "hf")):
        predictor = load_predictor(path)
        logits = np.stack(predictor.logits(predictor.rows(TEXTS)))
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "more", "says"),
    [
        (None, {}, "pooling decoder: .*'mlm'.*encoder-decoder"),
        ("T5", {"layer_decay": 0.9}, "layer_decay.*pooling decoder"),
        ("T5", {"task": "tag"}, "pooling decoder: task tag"),
        ("T5", {}, "pooling decoder: the head reads the end token 2; texts end with 1"),
    ],
)
def test_where_there_is_no_such_head(
    start: str | None, more: dict[str, Any], says: str, tmp_path: Path
) -> None:
    reviews(tmp_path / "train.csv", 8)
    if start is None:
        model = toy_model(tmp_path)
    else:
        model = tmp_path / "theirs"
        directory(model, start, "ForConditionalGeneration")
        if not more:
            changed(model, eos_token_id=2)
        more = {**more, "tokenizer": None}
    chosen = options(tmp_path, model=str(model), train=str(tmp_path / "train.csv"))
    with pytest.raises(UsageError, match=says):
        finetune(chosen.changed(pooling="decoder", **more), cpu())


def changed(path: Path, **values: Any) -> None:
    """Change settings of config.json."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **values}))


def test_a_file_of_t5_1_1_of_older_versions_has_no_token_head(tmp_path: Path) -> None:
    directory(tmp_path, "T5", "ForSequenceClassification")
    expected = load(str(tmp_path))
    changed(tmp_path, tie_word_embeddings=False)
    found = load(str(tmp_path))
    assert found.classifier == expected.classifier and set(found.values) == set(expected.values)


@pytest.mark.parametrize("end", ["ForSequenceClassification", "ForConditionalGeneration"])
def test_a_bart_with_two_token_tables_is_refused(end: str, tmp_path: Path) -> None:
    """Untied, transformers computes with a table for the source and another for the target."""
    directory(tmp_path, "Bart", end, tie_word_embeddings=False)
    with pytest.raises(UsageError, match=r"config.json.*encoder.embed_tokens.weight differs"):
        load(str(tmp_path))


def test_texts_that_do_not_end_as_the_head_needs_are_refused(tmp_path: Path) -> None:
    directory(tmp_path, "T5", "ForSequenceClassification")
    changed(tmp_path, eos_token_id=2)
    with pytest.raises(UsageError, match="reads the end token 2; texts end with 1"):
        load_predictor(str(tmp_path))


@pytest.mark.parametrize(
    ("end", "named", "says"),
    [
        ("ForSequenceClassification", "T5ForTokenClassification", "has no array 'classifier"),
        ("EncoderModel", "T5ForSequenceClassification", "has no array 'decoder"),
        ("EncoderModel", "T5Model", "has no array 'decoder"),
    ],
)
def test_what_is_neither_encoder_nor_encoder_decoder_is_refused(
    end: str, named: str, says: str, tmp_path: Path
) -> None:
    directory(tmp_path, "T5", end)
    changed(tmp_path, architectures=[named])
    with pytest.raises(Exception, match=says) as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_head_on_the_wrong_half_is_not_written(tmp_path: Path) -> None:
    directory(tmp_path / "t5", "T5", "ForTokenClassification")
    directory(tmp_path / "whole", "T5", "ForConditionalGeneration")
    tagger, whole = load(str(tmp_path / "t5")), load(str(tmp_path / "whole"))
    mixed = whole.replaced(classifier=tagger.classifier, extras=tagger.extras)
    with pytest.raises(UsageError, match="token-classification has the encoder alone"):
        save(mixed, str(tmp_path / "out"), "hf")
