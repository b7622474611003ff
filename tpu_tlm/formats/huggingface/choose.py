"""Which family a model is written as, and the settings that describe it there."""

from __future__ import annotations

from typing import Any

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import Difference, as_flag, differences
from tpu_tlm.formats.huggingface.families import FAMILIES, Family, family_named
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec


def config_of(family: Family, spec: ModelSpec, where: str) -> dict[str, Any]:
    """The settings of config.json that describe a spec.

    Raises `UsageError` naming the options that the family has no place for.
    """
    try:
        config = {"model_type": family.name, **family.write_config(spec)}
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if wrong := _misfits(family, spec, config, where):
        wanted = ", ".join(
            f"{as_flag(d.name, d.right)} (only {as_flag(d.name, d.left)})"
            for d in wrong
            if None not in d
        )
        raise UsageError(f"{where}: a {family.name} model has no place for {wanted}")
    return config


def _misfits(
    family: Family, spec: ModelSpec, config: dict[str, Any], where: str
) -> list[Difference]:
    read_back = family.read_config(ConfigReader(config, where), spec.kind)
    return [d for d in differences(read_back, spec) if d.name != "mask_pad"]


def choose_family(saved: PretrainedModel, asked: str | None) -> Family:
    """The family to write: the one asked for, the model's own, or the first that fits it."""
    if asked is not None:
        return family_named(asked)
    if saved.family is not None:
        return family_named(saved.family)
    candidates = [family for family in FAMILIES if saved.spec.kind in family.suffixes]
    for family in candidates:
        # Rows that only a family with shifted positions has: from a file that does not name it.
        if (own := family.own_extras(saved.spec)) and set(own) <= set(saved.extras):
            return family
    for family in candidates:
        try:
            spec, _, _ = family.complete(saved.spec, saved.values, saved.source)
            if spec.kind in family.suffixes:
                config_of(family, spec, saved.source)
                return family
        except UsageError:
            continue
    # None fits: the first one's message names the options.
    return candidates[0] if candidates else FAMILIES[0]
