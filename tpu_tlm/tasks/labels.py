"""The label set of a task, its order, and how often each label occurs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tpu_tlm.errors import UsageError
from tpu_tlm.tasks.read import Row


def labels_of(task: str, row: Row) -> list[Any]:
    """The labels that a row holds: one, those of its words, or any number."""
    if row.label is None:
        return []
    return list(row.label) if task in ("tag", "multilabel") else [row.label]


def _natural(label: str) -> tuple[int, float, str]:
    """Finite numbers by value before words by code point: 2 comes before 10.

    `nan` is a word: as a number it is neither before nor behind another one.
    """
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def label_set(task: str, rows: Sequence[Row], path: str) -> list[str]:
    """The labels of the training data in a stable order; [] for regression.

    Raises `UsageError` where there are fewer than two (multilabel: none).
    """
    if task == "regress":
        return []
    found = sorted({label for row in rows for label in labels_of(task, row)}, key=_natural)
    if len(found) < (1 if task == "multilabel" else 2):
        raise UsageError(
            f"{path}: has {len(found)} different labels ({', '.join(found)}); "
            "there is nothing to learn from fewer than two"
        )
    return found


def check_known(task: str, rows: Sequence[Row], labels: Sequence[str], path: str) -> None:
    """Raise `UsageError` naming the labels that training data lacks, and their lines."""
    if task == "regress":
        return
    known, unknown = set(labels), dict[str, list[int]]()
    for row in rows:
        found = labels_of(task, row)
        for label, line in zip(found, row.lines or [row.line] * len(found), strict=True):
            if label not in known and line not in unknown.setdefault(label, []):
                unknown[label].append(line)
    if unknown:
        shown = [
            f"{label!r} (line{'s' if len(lines) > 1 else ''} "
            f"{', '.join(map(str, lines[:5]))}{', ...' if len(lines) > 5 else ''})"
            for label, lines in list(unknown.items())[:5]
        ]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UsageError(
            f"{path}: labels that the training data lacks: {'; '.join(shown)}{more}; add examples "
            "of them to --train, or leave these rows out"
        )


def counts(task: str, rows: Iterable[Row], labels: Sequence[str]) -> np.ndarray:
    """How often each label occurs: int64 `[labels]`."""
    found = Counter(label for row in rows for label in labels_of(task, row))
    return np.array([found[label] for label in labels], np.int64)


def balance(task: str, rows: Sequence[Row], labels: Sequence[str]) -> str:
    """The class balance in a line for the user."""
    if task == "regress":
        values = np.array([row.label for row in rows])
        return (
            f"labels from {values.min():g} to {values.max():g}, mean {values.mean():.4g}, "
            f"standard deviation {values.std():.4g}"
        )
    number = counts(task, rows, labels)
    order = np.argsort(-number, kind="stable")
    shown = [f"{labels[i]} {number[i]:,} ({number[i] / number.sum():.1%})" for i in order[:12]]
    more = f" and {len(labels) - 12} more" if len(labels) > 12 else ""
    return f"{len(labels)} labels: {', '.join(shown)}{more}"


def balanced_weights(number: np.ndarray) -> np.ndarray:
    """Weights with which every class counts the same: total / (classes * count), float32."""
    return (number.sum() / (len(number) * np.maximum(number, 1))).astype(np.float32)


def held_out(
    task: str, rows: Sequence[Row], share: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows): a share of each class, the same for the same seed.

    A class keeps at least one row for training; texts that occur twice stay on one side.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    if task in ("classify", "pair"):
        strata: dict[Any, list[int]] = {}
        for i, row in enumerate(rows):
            strata.setdefault(row.label, []).append(i)
        groups = list(strata.values())
    else:
        groups = [list(range(len(rows)))]
    out: set[int] = set()
    for group in groups:
        shuffled = [group[i] for i in rng.permutation(len(group))]
        out.update(shuffled[: min(round(share * len(group)), len(group) - 1)])

    def key(i: int) -> str:
        return repr((rows[i].text, rows[i].text2))

    # A text that occurs twice would be in training and in the held-out share.
    trained = {key(i) for i in range(len(rows)) if i not in out}
    out = {i for i in out if key(i) not in trained}
    if task not in ("regress", "classify", "pair"):
        # Labels that only held-out rows have would be unknown.
        kept = {x for i, row in enumerate(rows) if i not in out for x in labels_of(task, row)}
        out = {i for i in out if kept.issuperset(labels_of(task, rows[i]))}
    return (
        [row for i, row in enumerate(rows) if i not in out],
        [row for i, row in enumerate(rows) if i in out],
    )
