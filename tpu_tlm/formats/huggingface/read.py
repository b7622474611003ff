"""Reading a HuggingFace directory (safetensors and config.json) without `transformers`."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface import bert, gpt2
from tpu_tlm.formats.huggingface import config as hf_config
from tpu_tlm.formats.huggingface import tokenizer as hf_tokenizer
from tpu_tlm.formats.huggingface.bert import FIRST_POSITIONS, POSITIONS
from tpu_tlm.formats.huggingface.safetensors import decode
from tpu_tlm.formats.mapping import Arrays, read
from tpu_tlm.formats.pretrained import PretrainedModel

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PREFIX = re.compile(r"^(bert|roberta|electra|transformer)\.")
_OLD_NORM = re.compile(r"(LayerNorm|layer_norm)\.(gamma|beta)$")
# Constants that files of older versions hold beside the weights.
_CONSTANT = re.compile(r"(^|\.)(position_ids|token_type_ids|attn\.bias|attn\.masked_bias)$")
# An array of the model itself: when one of them is not used, the configuration is of another model.
_BODY = re.compile(r"^(embeddings|embeddings_project|encoder|h|wte|wpe|ln_f)(\.|$)")


def canonical(arrays: Mapping[str, np.ndarray], where: str) -> tuple[Arrays, dict[str, str]]:
    """Arrays by their name without the family's prefix and with today's names of norms; and canonical -> original name."""
    found: Arrays = {}
    originals: dict[str, str] = {}
    for name, array in arrays.items():
        new = _PREFIX.sub("", name)
        new = _OLD_NORM.sub(lambda m: f"{m[1]}.{'weight' if m[2] == 'gamma' else 'bias'}", new)
        if new in found:
            raise TlmError(f"{where}: {name!r} and {originals[new]!r} are two arrays for one place")
        found[new], originals[new] = array, name
    return found, originals


def read_json(path: str, hashes: dict[str, str]) -> dict[str, Any]:
    """The mapping in a JSON file, its SHA-256 noted. Raises `TlmError` naming a file that is not one."""
    data = filesystem.read_bytes(path)
    hashes[posixpath.basename(path)] = filesystem.sha256(data)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise TlmError(f"{path}: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise TlmError(f"{path}: must hold a JSON object")
    return value


def _weights(directory: str, hashes: dict[str, str]) -> Arrays:
    """The arrays of the weight file, or of the several that an index names."""
    if filesystem.exists(posixpath.join(directory, WEIGHTS)):
        names = [WEIGHTS]
    elif filesystem.exists(posixpath.join(directory, INDEX)):
        names = sorted(
            set(read_json(posixpath.join(directory, INDEX), hashes).get("weight_map", {}).values())
        )
    else:
        raise UsageError(
            f"{directory}: has no {WEIGHTS}; save the model as safetensors (save_pretrained does)"
        )
    arrays: Arrays = {}
    for name in names:
        path = posixpath.join(directory, name)
        data = filesystem.read_bytes(path)
        hashes[name] = filesystem.sha256(data)
        part, _ = decode(data, path)
        if double := sorted(set(part) & set(arrays)):
            raise TlmError(f"{path}: {double[0]!r} stands in another file too")
        arrays.update(part)
    return arrays


def read_hf(directory: str) -> PretrainedModel:
    """The model in a HuggingFace directory: BERT, RoBERTa, ELECTRA or GPT-2, with or without its token head.

    Raises `UsageError` for a model that is not covered, `TlmError` when arrays are missing, have other sizes than config.json says, or
    are of a larger model.
    """
    hashes: dict[str, str] = {}
    where = posixpath.join(directory, CONFIG)
    config = read_json(where, hashes)
    arrays, originals = canonical(_weights(directory, hashes), directory)
    tokenizer = hf_tokenizer.read_tokenizer(directory, hashes)
    return assemble(config, arrays, originals, tokenizer, hashes, directory, where)


def assemble(
    config: Mapping[str, Any],
    arrays: Arrays,
    originals: Mapping[str, str],
    tokenizer: hf_tokenizer.FoundTokenizer,
    hashes: dict[str, str],
    source: str,
    where: str,
) -> PretrainedModel:
    """A saved model out of a configuration and arrays by canonical name; `originals`: the names to speak of; `where`: the configuration."""
    family = hf_config.family_of(config, where)
    if "vocab_size" not in config:
        raise UsageError(f"{where}: vocab_size is missing")
    spec = hf_config.spec_of(config, _kind(family, arrays, config, source), where)
    extras: Arrays = {}
    used: set[str] = set()
    if offset := hf_config.offset_of(family, config):
        arrays = dict(arrays)
        extras[FIRST_POSITIONS] = np.array(arrays[POSITIONS][:offset], np.float32)
        arrays[POSITIONS] = arrays[POSITIONS][offset:]
    layout = gpt2.pairs(spec) if family == "gpt2" else bert.pairs(spec, family)
    values, taken = read(layout, arrays, source)
    used |= taken
    for part in (list(bert.pooler_pairs()), list(bert.next_sentence_pairs())):
        if all(key in arrays for pair in part for key in pair.keys):
            found, taken = read(part, arrays, source)
            extras.update(found)
            used |= taken
    notes: list[str] = []
    for repeated, of in _ties(family):
        if spec.config.tie_weights and repeated in arrays and of in arrays:
            used.add(repeated)
            if not np.array_equal(arrays[repeated], arrays[of]):
                notes.append(
                    f"{originals[repeated]} differs from {originals[of]}, to which config.json ties it: the latter counts"
                )
    unused = sorted(key for key in arrays if key not in used and not _CONSTANT.search(key))
    if body := [key for key in unused if _BODY.match(key)]:
        raise TlmError(
            f"{source}: {originals[body[0]]!r} and {len(body) - 1} others have no place in the model that {where} describes"
        )
    if (own := hf_config.embedded_spec(config, where)) is not None and family != "gpt2":
        if (back := bert.reduced(spec, values, own)) is not None:
            spec, values = back
        else:
            notes.append(
                "the model was changed since this package wrote it: its own configuration inside config.json is passed over"
            )
    elif own is not None:
        spec = own
    saved = PretrainedModel(
        values,
        hf_tokenizer.framed(spec, tokenizer.tokenizer, config) if own is None else spec,
        source,
        fingerprint=tokenizer.tokenizer.fingerprint() if tokenizer.tokenizer else None,
        own_tokenizer=tokenizer.tokenizer,
        extras=extras,
        unused=tuple(originals[key] for key in unused),
        carried=tokenizer.carried,
        hashes=hashes,
        notes=(*notes, *tokenizer.notes),
    )
    return saved.checked()


def _ties(family: str) -> list[tuple[str, str]]:
    """Arrays that only repeat another one in a tied model."""
    if family == "gpt2":
        return [("lm_head.weight", "wte.weight")]
    table = bert.head_keys(family)[1]
    bias = {
        "bert": "cls.predictions.bias",
        "roberta": "lm_head.bias",
        "electra": "generator_lm_head.bias",
    }[family]
    return [(table, "embeddings.word_embeddings.weight"), (table.replace(".weight", ".bias"), bias)]


def _kind(family: str, arrays: Arrays, config: Mapping[str, Any], source: str) -> str:
    """The kind of model, by the head that the file has."""
    if family == "gpt2":
        return "clm"
    if bert.head_keys(family)[0] in arrays:
        return "mlm"
    if f"{bert.DISCRIMINATOR}.dense.weight" in arrays:
        return "discriminator"
    named = str((config.get("architectures") or [""])[0])
    if named.endswith(("ForMaskedLM", "ForPreTraining")):
        raise TlmError(
            f"{source}: config.json names {named}, but there is no {bert.head_keys(family)[0]!r}"
        )
    return "embed"
