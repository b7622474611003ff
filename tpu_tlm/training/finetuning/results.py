"""What a fine-tuning run writes: predictions.jsonl and report.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from operator import eq
from typing import Any

import numpy as np

from tpu_tlm import __version__, filesystem
from tpu_tlm.tasks import metrics as scoring
from tpu_tlm.tasks.base import Task
from tpu_tlm.tasks.entities import entity_counts, f1
from tpu_tlm.tasks.labels import counts
from tpu_tlm.training.finetuning.prepare import Prepared, Split
from tpu_tlm.training.finetuning.run import Finished

PREDICTIONS, REPORT, PAGE = "predictions.jsonl", "report.json", "report.html"
# Examples in the report's list of errors.
WRONG = 20


def predictions(task: Task, split: Split, outputs: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """A line per row: text, gold, guess, probability (of the guess; of every label for
    multilabel; of every word's tag)."""
    lines = []
    for row, values in zip(split.rows, outputs, strict=True):
        guess, probabilities = task.decode(values)
        line: dict[str, Any] = {"line": row.line, "text": row.text}
        if row.text2 is not None:
            line["text2"] = row.text2
        line |= {"gold": task.gold(row), "guess": guess}
        if task.name == "multilabel":
            line["probability"] = {
                label: round(float(p), 6)
                for label, p in zip(task.labels, probabilities, strict=True)
            }
        elif task.name == "tag":
            line["probability"] = [round(float(p), 6) for p in probabilities.max(-1)]
        elif task.name != "regress":
            line["probability"] = round(float(probabilities.max()), 6)
        lines.append(line)
    return lines


def _errors(task: Task, lines: Sequence[dict[str, Any]], outputs: Sequence[np.ndarray]) -> list:
    """The most wrong examples: the least probability of the gold label, or the largest error."""
    scored = []
    for line, values in zip(lines, outputs, strict=True):
        gold, guess = line["gold"], line["guess"]
        if gold == guess:
            continue
        _, probabilities = task.decode(values)
        if task.name == "regress":
            wrong = abs(gold - guess)
        elif task.name == "multilabel":
            y = np.array([label in gold for label in task.labels])
            wrong = float(np.abs(y - probabilities).max())
        elif task.name == "tag":
            at = [task.ids[g] for g in gold]
            wrong = float(1.0 - probabilities[np.arange(len(at)), at].min())
        else:
            wrong = float(1.0 - probabilities[task.ids[gold]])
        scored.append((wrong, line))
    scored.sort(key=lambda pair: -pair[0])
    return [{**line, "wrong": round(wrong, 6)} for wrong, line in scored[:WRONG]]


def split_report(
    task: Task, split: Split, outputs: Sequence[np.ndarray], seed: int, *, interval: str | None
) -> dict[str, Any]:
    """Everything about the predictions of a split, as JSON values.

    interval: the metric whose bootstrap interval is wanted.
    """
    decoded = [task.decode(values) for values in outputs]
    gold = [task.gold(row) for row in split.rows]
    guess, probabilities = [g for g, _ in decoded], [p for _, p in decoded]

    def score(index: np.ndarray) -> dict[str, float]:
        return scoring.metrics_of(
            task.name,
            task.labels,
            [gold[i] for i in index],
            [guess[i] for i in index],
            [probabilities[i] for i in index],
        )

    found: dict[str, Any] = {
        "examples": len(gold),
        "metrics": score(np.arange(len(gold))),
        "per_class": scoring.per_class(task.name, task.labels, gold, guess),
        "confusion": scoring.confusion(task.name, task.labels, gold, guess),
    }
    if interval is not None:
        resampled = _resampled(task, interval, gold, guess, probabilities)
        found["interval"] = {
            "metric": interval,
            "low_high": scoring.bootstrap(resampled, len(gold), seed),
            "resamples": scoring.BOOTSTRAP,
        }
    if task.name != "regress":
        table, error = scoring.calibration(*_certainty(task, gold, guess, probabilities))
        found["calibration"] = {"bins": table, "expected_error": error}
    lines = predictions(task, split, outputs)
    found["most_wrong"] = _errors(task, lines, outputs)
    return found


def _certainty(
    task: Task, gold: Sequence[Any], guess: Sequence[Any], probabilities: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each guess is right (1 or 0), and the probability that the model gave to it.

    A guess is a text's label; of tagging a word's; of several labels whether a text has each.
    """
    if task.name == "multilabel":
        has = np.array([[label in labels for label in task.labels] for labels in gold])
        said = np.array([[label in labels for label in task.labels] for labels in guess])
        p = np.stack(probabilities)
        return (has == said).astype(float).ravel(), np.where(said, p, 1 - p).ravel()
    if task.per_token:
        right = [
            a == b for g, s in zip(gold, guess, strict=True) for a, b in zip(g, s, strict=True)
        ]
        return np.array(right, float), np.concatenate([p.max(axis=-1) for p in probabilities])
    right = [a == b for a, b in zip(gold, guess, strict=True)]
    return np.array(right, float), np.array([p.max() for p in probabilities])


def _resampled(
    task: Task,
    metric: str,
    gold: Sequence[Any],
    guess: Sequence[Any],
    probabilities: Sequence[np.ndarray],
) -> Callable[[np.ndarray], float]:
    """The metric of examples by number; what is a sum over examples is counted once."""
    if metric == "accuracy" and not task.per_token:
        right = np.array([a == b for a, b in zip(gold, guess, strict=True)], float)
        return lambda index: float(right[index].mean())
    if metric == "accuracy":
        counts = np.array(
            [(sum(map(eq, a, b)), len(a)) for a, b in zip(gold, guess, strict=True)], float
        )
        return lambda index: float(np.divide(*counts[index].sum(0)))
    if metric == "entity_f1":
        sums = np.array(
            [
                np.sum([*entity_counts([a], [b]).values(), (0, 0, 0)], axis=0)
                for a, b in zip(gold, guess, strict=True)
            ]
        )
        return lambda index: f1(*sums[index].sum(0).tolist())[2]

    def score(index: np.ndarray) -> float:
        some = [[values[i] for i in index] for values in (gold, guess, probabilities)]
        return scoring.metrics_of(task.name, task.labels, *some)[metric]

    return score


def report(prepared: Prepared, finished: Finished, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of one run as JSON values."""
    task, seed = prepared.task, settings["seed"]
    balance = counts(task.name, prepared.train.rows, task.labels).tolist()
    found = {
        "version": __version__,
        "task": task.name,
        "labels": task.labels,
        "train_counts": dict(zip(task.labels, balance, strict=True)),
        "settings": settings,
        "metric": finished.metric,
        "best_epoch": finished.history.best_epoch,
        "epochs": finished.history.epochs,
        "valid": split_report(task, prepared.valid, finished.valid_outputs, seed, interval=None),
    }
    if prepared.test is not None and finished.test_outputs is not None:
        found["test"] = split_report(
            task, prepared.test, finished.test_outputs, seed, interval=finished.metric
        )
    return finite(found)  # type: ignore[no-any-return]


def finite(value: Any) -> Any:
    """The same JSON values with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: finite(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_predictions(
    run_dir: str, task: Task, split: Split, outputs: Sequence[np.ndarray]
) -> None:
    """Write predictions.jsonl of the test data, or of the validation data where there is none."""
    text = "".join(
        json.dumps(finite(line), ensure_ascii=False) + "\n"
        for line in predictions(task, split, outputs)
    )
    filesystem.write_bytes(f"{run_dir.rstrip('/')}/{PREDICTIONS}", text.encode())
