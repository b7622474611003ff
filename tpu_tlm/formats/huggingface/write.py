"""Writing a HuggingFace directory that `transformers` loads as its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.hf import HfTokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.huggingface.choose import choose_family, config_of
from tpu_tlm.formats.huggingface.families import Family
from tpu_tlm.formats.huggingface.generation import config_settings, generation_file
from tpu_tlm.formats.huggingface.heads import fitted, head_pairs
from tpu_tlm.formats.huggingface.read import CLASSIFIER_KEY, SPEC_KEY
from tpu_tlm.formats.huggingface.safetensors import encode
from tpu_tlm.formats.huggingface.tokenizer_read import SETTINGS
from tpu_tlm.formats.huggingface.tokenizer_write import tokenizer_files
from tpu_tlm.formats.huggingface.weights import CONFIG, WEIGHTS
from tpu_tlm.formats.mapping import Arrays, export_arrays
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec


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
    tokenizer = _tokenizer(saved)
    if saved.classifier is not None:
        saved = _padded(saved, tokenizer)
    spec, values, added = family.complete(saved.spec, saved.values, saved.source)
    notes = [f"added {what}, which {family.name} always has" for what in added]
    if spec.kind != saved.spec.kind:
        notes.append(
            "written as an encoder without a token head: transformers has none like this model's "
            "(--mlm_head bert has)"
        )
    config = config_of(family, spec, saved.source)
    if saved.classifier is not None:
        saved = fitted(saved, family, config)
    arrays, model_class, more = _arrays(saved, family, spec, values, config)
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
        config.update(family.classifier_config(saved.classifier, saved.extras))
        if saved.classifier.pairs is not None:
            config[CLASSIFIER_KEY] = {"pairs": saved.classifier.pairs}
        # A classifier of a causal model finds a text's last token by it.
        config.setdefault("pad_token_id", spec.pad_id)
    if spec.kind != "clm" and spec.prefix_id is not None and family.bos_is_prefix:
        config.update(bos_token_id=spec.prefix_id, eos_token_id=spec.suffix_id)
    if spec.kind in ("clm", "seq2seq"):
        config.update(config_settings(saved.generation))
    config = {"architectures": [model_class], **config, "dtype": "float32"}
    # The file holds a model of the family; the spec it was made from is kept with it.
    config[SPEC_KEY] = json.loads(saved.spec.to_json())
    found = {WEIGHTS: encode(arrays, {"format": "pt"}), **generation_file(saved.generation)}
    if tokenizer is not None:
        files, said = tokenizer_files(tokenizer, saved.spec if spec.kind == "clm" else spec)
        if saved.classifier is not None:
            files = _as_it_reads(files, spec, tokenizer, bool(saved.classifier.pairs))
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


def _padded(saved: PretrainedModel, tokenizer: Tokenizer | None) -> PretrainedModel:
    """A causal classifier with an id for padding that is no word: by it, not by the attention
    mask, `transformers` finds the last token of a text. GPT-2 names none, and its id 0 is "!"."""
    spec = saved.spec
    named = tokenizer.named_pad if isinstance(tokenizer, HfTokenizer) else spec.pad_id
    if spec.kind != "clm" or spec.pad_id or named == 0 or spec.eol_id is None:
        return saved
    pad = spec.eol_id if named is None else named
    return saved.replaced(spec=dataclasses.replace(spec, pad_id=pad))


def _as_it_reads(
    files: dict[str, bytes], spec: ModelSpec, tokenizer: Tokenizer, pairs: bool
) -> dict[str, bytes]:
    """Tokenizer files that name what a classifier needs, where they do not: a token for padding,
    and token types, which newer versions of `transformers` give to BERT's own class only."""
    settings = json.loads(files.get(SETTINGS, b"{}"))
    needed: dict[str, Any] = {}
    if spec.kind == "clm":
        needed["pad_token"] = tokenizer.tokens[spec.pad_id]
    if pairs and spec.config.type_vocab_size > 1:
        needed["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    missing = {key: value for key, value in needed.items() if settings.get(key) is None}
    if not missing:
        return files
    return {**files, SETTINGS: json.dumps({**settings, **missing}, indent=1).encode()}


def _arrays(
    saved: PretrainedModel,
    family: Family,
    spec: ModelSpec,
    values: Arrays,
    config: Mapping[str, Any],
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
        parts.append(head_pairs(saved, family, config))
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
