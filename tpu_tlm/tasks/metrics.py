"""Metrics of predictions, by scikit-learn, and their bootstrap confidence intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.entities import entity_counts, f1, scheme_of

BOOTSTRAP = 1000
# Lower is better; of all others higher is.
_LOWER = ("loss", "mean_absolute_error", "root_mean_squared_error")


def require_sklearn() -> Any:
    """scikit-learn's metrics; `UsageError` with the command that installs them."""
    try:
        from sklearn import metrics
    except ImportError:
        raise UsageError(
            "fine-tuning needs scikit-learn for its metrics: pip install 'tpu-tlm[finetune]'"
        ) from None
    return metrics


def improves(metric: str, value: float, best: float | None) -> bool:
    """Whether a value of the metric is better than the best so far; NaN never is."""
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    return value < best if metric in _LOWER else value > best


def default_metric(task: str, labels: Sequence[str], metric: str) -> str:
    """The metric that chooses the best checkpoint, unless the user names one."""
    return "entity_f1" if task == "tag" and scheme_of(labels) else metric


def metrics_of(
    task: str,
    labels: Sequence[str],
    gold: Sequence[Any],
    guess: Sequence[Any],
    probabilities: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    """All metrics of a task over predictions; NaN where one is not defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of undefined metrics, which are NaN or 0 here
        if task == "regress":
            return _regression(np.asarray(gold, float), np.asarray(guess, float))
        if task == "multilabel":
            return _multilabel(labels, gold, guess, probabilities)
        if task == "tag":
            return _tagging(labels, gold, guess)
        return _classification(labels, gold, guess, probabilities)


def metric_names(task: str, labels: Sequence[str], gold: Sequence[Any]) -> list[str]:
    """The names of what `metrics_of` gives for predictions of this gold."""
    alike = [np.full(len(labels), 1.0 / max(len(labels), 1)) for _ in gold]
    return list(metrics_of(task, labels, gold, gold, alike))


def _classification(
    labels: Sequence[str],
    gold: Sequence[str],
    guess: Sequence[str],
    probabilities: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    m = require_sklearn()
    found = {
        "accuracy": float(m.accuracy_score(gold, guess)),
        "macro_f1": float(
            m.f1_score(gold, guess, labels=list(labels), average="macro", zero_division=0)
        ),
        "micro_f1": float(m.f1_score(gold, guess, labels=list(labels), average="micro")),
        "matthews": float(m.matthews_corrcoef(gold, guess)),
    }
    if probabilities is not None:
        p = np.stack(list(probabilities))
        y = np.array([list(labels).index(g) for g in gold])
        present = len(set(gold)) == len(labels)
        found["auc"] = float("nan")
        if present and len(labels) == 2:
            found["auc"] = float(m.roc_auc_score(y, p[:, 1]))
        elif present:
            found["auc"] = float(m.roc_auc_score(y, p, multi_class="ovr"))
        chosen = np.clip(p[np.arange(len(y)), y], 1e-12, 1.0)
        found["loss"] = float(-np.log(chosen).mean())
    return found


def _multilabel(
    labels: Sequence[str],
    gold: Sequence[Sequence[str]],
    guess: Sequence[Sequence[str]],
    probabilities: Sequence[np.ndarray] | None,
) -> dict[str, float]:
    m = require_sklearn()
    y, z = (np.array([[name in row for name in labels] for row in rows]) for rows in (gold, guess))
    found = {
        "exact_match": float((y == z).all(1).mean()),
        "accuracy": float((y == z).mean()),
        "micro_f1": float(m.f1_score(y, z, average="micro", zero_division=0)),
        "macro_f1": float(m.f1_score(y, z, average="macro", zero_division=0)),
    }
    if probabilities is not None:
        p = np.stack(list(probabilities))
        both = [i for i in range(len(labels)) if 0 < y[:, i].sum() < len(y)]
        scores = [m.roc_auc_score(y[:, i], p[:, i]) for i in both]
        found["auc"] = float(np.mean(scores)) if scores else float("nan")
    return found


def _regression(gold: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    m = require_sklearn()
    from scipy import stats

    varied = len(gold) > 1 and np.ptp(gold) > 0 and np.ptp(guess) > 0
    return {
        "pearson": float(stats.pearsonr(gold, guess)[0]) if varied else float("nan"),
        "spearman": float(stats.spearmanr(gold, guess)[0]) if varied else float("nan"),
        "root_mean_squared_error": float(np.sqrt(m.mean_squared_error(gold, guess))),
        "mean_absolute_error": float(m.mean_absolute_error(gold, guess)),
    }


def _tagging(
    labels: Sequence[str], gold: Sequence[Sequence[str]], guess: Sequence[Sequence[str]]
) -> dict[str, float]:
    m = require_sklearn()
    flat_gold = [tag for tags in gold for tag in tags]
    flat_guess = [tag for tags in guess for tag in tags]
    found = {
        "accuracy": float(m.accuracy_score(flat_gold, flat_guess)),
        "macro_f1": float(
            m.f1_score(
                flat_gold,
                flat_guess,
                labels=sorted(set(flat_gold)),
                average="macro",
                zero_division=0,
            )
        ),
    }
    if scheme_of(labels):
        counts = list(entity_counts(gold, guess).values())
        precision, recall, score = f1(*(sum(c[i] for c in counts) for i in range(3)))
        found |= {
            "entity_f1": score,
            "entity_precision": precision,
            "entity_recall": recall,
        }
    return found


def per_class(
    task: str, labels: Sequence[str], gold: Sequence[Any], guess: Sequence[Any]
) -> list[dict[str, Any]]:
    """Precision, recall, F1 and count of each class (of entities: of each type)."""
    if task == "regress":
        return []
    if task == "tag" and scheme_of(labels):
        rows = entity_counts(gold, guess)
        return [
            {
                "label": kind,
                **dict(zip(("precision", "recall", "f1"), f1(*c), strict=True)),
                "count": c[2],
            }
            for kind, c in rows.items()
        ]
    m = require_sklearn()
    if task == "multilabel":
        y, z = (
            np.array([[name in row for name in labels] for row in rows]) for rows in (gold, guess)
        )
        columns = m.precision_recall_fscore_support(y, z, zero_division=0)
    else:
        if task == "tag":
            gold = [tag for tags in gold for tag in tags]
            guess = [tag for tags in guess for tag in tags]
        columns = m.precision_recall_fscore_support(
            gold, guess, labels=list(labels), zero_division=0
        )
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
    ]


def confusion(
    task: str, labels: Sequence[str], gold: Sequence[Any], guess: Sequence[Any]
) -> list[list[int]]:
    """Rows: gold label, columns: guess; [] for tasks that have none."""
    if task in ("regress", "multilabel"):
        return []
    if task == "tag":
        gold = [tag for tags in gold for tag in tags]
        guess = [tag for tags in guess for tag in tags]
    matrix = require_sklearn().confusion_matrix(gold, guess, labels=list(labels))
    return matrix.tolist()  # type: ignore[no-any-return]


def calibration(
    right: np.ndarray, confidence: np.ndarray, bins: int = 10
) -> tuple[list[dict[str, float]], float]:
    """(mean confidence, share right and count per bin, expected calibration error)."""
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    table, error = [], 0.0
    for b in range(bins):
        inside = at == b
        if n := int(inside.sum()):
            sure, true = float(confidence[inside].mean()), float(right[inside].mean())
            table.append({"confidence": sure, "accuracy": true, "count": n})
            error += n / len(right) * abs(sure - true)
    return table, error


def bootstrap(
    score: Callable[[np.ndarray], float], count: int, seed: int, times: int = BOOTSTRAP
) -> tuple[float, float]:
    """95 % interval of a metric over resampled examples (percentile bootstrap).

    score: takes the numbers of the examples, int `[count]`.
    """
    rng = np.random.default_rng([seed, 0xB007])
    values = np.array([score(rng.integers(0, count, count)) for _ in range(times)])
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
