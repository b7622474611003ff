"""Warm start (--init_from): check compatibility, load matching variables, report the rest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import DUAL, as_flag, differences
from tpu_tlm.formats.electra_parts import GENERATOR, part_spec
from tpu_tlm.formats.positions import with_positions_of
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.vocabulary_growth import with_vocabulary_of
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training.initial_model import InitialModel

# Options in which the models may differ: heads, and what is masked, which depends on the data.
_MAY_DIFFER = ("mlm_head", "output_bias", "tie_weights", "mask_pad", "segment_mask", "compat")
# Variables that may be missing: heads, ELECTRA's generator, the upper part of a dual encoder.
_NEW = ("head/", "generator/", "reduction/", "ff1/", "ff2/", "temperature")
# Kinds whose head classifies tokens as replaced; heads of the others predict tokens.
_BINARY = ("discriminator", "electra")


def warm_start(
    initial: InitialModel,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    own: Mapping[str, np.ndarray],
    new_token_init: str = "mean",
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The initial values of a run from another model, and lines that say what they are.

    own: the run's random values by path. new_token_init: "mean" or "random", as
    `with_vocabulary_of`. Raises `UsageError` where the model does not fit the run.
    """
    where = f"--init_from {initial.path}"
    saved = with_positions_of(initial.load(spec), spec)
    random = own if new_token_init == "random" else None
    saved, notes = with_vocabulary_of(saved, spec, tokenizer, random)
    check_start(saved, spec, tokenizer, where)
    values, table = start_values(without_foreign_head(saved, spec.kind), own, where)
    first = f"starting at step 0 from {saved.source}, fresh optimizer"
    notes = [f"  {note}" for note in notes]
    return values, [first, *table, *notes, *framing_notes(saved, spec, tokenizer)]


def framing_notes(saved: PretrainedModel, spec: ModelSpec, tokenizer: Tokenizer) -> list[str]:
    """Lines about first and last tokens of examples that are not those of the model's own."""
    notes = []
    for name, place in (("prefix_id", "start"), ("suffix_id", "end")):
        theirs, ours = getattr(saved.spec, name), getattr(spec, name)
        if theirs != ours:
            told = ["nothing" if i is None else tokenizer.tokens[i] for i in (theirs, ours)]
            notes.append(
                f"  note: the {place} of an example is {told[0]} there, {told[1]} here; preprocess"
                f" with --{name.removesuffix('_id')} {told[0].replace('nothing', 'none')} for the"
                " same"
            )
    return notes


def _tokenizer_differences(theirs: Tokenizer, ours: Tokenizer) -> str:
    """What differs between two tokenizers, in words; empty where they are the same."""
    told = [
        f"{name}: {str(a).lower()} there, {str(b).lower()} here"
        for name, a, b in (
            ("kind", theirs.kind, ours.kind),
            ("cased", theirs.cased, ours.cased),
            ("tokens", len(theirs.tokens), len(ours.tokens)),
        )
        if a != b
    ]
    pairs = enumerate(zip(theirs.tokens, ours.tokens, strict=False))
    first = next(((i, a, b) for i, (a, b) in pairs if a != b), None)
    if first is not None:
        told.append(f"token {first[0]}: {first[1]!r} there, {first[2]!r} here")
    return "; ".join(told)


def check_start(saved: PretrainedModel, spec: ModelSpec, tokenizer: Tokenizer, where: str) -> None:
    """Check that weights fit this run.

    Raises `UsageError` naming the flags to give when they belong to another tokenizer or to a
    model that computes something else.
    """
    own = saved.own_tokenizer
    told = ""
    if own is not None:
        told = _tokenizer_differences(own, tokenizer)
    elif saved.fingerprint not in (None, tokenizer.fingerprint()):
        told = "it has another fingerprint"
        if saved.tokenizer_dir is not None:
            told = _tokenizer_differences(load_tokenizer(saved.tokenizer_dir), tokenizer) or told
    if told:
        raise UsageError(
            f"{where}: was trained with another tokenizer than this data ({told}); preprocess the"
            " text with its vocabulary"
        )
    if saved.spec.sentinels != spec.sentinels:
        raise UsageError(
            f"{where}: has {saved.spec.sentinels} sentinels, this run {spec.sentinels}; give"
            f" --sentinels {saved.spec.sentinels}"
        )
    if saved.spec.vocab_size != spec.vocab_size:
        raise UsageError(
            f"{where}: has a vocabulary of {saved.spec.vocab_size} entries, this data one of"
            f" {spec.vocab_size}"
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
    """The model without its head, where that has another task than the head of a `kind` model."""
    if (saved.spec.kind in _BINARY) == (kind in _BINARY):
        return saved
    heads = [path for path in saved.values if path.startswith("head/")]
    body = {path: value for path, value in saved.values.items() if path not in heads}
    return saved.replaced(values=body, unused=(*saved.unused, *heads))


def start_values(
    saved: PretrainedModel, own: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The initial values of a run, and the lines of a table of their origin by part of the model.

    `own`: the run's random values by path, kept for heads that `saved` does not have. Raises
    `UsageError` naming a variable of the model's body that is missing in `saved`, or has another
    shape there.
    """
    values: dict[str, np.ndarray] = {}
    parts: dict[tuple[str, str], list[np.ndarray]] = {}
    for path, initial in own.items():
        theirs = saved.values.get(path)
        fits = theirs is not None and theirs.shape == initial.shape
        if not fits and not path.startswith(_NEW):
            there = "absent" if theirs is None else list(theirs.shape)
            raise UsageError(
                f"{where}: {path!r} is {there} there and {list(initial.shape)} in this run; give"
                " its model flags"
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
