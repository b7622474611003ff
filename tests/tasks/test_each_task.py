"""Every task from a file to predictions for new text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tpu_tlm as tlm
from tests.tasks.toy_tasks import BAD, GOOD, cpu, options, sentence, toy_model
from tpu_tlm.errors import UsageError
from tpu_tlm.training.finetuning.finetune import FinetuneResult, finetune
from tpu_tlm.training.finetuning.predict import TaskPredictor, load_predictor, predicted_lines


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    toy_model(directory)
    return directory


def lines(path: Path, records: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def trained(
    place: Path, name: str, records: list[dict[str, object]], **more: object
) -> tuple[FinetuneResult, TaskPredictor]:
    train = lines(place / f"{name}.jsonl", records)
    where = {"train": train, "run_dir": str(place / name)}
    result = finetune(options(place, lr=1e-2, epochs=8, buckets=2, **where, **more), cpu())
    return result, load_predictor(result.run_dir)


def test_classify_predicts_the_same_alone_and_in_company(place: Path) -> None:
    rng = np.random.default_rng(0)
    records = [{"text": sentence(rng, [GOOD, BAD][i % 2]), "label": i % 2} for i in range(160)]
    result, predictor = trained(place, "classify", records, class_weights="balanced")
    assert result.valid["accuracy"] > 0.8
    texts = ["a good day", "the film is very awful and poor", "it was happy"]
    found = predictor(texts)
    assert [f.guess for f in found] == ["0", "1", "0"]
    for text, one in zip(texts, found, strict=True):
        assert predictor([text])[0].probability == pytest.approx(one.probability, abs=1e-5)
        assert sum(one.scores.values()) == pytest.approx(1.0)
    shown = [
        json.loads(x) for x in predicted_lines("classify", result.run_dir, texts, as_json=True)
    ]
    assert [x["guess"] for x in shown] == ["0", "1", "0"]
    # The Python face gives what the command prints.
    face = tlm.load_predictor(place / "classify", batch_size=2)
    assert face.batch == 2
    for line, one in zip(shown, face(texts), strict=True):
        assert line["text"] == one.text and line["guess"] == one.guess
        assert line["scores"] == pytest.approx(one.scores, abs=1e-5)
    # The predictions in the run directory are those of the predictor.
    stored = [json.loads(x) for x in (place / "classify/predictions.jsonl").open()]
    again = predictor([line["text"] for line in stored])
    for line, one in zip(stored, again, strict=True):
        assert line["guess"] == one.guess
        assert line["probability"] == pytest.approx(one.probability, abs=1e-5)
    with pytest.raises(UsageError, match="predict classify"):
        list(predicted_lines("tag", result.run_dir, texts, as_json=False))
    with pytest.raises(UsageError, match="text 2"):
        predictor(["a", " "])


def valid_report(run_dir: str) -> dict[str, Any]:
    """What the run's report says of the valid data."""
    found: dict[str, Any] = json.loads((Path(run_dir) / "report.json").read_text())["valid"]
    return found


def guesses(report: dict[str, Any]) -> int:
    """How many guesses the calibration counts; each certainty is a probability."""
    bins = report["calibration"]["bins"]
    assert all(0 <= bin["confidence"] <= 1 and 0 <= bin["accuracy"] <= 1 for bin in bins)
    return int(sum(bin["count"] for bin in bins))


def test_multilabel(place: Path) -> None:
    rng = np.random.default_rng(1)
    records: list[dict[str, object]] = []
    for i in range(200):
        has = [kind for bit, kind in enumerate(("good", "bad")) if i >> bit & 1]
        parts = [sentence(rng, {"good": GOOD, "bad": BAD}[kind], 5) for kind in has]
        records.append({"text": " ".join([*parts, "the film"]), "label": has})
    result, predictor = trained(place, "multilabel", records, task="multilabel", pooling="max")
    assert result.valid["micro_f1"] > 0.8
    found = predictor(["a good film and a sad day", "the film"])
    assert found[0].guess == ["bad", "good"] and found[1].guess == []
    report = valid_report(result.run_dir)
    assert guesses(report) == 2 * report["examples"]  # of each text, whether it has each label


@pytest.mark.parametrize("encoder", ["joint", "shared"])
def test_pairs(place: Path, encoder: str) -> None:
    rng = np.random.default_rng(2)
    records: list[dict[str, object]] = []
    for _ in range(240):
        first, second = rng.integers(0, 2), rng.integers(0, 2)
        records.append(
            {
                "text": sentence(rng, [GOOD, BAD][first], 4),
                "text2": sentence(rng, [GOOD, BAD][second], 4),
                "label": "pos" if first == 0 else "neg",
            }
        )
    result, predictor = trained(
        place, encoder, records, task="pair", pair_encoder=encoder, pooling="max", hidden=[32]
    )
    (found,) = predictor([("a good day", "the great film")])
    assert found.text2 == "the great film" and found.guess in ("pos", "neg")
    if encoder == "shared":  # only the first text counts
        assert result.valid["accuracy"] > 0.7
        swapped = predictor([("a bad day", "a good day"), ("a good day", "a bad day")])
        assert [p.guess for p in swapped] == ["neg", "pos"]
    with pytest.raises(UsageError, match="text 1"):
        predictor(["one text"])
    (line,) = predicted_lines(
        "classify", result.run_dir, ["a good day\tthe bad day"], as_json=False
    )
    assert "%" in line


def test_regress(place: Path) -> None:
    rng = np.random.default_rng(3)
    records: list[dict[str, object]] = []
    for _ in range(200):
        number = int(rng.integers(0, 5))
        text = " ".join(["the film", *rng.choice(GOOD, number)])
        records.append({"text": text, "label": 100.0 + 10.0 * number})
    result, predictor = trained(place, "regress", records, task="regress")
    assert result.valid["spearman"] > 0.8
    low, high = predictor(["the film", "the film good good great fine"])
    assert 80 < low.guess < high.guess < 160 and low.probability is None
    assert "calibration" not in valid_report(result.run_dir)
    (line,) = predicted_lines("score", result.run_dir, ["the film"], as_json=False)
    assert float(line.split("\t")[0]) == pytest.approx(low.guess, abs=1e-3)


def test_tag(place: Path) -> None:
    rng = np.random.default_rng(4)
    records: list[dict[str, object]] = []
    for _ in range(150):
        words = str(sentence(rng, ["Paris", "John", "runs"], 8)).split()
        kinds = {"Paris": "B-LOC", "John": "B-PER"}
        records.append({"text": words, "label": [kinds.get(w, "O") for w in words]})
    result, predictor = trained(place, "tag", records, task="tag", max_length=8)
    assert result.metric == "entity_f1" and result.valid["entity_f1"] > 0.9
    report = valid_report(result.run_dir)
    words = sum(map(sum, report["confusion"]))
    assert guesses(report) == words > report["examples"]
    right = sum(bin["count"] * bin["accuracy"] for bin in report["calibration"]["bins"])
    assert right == pytest.approx(sum(report["confusion"][i][i] for i in range(3)))
    # Longer than a window, and words of several pieces: a tag for every word.
    text = "John runs and runs and it was a day in Paris the film is very day"
    (found,) = predictor([text])
    assert len(found.guess) == len(text.split()) == len(found.probability)
    assert found.guess[0] == "B-PER" and found.guess[10] == "B-LOC"
    (line,) = predicted_lines("tag", result.run_dir, [text], as_json=False)
    assert line.startswith("John/B-PER runs/O")


def test_windows_of_a_long_text_are_averaged(place: Path) -> None:
    rng = np.random.default_rng(5)
    records = [{"text": sentence(rng, [GOOD, BAD][i % 2], 30), "label": i % 2} for i in range(120)]
    result, predictor = trained(place, "windows", records, max_length=10, stride=2)
    text = " ".join(["the film is very day"] * 4)
    rows = predictor.rows([text])
    examples = predictor.framer(rows)
    assert len(examples.ids) > 1
    (joined,) = predictor.logits(rows)
    parts = [predictor.logits(predictor.rows([" ".join(["day"] * 3)]))[0]]
    assert joined.shape == parts[0].shape
    assert result.valid["accuracy"] > 0.5


@pytest.mark.parametrize("pooling", ["cls", "max", "sqrt", "last", "2ha", "attention"])
def test_every_pooling_trains(place: Path, pooling: str) -> None:
    rng = np.random.default_rng(6)
    records = [{"text": sentence(rng, [GOOD, BAD][i % 2]), "label": i % 2} for i in range(48)]
    train = lines(place / "pooling.jsonl", records)
    result = finetune(
        options(
            place, train=train, pooling=pooling, epochs=1, buckets=1, run_dir=str(place / pooling)
        ),
        cpu(),
    )
    assert np.isfinite(result.valid["loss"])
    assert load_predictor(result.run_dir)(["a good day"])[0].guess in "01"


def test_unfinished_and_other_directories_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="run"):
        load_predictor(str(place))
    with pytest.raises(UsageError, match="run"):
        tlm.load_predictor(place)
