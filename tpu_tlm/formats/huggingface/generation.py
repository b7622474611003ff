"""What the files beside a HuggingFace model say of generating texts with it."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.formats.json_files import ConfigReader, read_object
from tpu_tlm.models.spec import ModelSpec

FILE = "generation_config.json"
# Keys of `PretrainedModel.generation`: settings in config.json, and the file as it stands.
IN_CONFIG, IN_FILE = "config", "file"
# Settings that `inference.generate` applies, and those that it does not, with the value that
# changes nothing. The search, its width and length are chosen by whoever generates.
_APPLIED = ("forced_bos_token_id", "forced_eos_token_id", "no_repeat_ngram_size")
_NEUTRAL: dict[str, Any] = {
    **{"min_length": 0, "min_new_tokens": 0, "repetition_penalty": 1.0, "diversity_penalty": 0.0},
    **{"encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0},
    **{"bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None},
    **{"force_words_ids": None, "sequence_bias": None, "exponential_decay_length_penalty": None},
    **{"num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "do_sample": False},
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0},
}


def read_generation(
    directory: str, config: ConfigReader, spec: ModelSpec, hashes: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """`PretrainedModel.generation` of a directory, and a note for what is not applied.

    Raises `UsageError` for a forced token that is no id, or an n-gram size that is no size.
    """
    if spec.kind not in ("clm", "seq2seq"):
        return {}, []
    given, found = config.values, dict[str, Any]()
    keys = (*_APPLIED, *_NEUTRAL)
    if named := {key: given[key] for key in keys if given.get(key) is not None}:
        found[IN_CONFIG] = named
    where = config.where
    if FILE in filesystem.list_names(directory):
        where = filesystem.check_inside(directory, FILE, directory)
        found[IN_FILE], data = read_object(where)
        hashes[posixpath.basename(FILE)] = filesystem.sha256(data)
    values = effective(found)
    reader = ConfigReader(values, where)
    for key in _APPLIED[:2]:
        reader.token(key, spec.vocab_size)
    reader.size(_APPLIED[2], low=0, high=2**20, default=0, null=True)
    ignored = [
        f"{key} {json.dumps(values[key])[:40]}"
        for key, neutral in _NEUTRAL.items()
        if values.get(key) not in (None, neutral, [])
    ]
    if not ignored:
        return found, []
    return found, [
        f"{posixpath.basename(where)}: {', '.join(ignored)} are kept, but not applied: generating "
        "has options of its own"
    ]


def effective(generation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that count: those of the file, where there is one, else those of config.json."""
    found = generation.get(IN_FILE, generation.get(IN_CONFIG, {}))
    return found if isinstance(found, dict) else {}


def config_settings(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that config.json had, to be written again."""
    found = generation.get(IN_CONFIG, {})
    return dict(found) if isinstance(found, dict) else {}


def generation_file(generation: Mapping[str, Any]) -> dict[str, bytes]:
    """generation_config.json as it was read, or nothing."""
    if IN_FILE not in generation:
        return {}
    return {FILE: (json.dumps(generation[IN_FILE], indent=2) + "\n").encode()}
