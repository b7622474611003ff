"""Entities by conlleval's rules, scheme errors, and metrics against hand-made values."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tpu_tlm.tasks.classify import Classify
from tpu_tlm.tasks.entities import (
    Entity,
    broken,
    entities,
    entity_counts,
    f1,
    scheme_in,
    scheme_of,
)
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.metrics import bootstrap, calibration, improves, metrics_of, per_class
from tpu_tlm.tasks.read import Row
from tpu_tlm.training.finetuning.prepare import Split, _check_schemes
from tpu_tlm.training.finetuning.results import split_report


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-LOC I-LOC O", [("LOC", 0, 2)]),
        ("B-LOC B-LOC", [("LOC", 0, 1), ("LOC", 1, 2)]),
        ("I-LOC I-LOC O I-PER", [("LOC", 0, 2), ("PER", 3, 4)]),  # IOB1, or broken IOB2
        ("B-LOC I-PER", [("LOC", 0, 1), ("PER", 1, 2)]),
        ("S-LOC B-PER I-PER E-PER S-PER", [("LOC", 0, 1), ("PER", 1, 4), ("PER", 4, 5)]),
        ("U-LOC B-PER L-PER", [("LOC", 0, 1), ("PER", 1, 3)]),
        ("E-LOC E-LOC", [("LOC", 0, 1), ("LOC", 1, 2)]),
        ("O O", []),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
    ],
)
def test_spans(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == [Entity(*entity) for entity in found]


def test_schemes() -> None:
    assert scheme_of(["B-LOC", "I-LOC", "O"]) == "IOB"
    assert scheme_of(["B-LOC", "S-LOC", "O"]) == "IOBES"
    assert scheme_of(["NN", "VB"]) is None
    assert scheme_of(["B-LOC", "NN"]) is None


@pytest.mark.parametrize(
    ("tags", "scheme", "wrong"),
    [
        ("B-X I-X O", "IOB", []),
        ("O I-X", "IOB", [1]),
        ("B-X I-Y", "IOB", [1]),
        ("B-X E-X S-Y", "IOBES", []),
        ("B-X O", "IOBES", [0]),
        ("B-X I-X", "IOBES", [1]),
        ("E-X", "IOBES", [0]),
        ("I-X B-X I-Y O I-X", "IOB1", []),
        ("B-X I-X O", "IOB1", [0]),
        ("I-X B-Y", "IOB1", [1]),
    ],
)
def test_scheme_errors(tags: str, scheme: str, wrong: list[int]) -> None:
    assert broken(tags.split(), scheme) == wrong


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["I-X I-X O", "O I-Y B-Y"], "IOB1"),
        (["B-X I-X", "O O"], "IOB"),
        (["B-X I-X", "O I-X"], "IOB"),  # IOB2 with an error
        (["B-X E-X", "S-X"], "IOBES"),
        (["NN VB"], None),
    ],
)
def test_the_scheme_of_sentences(sentences: list[str], scheme: str | None) -> None:
    assert scheme_in([one.split() for one in sentences]) == scheme


def test_iob1_is_said_and_errors_name_the_lines_of_their_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def row(tags: str, line: int) -> Row:
        own = tags.split()
        return Row(["w"] * len(own), None, own, line, tuple(range(line, line + len(own))))

    _check_schemes([([row("I-X O I-Y", 1)], "train"), ([row("O B-X", 7)], "valid")])
    said = capsys.readouterr().out
    assert "train: the tags are IOB1" in said and "valid: 1 sentences" in said
    assert "IOB1 does not allow" in said and "lines 8)" in said and "warning: train" not in said
    _check_schemes([([row("B-X I-X", 1), row("O O I-X", 5)], "train")])
    assert "train: 1 sentences have tags that IOB does not" in (out := capsys.readouterr().out)
    assert "lines 7)" in out


@pytest.mark.parametrize("metric", ["macro_f1", "loss", "auc"])
def test_the_interval_is_of_the_metric_that_was_chosen(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = functools.partial(bootstrap, times=40)
    monkeypatch.setattr("tpu_tlm.tasks.metrics.bootstrap", few)
    task, rng = Classify(["a", "b"]), np.random.default_rng(0)
    rows = [Row("t", None, "ab"[i % 2], i) for i in range(60)]
    outputs = list(rng.normal(0, 1, (60, 2)).astype(np.float32))
    none = np.zeros(0, np.int64)
    split = Split("test", rows, Examples([], None, None, none, None, 60, 0))
    found = split_report(task, split, outputs, 0, interval=metric)
    low, high = found["interval"]["low_high"]
    assert found["interval"]["metric"] == metric
    assert low < found["metrics"][metric] < high and high - low < 0.5


def test_entity_f1() -> None:
    gold = [["B-X", "I-X", "O", "B-Y"], ["B-Y"]]
    guess = [["B-X", "O", "O", "B-Y"], ["O"]]
    assert entity_counts(gold, guess) == {"X": (0, 1, 1), "Y": (1, 1, 2)}
    assert f1(1, 2, 3) == pytest.approx((0.5, 1 / 3, 0.4))
    found = metrics_of("tag", ["B-X", "B-Y", "I-X", "O"], gold, guess, None)
    assert found["entity_f1"] == pytest.approx(0.4)
    assert found["accuracy"] == pytest.approx(3 / 5)


def test_classification_metrics() -> None:
    labels = ["a", "b"]
    gold, guess = ["a", "a", "b", "b"], ["a", "b", "b", "b"]
    p = [np.array(x) for x in ([0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7])]
    found = metrics_of("classify", labels, gold, guess, p)
    assert found["accuracy"] == 0.75 and found["auc"] == 1.0
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["matthews"] == pytest.approx(1 / 3**0.5)
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.7]).mean())
    table = {row["label"]: row for row in per_class("classify", labels, gold, guess)}
    assert table["b"]["precision"] == pytest.approx(2 / 3) and table["a"]["count"] == 2
    # One class only: no AUC, and no error.
    assert np.isnan(metrics_of("classify", labels, ["a"], ["a"], p[:1])["auc"])


def test_regression_and_multilabel_metrics() -> None:
    found = metrics_of("regress", [], [1.0, 2.0, 3.0], [1.0, 3.0, 5.0], None)
    assert found["pearson"] == pytest.approx(1.0) and found["mean_absolute_error"] == 1.0
    assert np.isnan(metrics_of("regress", [], [1.0, 1.0], [1.0, 2.0], None)["pearson"])
    p = [np.array([0.9, 0.2]), np.array([0.4, 0.8])]
    found = metrics_of("multilabel", ["x", "y"], [["x"], ["x", "y"]], [["x"], ["y"]], p)
    assert found["exact_match"] == 0.5 and found["micro_f1"] == pytest.approx(0.8)


def test_which_value_is_better() -> None:
    assert improves("accuracy", 0.5, None) and improves("accuracy", 0.6, 0.5)
    assert improves("loss", 0.4, 0.5) and not improves("loss", 0.6, 0.5)
    assert not improves("accuracy", float("nan"), 0.1) and improves("accuracy", 0.1, float("nan"))


def test_calibration_and_bootstrap() -> None:
    right = np.array([1.0, 1.0, 0.0, 1.0])
    table, error = calibration(right, np.array([0.95, 0.95, 0.55, 1.0]))
    assert [row["count"] for row in table] == [1, 3] and table[1]["accuracy"] == 1.0
    assert error == pytest.approx(0.25 * 0.55 + 0.75 * (1 - 2.9 / 3))
    values = np.arange(100) < 80
    low, high = bootstrap(lambda i: float(values[i].mean()), 100, seed=0)
    assert 0.70 < low < 0.76 and 0.84 < high < 0.90
    assert (low, high) == bootstrap(lambda i: float(values[i].mean()), 100, seed=0)


@pytest.mark.parametrize("metric", ["accuracy", "entity_f1", "entity_recall", "macro_f1"])
def test_resampled_metrics_are_those_of_the_chosen_examples(metric: str) -> None:
    from tpu_tlm.tasks.tag import Tag
    from tpu_tlm.training.finetuning.results import _resampled

    labels = ["B-X", "B-Y", "I-X", "O"]
    rng = np.random.default_rng(0)
    gold = [[labels[i] for i in rng.integers(0, 4, 6)] for _ in range(20)]
    guess = [[labels[i] for i in rng.integers(0, 4, 6)] for _ in range(20)]
    index = rng.integers(0, 20, 20)
    some = [gold[i] for i in index], [guess[i] for i in index]
    expected = metrics_of("tag", labels, *some, None)[metric]
    found = _resampled(Tag(labels), metric, gold, guess, gold)(index)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("classes", [None, np.array([0.5, 2.0])])
def test_words_count_alike_in_batches_of_short_and_of_long_sentences(
    classes: np.ndarray | None,
) -> None:
    import tensorflow as tf

    from tpu_tlm.tasks.examples import Examples
    from tpu_tlm.tasks.read import Row
    from tpu_tlm.tasks.tag import Tag

    task, sizes = Tag(["A", "B"], classes), (2, 2, 6, 6)
    rows = [Row("", None, ["A", "B"] * (size // 2), i) for i, size in enumerate(sizes)]
    ids = [np.arange(size, dtype=np.int32) for size in sizes]
    examples = Examples(ids, None, None, np.arange(4), list(ids), 4, 0)
    targets = task.targets(rows, examples)
    short, long = (
        task.loss(
            tf.zeros([2, sizes[at[0]], 2]),
            {
                "label": tf.constant(np.stack([targets["label"][i] for i in at])),
                "weight": tf.constant(targets["weight"][at]),
            },
        )
        for at in ([0, 1], [2, 3])
    )
    assert float(short.weight) == float(long.weight), "one divisor, so a word is a word"
    assert float(long.loss) == pytest.approx(3 * float(short.loss))
    # Over an epoch the divisors are the labels, so the reported loss is that of a word.
    mean = 1.0 if classes is None else classes.mean()
    assert float(short.weight + long.weight) == pytest.approx(sum(sizes) * mean)
