"""In which formats a model can be written, before it is trained."""

from __future__ import annotations

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.huggingface.choose import config_of
from tpu_tlm.formats.huggingface.families import FAMILIES
from tpu_tlm.models.spec import ModelSpec


def huggingface_family(spec: ModelSpec) -> tuple[str | None, str]:
    """The HuggingFace family that a model fits, or None and why the nearest one does not."""
    if spec.kind == "electra":
        return "electra", ""
    reason = f"transformers has no model of kind {spec.kind!r}"
    found = False
    for family in FAMILIES:
        if spec.kind not in family.suffixes:
            continue
        try:
            complete, _, _ = family.complete(spec, {}, "")
            config_of(family, complete, "")
            if complete.kind == spec.kind:
                return family.name, ""
        except UsageError as error:
            if not found:
                found, reason = True, str(error).removeprefix(": ")
    return None, reason


def formats_line(spec: ModelSpec) -> str:
    """A line for the user: the formats, and what keeps the model from HuggingFace's."""
    family, reason = huggingface_family(spec)
    if family is not None:
        return f"this model can be written as hf ({family}), npz and others (convert --to)"
    return f"this model can be written as npz and others, not for HuggingFace: {reason}"
