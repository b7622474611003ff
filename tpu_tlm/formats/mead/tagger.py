"""The output layer of a tagger in MEAD's files: `TLM/output/weights` and `TLM/output/bias`.

`pretrain_tag_tf` writes it, and MEAD's programs that convert fine-tuned models.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.classifier import OUT, TOKEN, Classifier
from tpu_tlm.formats.mapping import Arrays
from tpu_tlm.models.spec import ModelSpec

WEIGHTS, BIAS = "TLM/output/weights", "TLM/output/bias"
# Beside the file: the labels that MEAD's preprocessing counted.
LABELS = "labels.json"


def pop_tagger(arrays: Arrays, spec: ModelSpec, path: str) -> tuple[Arrays, Arrays]:
    """(the other arrays, `classifier/...` of the output layer), the latter empty without one.

    Raises `TlmError` where the arrays are no layer on the model's width: MEAD writes two tables
    under these names for tied models with learned positions.
    """
    if WEIGHTS not in arrays and BIAS not in arrays:
        return arrays, {}
    left = {key: array for key, array in arrays.items() if key not in (WEIGHTS, BIAS)}
    weights = np.asarray(arrays.get(WEIGHTS, np.zeros(0)))
    bias = np.asarray(arrays.get(BIAS, np.zeros(len(weights), np.float32)))
    if (
        weights.ndim != 2
        or weights.shape[1] != spec.config.d_model
        or bias.shape != weights.shape[:1]
    ):
        raise TlmError(
            f"{path}: {WEIGHTS!r} {list(weights.shape)} and {BIAS!r} {list(bias.shape)} are no "
            f"output layer on {spec.config.d_model} units; write the file without them"
        )
    found = {f"{OUT}/kernel": np.ascontiguousarray(weights.T)}
    return left, found | ({f"{OUT}/bias": bias} if BIAS in arrays else {})


def tagger_of(count: int, path: str) -> tuple[Classifier, str]:
    """The classifier of tokens with so many labels, and a line about it for the user.

    The labels are those of `labels.json` beside the file (label -> id, or a list), else LABEL_0...
    """
    labels = tuple(f"LABEL_{i}" for i in range(count))
    beside = posixpath.join(posixpath.dirname(path), LABELS)
    where = f"no {LABELS} with {count} labels beside it, so they are called LABEL_0, ..."
    if filesystem.exists(beside):
        given = strict.read_json(filesystem.read_bytes(beside), beside)
        by_id = given if isinstance(given, list) else []
        if isinstance(given, dict) and sorted(given.values(), key=repr) == sorted(
            range(count), key=repr
        ):
            by_id = sorted(given, key=lambda label: given[label])
        if len(by_id) == count and all(isinstance(label, str) for label in by_id):
            labels, where = tuple(by_id), f"labels of {beside}"
    return Classifier(TOKEN, labels), f"its output layer is read as a tagger's of {count} ({where})"


def put_tagger(
    arrays: Arrays, extras: Mapping[str, np.ndarray], classifier: Classifier | None
) -> dict[str, np.ndarray]:
    """Add a tagger's output layer to a model's arrays; returns the extras that are left."""
    kernel = f"{OUT}/kernel"
    if classifier is None or classifier.task != TOKEN or kernel not in extras:
        return dict(extras)
    if classifier.dense is not None or classifier.norm is not None:
        return dict(extras)
    arrays[WEIGHTS] = np.ascontiguousarray(np.asarray(extras[kernel], np.float32).T)
    if f"{OUT}/bias" in extras:
        arrays[BIAS] = np.asarray(extras[f"{OUT}/bias"], np.float32)
    return {key: array for key, array in extras.items() if not key.startswith(f"{OUT}/")}
