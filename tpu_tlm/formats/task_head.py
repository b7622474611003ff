"""The head of a fine-tuned run as a classifier that other programs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tpu_tlm.formats.classifier import DENSE, SEQUENCE, TOKEN, Classifier

if TYPE_CHECKING:
    import numpy as np

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
    bert = head["pooling"] == "cls" and head["pooler"] and head["activation"] == "tanh"
    last = head["pooling"] == "last" and not head["pooler"]
    # On the decoder of an encoder-decoder.
    decoder = head["pooling"] == "last" and head["pooler"]
    if head["hidden"] or head["shared"] or not (head["tokens"] or bert or last or decoder):
        note = (
            "the head of the fine-tuned run is left out: other programs have no head with "
            "hidden layers, two encoders, or this pooling; predict uses it"
        )
        return {"notes": (note,)}
    kernel, bias = arrays[f"{_HEAD}out/kernel"], arrays[f"{_HEAD}out/bias"]
    if task["task"] == "regress":
        mean, deviation = (float(value) for value in task["scale"])
        kernel, bias = kernel * deviation, bias * deviation + mean
    extras = {"classifier/kernel": kernel, "classifier/bias": bias}
    dense = "pooler" if bert else DENSE if decoder else None
    if dense is not None:
        extras |= {f"{dense}/{n}": arrays[f"{_HEAD}pooler/{n}"] for n in ("kernel", "bias")}
    if last:
        extras.pop("classifier/bias")
        if bias.any():
            # GPT-2's head has no bias.
            return {"notes": ("the head of the fine-tuned run is left out: it has a bias",)}
    classifier = Classifier(
        TOKEN if head["tokens"] else SEQUENCE,
        tuple(task["labels"]) or ("score",),
        pooling=head["pooling"] if not head["tokens"] else "cls",
        dense=dense,
        activation="tanh" if dense is not None else None,
        problem_type=_PROBLEMS.get(task["task"]),
    )
    return {"extras": {**kept, **extras}, "classifier": classifier}
