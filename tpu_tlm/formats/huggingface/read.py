"""Reading a HuggingFace directory (safetensors and config.json) without `transformers`."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.classifier import SEQUENCE, TOKEN, Classifier
from tpu_tlm.formats.huggingface import tokenizer_read
from tpu_tlm.formats.huggingface.families import Family, family_of
from tpu_tlm.formats.huggingface.families.bert import reduced
from tpu_tlm.formats.huggingface.families.family import named_class
from tpu_tlm.formats.huggingface.generation import read_generation
from tpu_tlm.formats.huggingface.weights import CONFIG, canonical, read_weights
from tpu_tlm.formats.json_files import ConfigReader, read_object
from tpu_tlm.formats.mapping import Arrays, import_arrays
from tpu_tlm.formats.pretrained import PretrainedModel, read_spec
from tpu_tlm.models.spec import ModelSpec

# Key of config.json that holds our spec; other readers ignore it.
SPEC_KEY = "tpu_tlm"
# Key of what else we know of a classifier: {"pairs": whether it takes pairs of texts}.
CLASSIFIER_KEY = "tpu_tlm_classifier"
# Starts of the names of a classification head's arrays, of which none may be left.
_HEADS = ("head.", "classifier", "score", "pre_classifier", "classification_head")
# Constants that files of older versions hold beside the weights.
_CONSTANT = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias)$")
_TASKS = {"ForSequenceClassification": SEQUENCE, "ForTokenClassification": TOKEN}


def read_config(path: str, hashes: dict[str, str]) -> ConfigReader:
    """The configuration in a JSON file; its SHA-256 is noted. Raises `TlmError` for a bad file."""
    values, data = read_object(path)
    hashes[posixpath.basename(path)] = filesystem.sha256(data)
    return ConfigReader(values, path)


def read_hf(directory: str) -> PretrainedModel:
    """The model in a HuggingFace directory, of one of `families.FAMILIES`.

    Raises `UsageError` for a model that is not supported, `TlmError` when arrays are missing, do
    not have the sizes that config.json says, or belong to a larger model.
    """
    hashes: dict[str, str] = {}
    config = read_config(filesystem.check_inside(directory, CONFIG, directory), hashes)
    family = family_of(config)
    arrays, originals = canonical(read_weights(directory, hashes), family.prefix, directory)
    tokenizer = tokenizer_read.read_tokenizer(
        directory, hashes, tokenizer_class=config.text("tokenizer_class")
    )
    saved = assemble(config, arrays, originals, tokenizer, hashes, directory)
    generation, notes = read_generation(directory, config, saved.spec, hashes)
    return saved.replaced(generation=generation, notes=(*saved.notes, *notes))


def assemble(
    config: ConfigReader,
    arrays: Arrays,
    originals: Mapping[str, str],
    tokenizer: tokenizer_read.FoundTokenizer,
    hashes: dict[str, str],
    source: str,
) -> PretrainedModel:
    """A model out of a configuration and arrays by canonical name (`originals`: their own)."""
    family = family_of(config)
    spec = family.read_config(config, family.kind_of(arrays, config))
    arrays, extras = family.from_file(arrays, config)
    values, used = import_arrays(family.pairs(spec), arrays, source)
    for part in family.optional(spec):
        if all(key in arrays for one in part for key in one.keys):
            found, taken = import_arrays(part, arrays, source)
            extras.update(found)
            used |= taken
    classifier = _classifier(family, config, arrays, extras, used, source)
    notes = list(_check_repeats(family, spec, arrays, originals, used))
    unused = sorted(key for key in arrays if key not in used and not _CONSTANT.search(key))
    if body := [key for key in unused if key.startswith(family.body)]:
        raise TlmError(
            f"{source}: {originals[body[0]]!r} and {len(body) - 1} others have no place in the "
            f"model that {config.where} describes"
        )
    if classifier and (head := [key for key in unused if key.startswith(_HEADS)]):
        raise TlmError(
            f"{source}: {originals[head[0]]!r} has no place in the classification head of a "
            f"{family.name} model that {config.where} describes"
        )
    own = embedded_spec(config)
    if own is None:
        bos, eos = (
            _frame_id(config, f"{name}_token_id", spec.vocab_size) for name in ("bos", "eos")
        )
        spec = tokenizer_read.framed(spec, tokenizer, bos, eos)
    elif (back := reduced(spec, values, own)) is not None:
        spec, values = back
    else:
        notes.append(
            "the model was changed after this package wrote it: its own configuration inside "
            "config.json is ignored"
        )
    return PretrainedModel(
        values,
        spec,
        source,
        fingerprint=tokenizer.tokenizer.fingerprint() if tokenizer.tokenizer else None,
        own_tokenizer=tokenizer.tokenizer,
        extras=extras,
        unused=tuple(originals.get(key, key) for key in unused),
        carried=tokenizer.carried,
        hashes=hashes,
        notes=(*notes, *tokenizer.notes),
        family=family.name,
        classifier=classifier,
    ).checked()


def _frame_id(config: ConfigReader, key: str, vocab_size: int) -> int | None:
    """A token id, None where it is beyond the vocabulary: a default that the model cannot mean."""
    value = config.values.get(key)
    beyond = isinstance(value, int) and not isinstance(value, bool) and value >= vocab_size
    return None if beyond else config.token(key, vocab_size)


def _check_repeats(
    family: Family,
    spec: ModelSpec,
    arrays: Arrays,
    originals: Mapping[str, str],
    used: set[str],
) -> list[str]:
    """Mark arrays that only repeat another one as used; a note for each that differs from it."""
    notes = []
    for repeated, of in family.repeats(spec).items():
        if repeated in arrays and of in arrays:
            used.add(repeated)
            if not np.array_equal(arrays[repeated], arrays[of]):
                notes.append(
                    f"{originals[repeated]} differs from {originals.get(of, of)}, which counts"
                )
    return notes


def _classifier(
    family: Family,
    config: ConfigReader,
    arrays: Arrays,
    extras: Arrays,
    used: set[str],
    source: str,
) -> Classifier | None:
    """The classification head that config.json names, its arrays put into `extras`."""
    first = named_class(config)
    task = next((task for end, task in _TASKS.items() if first.endswith(end)), None)
    head = family.classifier(task, config) if task is not None else None
    if task is None or head is None:
        return None
    pairs = list(family.classifier_pairs(task, config))
    found, taken = import_arrays(pairs, arrays, source)
    if head.dense is not None and f"{head.dense}/kernel" not in {**extras, **found}:
        raise TlmError(f"{source}: names {first}, but has no dense layer of its classifier")
    extras.update(found)
    used |= taken
    count = found["classifier/kernel"].shape[-1]
    return Classifier(
        **{
            **vars(head),
            "labels": _labels(config, count),
            "problem_type": config.text("problem_type") or None,
            "pairs": _pairs(config),
        }
    )


def _pairs(config: ConfigReader) -> bool | None:
    """Whether a classifier that we wrote takes pairs of texts; None where nothing says it."""
    inside = config.values.get(CLASSIFIER_KEY)
    found = inside.get("pairs") if isinstance(inside, dict) else None
    return found if isinstance(found, bool) else None


def _labels(config: ConfigReader, count: int) -> tuple[str, ...]:
    """The names of the classes by id: `id2label`, or LABEL_0, LABEL_1, ..."""
    names: Any = config.values.get("id2label")
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(count))
    labels: list[Any] = []
    if isinstance(names, dict):
        labels = [names.get(str(i)) for i in range(count)]
    if len(labels) != count or not all(isinstance(label, str) for label in labels):
        config.fail("id2label", f"a name for each of {count} classes is needed")
    return tuple(labels)


def embedded_spec(config: ConfigReader) -> ModelSpec | None:
    """Our own spec inside a config.json, or None."""
    inside = config.values.get(SPEC_KEY)
    if inside is None:
        return None
    return read_spec(json.dumps(inside), f"{config.where}: {SPEC_KEY}")
