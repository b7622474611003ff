"""The head of a fine-tuned run as a classifier that other programs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm.formats.classifier import DENSE, NORM, OUT, SEQUENCE, TOKEN, Classifier

# HuggingFace's problem_type of each task.
_PROBLEMS = {
    "classify": "single_label_classification",
    "pair": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regress": "regression",
}
# Prefixes in a checkpoint: arrays of the head, and those of the pre-trained model that its format
# needs again (`PretrainedModel.extras`).
_HEAD, EXTRA = "task/", "extras/"
# BERT's dense layer behind the first token, in the extras.
POOLER = "pooler"


def task_head(task: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """`extras`, `classifier`, `family` and `notes` of a `PretrainedModel`, from a checkpoint.

    task: the description of the run's task, None for a pre-trained model. A head that no other
    program has (hidden layers, learned or mean pooling, two texts encoded each by itself) gives a
    note instead. The scale of a number is part of the last layer.
    """
    if task is None:
        return {}
    kept = {name.removeprefix(EXTRA): arrays[name] for name in arrays if name.startswith(EXTRA)}
    found = {"family": task.get("family"), "extras": kept}
    return {**found, **_classifier(task, arrays, kept)}


def _classifier(
    task: Mapping[str, Any], arrays: Mapping[str, np.ndarray], kept: dict[str, np.ndarray]
) -> dict[str, Any]:
    head = task["head"]
    # The dense layer of BERT is its pooler, also where the family calls it otherwise.
    bert = head["pooling"] == "cls" and head["activation"] == "tanh" and not head.get("norm")
    dense = (DENSE if head["tokens"] or not bert else POOLER) if head["pooler"] else None
    simple = head["tokens"] or head["pooling"] == "last" or (head["pooling"] == "cls" and dense)
    if head["hidden"] or head["shared"] or not simple:
        note = (
            "the head of the fine-tuned run is left out: other programs have no head with "
            "hidden layers, two encoders, or this pooling; predict uses it, and --pooling cls or "
            "decoder trains one that they have"
        )
        return {"notes": (note,)}
    kernel = arrays[f"{_HEAD}out/kernel"]
    bias = arrays.get(f"{_HEAD}out/bias", np.zeros(kernel.shape[-1:], np.float32))
    if task["task"] == "regress":
        mean, deviation = (float(value) for value in task["scale"])
        kernel, bias = kernel * deviation, bias * deviation + mean
    extras = {f"{OUT}/kernel": kernel, f"{OUT}/bias": bias}
    norm = NORM if head.get("norm") else None
    for path, own in ((dense, "pooler"), (norm, "norm")):
        start = f"{_HEAD}{own}/"
        if path is not None:
            found = {n.removeprefix(start): arrays[n] for n in arrays if n.startswith(start)}
            extras |= {f"{path}/{name}": array for name, array in found.items()}
    classifier = Classifier(
        TOKEN if head["tokens"] else SEQUENCE,
        tuple(task["labels"]) or ("score",),
        pooling=head["pooling"] if not head["tokens"] else "cls",
        dense=dense,
        activation=head["activation"] if dense and head["activation"] != "linear" else None,
        norm=norm,
        norm_eps=head["norm"] if norm else 1e-5,
        problem_type=_PROBLEMS.get(task["task"]),
        pairs=task["pairs"] is not None,
    )
    return {"extras": {**kept, **extras}, "classifier": classifier}
