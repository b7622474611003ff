"""Classification heads of each family: trained, written, and read as `transformers` has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import hf
from tests.tasks.toy_tasks import cpu, options, reviews, tags, toy_model
from tests.training.finetuning.toy_families import LABELS, family, logits
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import DENSE
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save
from tpu_tlm.tasks.examples import Framer
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.read import Row
from tpu_tlm.training.finetuning.finetune import finetune
from tpu_tlm.training.finetuning.predict import load_predictor, predicted_lines

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


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_of_one_s_own_without_a_pooler_is_a_bert(frozen: bool, tmp_path: Path) -> None:
    """And its new dense layer learns where the encoder does not."""
    config = {"transformer_type": "post-layer-norm", "embeddings_reduction": "sum-layer-norm"}
    toy_model(tmp_path, mlm_head="bert", output_bias=True, num_layers=1, weight_std=0.6, **config)
    own = str(tmp_path / "tokenizer")
    run = trained(tmp_path, tmp_path / "model.npz", tokenizer=own, finetune=not frozen)
    assert load(run).extras["pooler/bias"].any()
    same_numbers(run, tmp_path / "hf", "BertForSequenceClassification")


@pytest.mark.parametrize("start", ["Roberta", "ModernBert", "GPT2"])
def test_a_tagger_reads_running_text(start: str, tmp_path: Path) -> None:
    """Words inside a sentence are split with the space before them, and ModernBERT's tags have its
    dense layer and norm."""
    ends = {"GPT2": "LMHeadModel"}
    family(tmp_path / "theirs", start, ends.get(start, "ForMaskedLM"))
    tags(tmp_path / "tags.conll", 24)
    given = {"task": "tag", "train": str(tmp_path / "tags.conll"), "pooling": "auto"}
    run = trained(tmp_path, tmp_path / "theirs", **given)
    save(load(run), str(tmp_path / "hf"), "hf")
    model = hf.load(f"{start}ForTokenClassification", tmp_path / "hf")
    text = "John is in the film bad Paris"
    (expected,), at = logits(model, tmp_path / "hf", [text]), first_pieces(tmp_path / "hf", text)
    assert len(at) == 7 and at[-1] - at[0] > 6  # some words have several pieces
    for path in (run, str(tmp_path / "hf")):
        predictor = load_predictor(path)
        (found,) = predictor.logits(predictor.rows([text]))
        np.testing.assert_allclose(found, expected[at], atol=2e-5, err_msg=path)


def first_pieces(path: Path, text: str) -> list[int]:
    """Where the first piece of each word stands, as `transformers` splits the whole text."""
    from transformers import AutoTokenizer

    given = AutoTokenizer.from_pretrained(str(path))(text, return_offsets_mapping=True)
    begins = [i for i in range(len(text)) if i == 0 or text[i - 1] == " "]
    # The piece of a word may begin with the space before it.
    return [
        next(n for n, (a, b) in enumerate(given["offset_mapping"]) if b > a and a <= i < b)
        for i in begins
    ]


PAIRS = [("a good day", "the film is bad"), ("it was", "a very sad house"), ("John", "Paris")]


@pytest.mark.parametrize("start", ["Bert", "Roberta", "MPNet", "ModernBert", "T5"])
def test_pairs_stand_as_the_family_s_tokenizer_has_them(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of another program takes texts and pairs; T5 has one end between the texts."""
    model = family(tmp_path, start, "ForSequenceClassification", **LABELS)
    predictor = load_predictor(str(tmp_path))
    mixed = [TEXTS[0], *PAIRS]
    found = predictor.logits(predictor.rows(mixed))
    expected = logits(model, tmp_path, mixed)
    np.testing.assert_allclose(np.stack(found), np.stack(expected), atol=1e-4)
    joined = logits(model, tmp_path, [" ".join(PAIRS[0])])
    assert np.abs(joined[0] - expected[1]).max() > 1e-3
    if start == "Bert":
        lines = list(
            predicted_lines("classify", str(tmp_path), ["\t".join(PAIRS[0])], as_json=True)
        )
        assert '"text2": "the film is bad"' in lines[0]
        assert "with a tab are read as pairs" in capsys.readouterr().err
        with pytest.raises(UsageError, match="text 1: needs two texts with a tab"):
            list(predicted_lines("classify", str(tmp_path), ["a\tb\tc"], as_json=True))


def test_an_exported_run_knows_whether_it_takes_pairs(tmp_path: Path) -> None:
    family(tmp_path / "theirs", "Bert", "ForMaskedLM")
    # As in older files: token types are asked for in the export.
    settings = json.loads((tmp_path / "theirs" / "tokenizer_config.json").read_text())
    del settings["model_input_names"]
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(settings))
    words = "the film day it was is very and house tree".split()
    rows = [f"{a} {b}\t{b}\t{'yes' if a < b else 'no'}" for a in words for b in words[:3]]
    (tmp_path / "pairs.tsv").write_text("\n".join(["text\ttext2\tlabel", *rows]) + "\n")
    given = {"task": "pair", "train": str(tmp_path / "pairs.tsv"), "valid_share": 0.4}
    run = trained(tmp_path, tmp_path / "theirs", **given)
    same_numbers(run, tmp_path / "hf", "BertForSequenceClassification", PAIRS)
    predictor = load_predictor(str(tmp_path / "hf"))
    assert predictor.task.name == "pair"
    with pytest.raises(UsageError, match="text 1: this model takes pairs of texts"):
        predictor(["a good day"])
    # Of single texts: a pair is refused, not made one text.
    single = load(run).classifier
    assert single is not None
    changed = load(run).replaced(classifier=type(single)(**{**vars(single), "pairs": False}))
    save(changed, str(tmp_path / "single"), "hf")
    with pytest.raises(UsageError, match="text 2: this model takes single texts, no pairs"):
        load_predictor(str(tmp_path / "single"))(["a good day", ("a", "b")])


@pytest.mark.parametrize("start", ["GPT2", "Roberta"])
def test_texts_of_several_lines(start: str, tmp_path: Path) -> None:
    """Byte-level BPE has a token for a line break; GPT-2 pools the last one of the text."""
    model = family(tmp_path, start, "ForSequenceClassification", **LABELS)
    texts = [
        "the film\n\nis bad\r\nand sad!",
        "it was!",
        "a good day\n",
        "the film is bad and sad!",
    ]
    predictor = load_predictor(str(tmp_path))
    found = predictor.logits(predictor.rows(texts))
    np.testing.assert_allclose(np.stack(found), np.stack(logits(model, tmp_path, texts)), atol=1e-4)


def test_a_long_text_is_read_as_far_as_the_model_reads(tmp_path: Path) -> None:
    model = family(tmp_path, "GPT2", "ForSequenceClassification", **LABELS, n_positions=800)
    text = "the film is good " * 150 + "bad"
    predictor = load_predictor(str(tmp_path))
    (found,) = predictor.logits(predictor.rows([text]))
    (expected,) = logits(model, tmp_path, [text])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len(predictor.framer(predictor.rows([text])).ids[0]) > 512


def test_a_word_with_the_id_of_padding_is_pooled(tmp_path: Path) -> None:
    """GPT-2 without a padding token: by finetune's layer and by embed, as by its hidden states."""
    import torch
    from transformers import AutoTokenizer

    from tpu_tlm.inference.model import Model
    from tpu_tlm.training.finetuning.embed import Embedder
    from tpu_tlm.training.finetuning.layer import load_encoder
    from tpu_tlm.training.finetuning.source import load_source

    model = family(tmp_path, "GPT2", "Model")
    text = "it was! bad!"
    ids = AutoTokenizer.from_pretrained(str(tmp_path))(text)["input_ids"]
    assert ids.count(0) == 2
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    layer = load_encoder(str(tmp_path), pooling="last", max_length=24)
    np.testing.assert_allclose(layer(np.array([text])).numpy()[0], hidden[-1], atol=1e-4)
    (vector,) = Embedder(load_source(str(tmp_path)))([text])
    np.testing.assert_allclose(vector, hidden.mean(0), atol=1e-4)
    # `encode` frames a text as the lines that a causal model is trained on, with an end.
    with torch.no_grad():
        hidden = model(torch.tensor([[*ids, model.config.eos_token_id]])).last_hidden_state[0]
    (vector,) = Model(load(str(tmp_path))).encode([text])
    np.testing.assert_allclose(vector, hidden.mean(0).numpy(), atol=1e-4)


def test_a_regression_of_several_numbers_is_refused(tmp_path: Path) -> None:
    family(tmp_path, "Bert", "ForSequenceClassification", problem_type="regression", num_labels=3)
    with pytest.raises(UsageError, match="regression of 3 numbers"):
        load_predictor(str(tmp_path))


def test_a_head_that_a_family_has_not_is_not_written(tmp_path: Path) -> None:
    family(tmp_path, "Roberta", "ForSequenceClassification", **LABELS)
    saved = load(str(tmp_path))
    with pytest.raises(UsageError, match="electra model has another head.*gelu.*tanh"):
        save(saved, str(tmp_path / "out"), "hf", family="electra")
    less = {n: a for n, a in saved.extras.items() if n != "classifier/dense/kernel"}
    with pytest.raises(UsageError, match="head has no classifier/dense/kernel"):
        save(saved.replaced(extras=less), str(tmp_path / "out"), "hf")
    # The same layers under the names of another family.
    save(saved, str(tmp_path / "bert"), "hf", family="bert")
    bert = load(str(tmp_path / "bert"))
    np.testing.assert_array_equal(bert.extras["pooler/kernel"], saved.extras[DENSE + "/kernel"])


def test_a_run_whose_head_the_family_has_not_is_written_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family(tmp_path / "theirs", "ModernBert", "Model")
    run = trained(tmp_path, tmp_path / "theirs", pooling="last")
    saved = load(run)
    assert saved.classifier is None and not set(saved.extras) & {"classifier/kernel"}
    assert any("head of the fine-tuned run is left out" in note for note in saved.notes)
    save(saved, str(tmp_path / "hf"), "hf")
    hf.load("ModernBertModel", tmp_path / "hf")


@pytest.mark.parametrize("start", ["GPT2", "T5"])
def test_a_run_of_an_earlier_version_reads_as_it_was_trained(start: str, tmp_path: Path) -> None:
    end = {"GPT2": "LMHeadModel", "T5": "ForConditionalGeneration"}[start]
    family(tmp_path, start, end)
    saved = load(str(tmp_path))
    tokenizer, rows = saved.tokenizer(), [Row("the\nfilm", "is", None, 1)]

    def ids(rules: int, pairs: str | None) -> str:
        found = Framer(saved.spec, tokenizer, pairs=pairs, rules=rules)(rows).ids[0]
        return " ".join(tokenizer.tokens[i] for i in found)

    if start == "T5":
        assert ids(1, "joint") == "the film </s> </s> is </s>"
        assert ids(2, "joint") == "the film </s> is </s>"
    else:
        assert ids(1, None) == "the \u0120film <|endoftext|>"
        assert ids(2, None).startswith("the \u010a") and "endoftext" not in ids(2, None)
    # The head of such a run has not the newer settings.
    older = HeadSpec(2, pooling="last").to_dict()
    for name in ("bias", "pooler_bias", "norm_bias", "fresh"):
        del older[name]
    assert HeadSpec.from_dict(older) == HeadSpec(2, pooling="last")
