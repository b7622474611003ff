"""Writing a HuggingFace directory that `transformers` loads as its own."""

from __future__ import annotations

import json
from typing import Any

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import Difference, as_flag, differences
from tpu_tlm.formats.huggingface.families import FAMILIES, Family, family_named
from tpu_tlm.formats.huggingface.read import SPEC_KEY
from tpu_tlm.formats.huggingface.safetensors import encode
from tpu_tlm.formats.huggingface.tokenizer_write import tokenizer_files
from tpu_tlm.formats.huggingface.weights import CONFIG, WEIGHTS
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays, export_arrays
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


def hf_files(
    saved: PretrainedModel, family_name: str | None = None
) -> tuple[dict[str, bytes], list[str]]:
    """The files of the directory by name, and notes for the user.

    Raises `UsageError` naming the options of a model that the family has no place for.
    """
    family = choose_family(saved, family_name)
    if saved.spec.kind not in family.suffixes:
        raise UsageError(
            f"{saved.source}: a model of kind {saved.spec.kind!r} cannot be written as "
            f"{family.name}, which has {', '.join(family.suffixes)}"
        )
    spec, values, added = family.complete(saved.spec, saved.values, saved.source)
    notes = [f"added {what}, which {family.name} always has" for what in added]
    if spec.kind != saved.spec.kind:
        notes.append(
            "written as an encoder without a token head: transformers has none like this model's "
            "(--mlm_head bert has)"
        )
    config = config_of(family, spec, saved.source)
    arrays, model_class, more = _arrays(saved, family, spec, values)
    notes += more
    if not saved.spec.config.mask_pad and saved.spec.kind != "clm":
        notes.append(
            f"this model was trained with attention to padding, {family.name} has none: the "
            "numbers agree for texts without padding"
        )
    if saved.classifier is not None:
        labels = saved.classifier.labels
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
        config["problem_type"] = saved.classifier.problem_type
        config.update(family.classifier_config(saved.classifier))
        # A classifier of a causal model finds a text's last token by it.
        config.setdefault("pad_token_id", spec.pad_id)
    if spec.kind != "clm" and spec.prefix_id is not None and family.bos_is_prefix:
        config.update(bos_token_id=spec.prefix_id, eos_token_id=spec.suffix_id)
    config = {"architectures": [model_class], **config, "dtype": "float32"}
    # The file holds a model of the family; the spec it was made from is kept with it.
    config[SPEC_KEY] = json.loads(saved.spec.to_json())
    found = {WEIGHTS: encode(arrays, {"format": "pt"})}
    if (tokenizer := _tokenizer(saved)) is not None:
        files, said = tokenizer_files(tokenizer, saved.spec if spec.kind == "clm" else spec)
        found.update(files)
        notes += said
    elif saved.carried:
        found.update(saved.carried)
    else:
        notes.append("no tokenizer files: there is no tokenizer beside the model")
    found[CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    return found, notes


def _tokenizer(saved: PretrainedModel) -> Tokenizer | None:
    has_one = saved.own_tokenizer is not None or saved.tokenizer_dir is not None
    return saved.tokenizer() if has_one else None


def _arrays(
    saved: PretrainedModel, family: Family, spec: ModelSpec, values: Arrays
) -> tuple[Arrays, str, list[str]]:
    """The file's arrays by name, the name of the model's class, and notes."""
    task = saved.classifier.task if saved.classifier is not None else None
    arrays = export_arrays(family.pairs(spec), values)
    try:
        arrays = family.to_file(arrays, spec, saved.extras)
    except UsageError as error:
        raise UsageError(f"{saved.source}: {error}") from None
    written = set(family.own_extras(spec))
    parts = family.optional(spec)
    notes = []
    if task is not None:
        head = {n: a for n, a in arrays.items() if n.startswith(family.token_head)}
        arrays = {n: a for n, a in arrays.items() if n not in head}
        if lost := [n for n, a in head.items() if a.any()]:
            notes.append(f"a {family.name} classifier has no {', '.join(lost)}: not written")
        parts.append(list(family.classifier_pairs(task)))
    for part in parts:
        paths = [path for one in part for path in one.paths]
        if all(path in saved.extras for path in paths):
            arrays.update(export_arrays(part, {path: saved.extras[path] for path in paths}))
            written.update(paths)
    try:
        model_class = family.class_of(spec, task, saved.extras)
    except UsageError as error:
        raise UsageError(f"{saved.source}: {error}") from None
    notes += family.notes(model_class, saved.extras)
    if dropped := sorted(set(saved.extras) - written):
        notes.append(f"{family.name} has no place for {', '.join(dropped)}: not written")
    prefix = family.prefix_in(model_class)
    return (
        {prefix + n if n.startswith(family.body) else n: a for n, a in arrays.items()},
        model_class,
        notes,
    )
