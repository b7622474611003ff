"""The classification head of a family: what it holds, and whether a model's own is such a one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import OUT, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.choose import choose_family, config_of
from tpu_tlm.formats.huggingface.families import Family
from tpu_tlm.formats.huggingface.families.bert import POOLER
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair
from tpu_tlm.formats.pretrained import PretrainedModel


@dataclass(frozen=True)
class HeadForm:
    """The head of a family's class `model_class`: how it computes, and which biases it has.

    bias: of the last layer; dense_bias, norm_bias: of the layers before it, where there are some.
    """

    model_class: str
    classifier: Classifier
    bias: bool
    dense_bias: bool
    norm_bias: bool


def head_form(saved: PretrainedModel, task: str) -> HeadForm | None:
    """The head for `task` of the family that a model is written as; None where it has none."""
    found = _written(saved)
    if found is None:
        return None
    family, config = found
    reader = ConfigReader(config, saved.source)
    form = family.classifier(task, reader)
    if form is None:
        return None
    try:
        model_class = family.class_of(saved.spec, task, {})
    except UsageError:  # it stands on the other half of an encoder-decoder
        return None
    paths = _paths(family, form, reader)
    return HeadForm(
        model_class,
        form,
        f"{OUT}/bias" in paths,
        f"{form.dense}/bias" in paths,
        f"{form.norm}/beta" in paths,
    )


def without_misfit(saved: PretrainedModel) -> PretrainedModel:
    """The model without its classification head, and a note, where the family that it is written
    as has another; itself where it is written as none."""
    found = _written(saved)
    if found is None or saved.classifier is None:
        return saved
    try:
        fitted(saved, *found)
    except UsageError as error:
        reason = str(error).removeprefix(f"{saved.source}: ")
        own = (f"{OUT}/", f"{saved.classifier.dense}/")
        return saved.replaced(
            classifier=None,
            extras={n: a for n, a in saved.extras.items() if not n.startswith(own)},
            notes=(*saved.notes, f"the head of the fine-tuned run is left out: {reason}"),
        )
    return saved


def fitted(saved: PretrainedModel, family: Family, config: Mapping[str, Any]) -> PretrainedModel:
    """The model with the arrays of its head where the family has them; config: its settings.

    Raises `UsageError` where the family's head computes in another way, or an array is missing or
    has no place.
    """
    given = saved.classifier
    assert given is not None
    reader = _reader(saved, family, config)
    form = family.classifier(given.task, reader)
    if form is None:
        raise UsageError(f"{saved.source}: {family.name} has no head for {given.task}")
    if (ours := _shown(given)) != (theirs := _shown(form)):
        raise UsageError(
            f"{saved.source}: a {family.name} model has another head for {given.task} "
            f"({theirs}) than this one ({ours})"
        )
    extras = dict(saved.extras)
    for old, new in ((given.dense, form.dense), (given.norm, form.norm)):
        if old != new:
            extras = {_moved(path, str(old), str(new)): array for path, array in extras.items()}
    paths = _paths(family, form, reader)
    for path in sorted(paths - set(extras)):
        weights = f"{path.rpartition('/')[0]}/{'gamma' if path.endswith('/beta') else 'kernel'}"
        if not path.endswith(("/bias", "/beta")) or weights not in extras:
            raise UsageError(f"{saved.source}: its classification head has no {path}")
        extras[path] = np.zeros(extras[weights].shape[-1:], np.float32)
    for path in [p for p in extras if p.startswith(f"{OUT}/") and p not in paths]:
        if extras.pop(path).any():
            raise UsageError(
                f"{saved.source}: the head of a {family.name} model for {given.task} has no {path}"
            )
    changed = Classifier(**{**vars(given), "dense": form.dense, "norm": form.norm})
    return saved.replaced(classifier=changed, extras=extras)


def head_pairs(saved: PretrainedModel, family: Family, config: Mapping[str, Any]) -> list[Pair]:
    """The arrays of the head of a model that is `fitted`."""
    assert saved.classifier is not None
    reader = _reader(saved, family, config)
    return list(family.classifier_pairs(saved.classifier.task, reader))


def _reader(saved: PretrainedModel, family: Family, config: Mapping[str, Any]) -> ConfigReader:
    assert saved.classifier is not None
    settings = family.classifier_config(saved.classifier, saved.extras)
    return ConfigReader({**config, **settings}, saved.source)


def _written(saved: PretrainedModel) -> tuple[Family, dict[str, Any]] | None:
    """The family that a model is written as, and its settings; None where it fits none."""
    try:
        family = choose_family(saved, None)
        if saved.spec.kind not in family.suffixes:
            return None
        spec, _, _ = family.complete(saved.spec, saved.values, saved.source)
        return family, config_of(family, spec, saved.source)
    except UsageError:
        return None


def _paths(family: Family, form: Classifier, config: ConfigReader) -> set[str]:
    pairs = family.classifier_pairs(form.task, config)
    pooler = {f"{POOLER}/kernel", f"{POOLER}/bias"} if form.dense == POOLER else set()
    return {path for pair in pairs for path in pair.paths} | pooler


def _moved(path: str, old: str, new: str) -> str:
    return f"{new}/{path.removeprefix(f'{old}/')}" if path.startswith(f"{old}/") else path


def _shown(head: Classifier) -> str:
    """How a head computes, in words that are equal for equal heads."""
    parts = [] if head.task != SEQUENCE else [f"pooling {head.pooling}"]
    if head.dense is not None:
        parts.append(f"a dense layer with {head.activation or 'no activation'}")
    if head.norm is not None:
        parts.append(f"a norm of epsilon {head.norm_eps:g}")
    return ", ".join([*parts, "one layer of classes"])
