"""Beginning a run with somebody else's weights: what fits is taken, what is missing is said, what differs is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import DUAL, as_flag, differences
from tpu_tlm.formats.electra_parts import GENERATOR, part_spec
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

# A head may be new; where padding and other texts are hidden from, the training data decides.
_MAY_DIFFER = ("mlm_head", "output_bias", "tie_weights", "mask_pad", "segment_mask", "compat")
# What may be new: a head, ELECTRA's generator, and what makes a dual encoder of an encoder.
_NEW = ("head/", "generator/", "reduction/", "ff1/", "ff2/", "temperature")
# Kinds whose head tells replaced tokens; the others' predict them.
_BINARY = ("discriminator", "electra")


def check_start(saved: PretrainedModel, spec: ModelSpec, tokenizer: Tokenizer, where: str) -> None:
    """Raise `UsageError` when the weights are of another tokenizer, or of a model that computes something else; it names the flags."""
    own = saved.own_tokenizer
    if own is not None:
        same = (own.kind, own.cased, own.tokens) == (
            tokenizer.kind,
            tokenizer.cased,
            tokenizer.tokens,
        )
    else:
        same = saved.fingerprint in (None, tokenizer.fingerprint())
    if not same:
        raise UsageError(
            f"{where}: was trained with another tokenizer than this data; preprocess the text with its vocabulary"
        )
    if saved.spec.sentinels != spec.sentinels:
        raise UsageError(
            f"{where}: has not the {spec.sentinels} sentinels of this run; give --sentinels {saved.spec.sentinels}"
        )
    if saved.spec.vocab_size != spec.vocab_size:
        raise UsageError(
            f"{where}: has a vocabulary of {saved.spec.vocab_size} entries, this data one of {spec.vocab_size}"
        )
    may_differ = _MAY_DIFFER if saved.spec.kind == spec.kind else (*_MAY_DIFFER, *DUAL)
    if wrong := [d for d in differences(saved.spec, spec) if d.name not in may_differ]:
        flags = " ".join(as_flag(d.name, d.left) for d in wrong if d.left is not None)
        raise UsageError(f"{where}: is another model; train with {flags}")
    if saved.spec.generator is not None and spec.generator is not None:
        theirs, ours = (part_spec(s, GENERATOR) for s in (saved.spec, spec))
        if wrong := [d for d in differences(theirs, ours) if d.name not in _MAY_DIFFER]:
            flags = " ".join(as_flag(f"gen_{d.name}", d.left) for d in wrong if d.left is not None)
            raise UsageError(f"{where}: has another generator; train with {flags}")


def without_foreign_head(saved: PretrainedModel, kind: str) -> PretrainedModel:
    """The same without its head, where that answers another question than the head of a model of `kind` does."""
    if (saved.spec.kind in _BINARY) == (kind in _BINARY):
        return saved
    heads = [path for path in saved.values if path.startswith("head/")]
    body = {path: value for path, value in saved.values.items() if path not in heads}
    return saved.replaced(values=body, unused=(*saved.unused, *heads))


def start_values(
    saved: PretrainedModel, own: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The values to begin with, and a table of where each part of the model has them from.

    `own`: the run's initial values by path, kept where `saved` has no head. Raises `UsageError` naming a variable of the model's body that
    is not in `saved`, or has another shape there.
    """
    values: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for path, initial in own.items():
        theirs = saved.values.get(path)
        fits = theirs is not None and theirs.shape == initial.shape
        if not fits and not path.startswith(_NEW):
            there = "absent" if theirs is None else list(theirs.shape)
            raise UsageError(
                f"{where}: {path!r} is {there} there and {list(initial.shape)} here; give its model flags"
            )
        values[path] = theirs if fits and theirs is not None else initial
        parts.setdefault((path.split("/")[0], "loaded" if fits else "new: random"), []).append(
            values[path]
        )
    lines = [f"  {'part':12} {'arrays':>7} {'parameters':>14}  values"]
    for (part, origin), arrays in parts.items():
        lines.append(f"  {part:12} {len(arrays):7} {sum(a.size for a in arrays):14,}  {origin}")
    left = [*(path for path in saved.values if path not in own), *saved.extras, *saved.unused]
    if left:
        shown = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
        lines.append(f"  not used: {shown}")
    return values, [*lines, *(f"  {line}" for line in saved.report())]
