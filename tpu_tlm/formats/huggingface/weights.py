"""The weight files of a HuggingFace directory: one safetensors file, or the shards of an index."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.huggingface.safetensors import decode
from tpu_tlm.formats.json_files import read_object
from tpu_tlm.formats.mapping import Arrays

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_MOST_SHARDS = 10_000
_OLD_NORM = re.compile(r"(LayerNorm|layer_norm)\.(gamma|beta)$")


def read_weights(directory: str, hashes: dict[str, str]) -> Arrays:
    """The arrays of the weight file, or of the files that an index names.

    Raises `UsageError` when there is none, or the index names anything but a regular file inside
    the directory; `TlmError` naming a damaged file.
    """
    present = set(filesystem.list_names(directory))
    if WEIGHTS in present:
        names: list[str] = [WEIGHTS]
    elif INDEX in present:
        where = filesystem.check_inside(directory, INDEX, directory)
        index, data = read_object(where)
        hashes[INDEX] = filesystem.sha256(data)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise TlmError(f"{where}: weight_map must be an object that names a file per tensor")
        values = list(weight_map.values())
        if not all(isinstance(value, str) for value in values):
            raise TlmError(f"{where}: weight_map must name a file for every tensor")
        names = sorted(set(values))
        if len(names) > _MOST_SHARDS:
            raise TlmError(f"{where}: names {len(names)} files")
    else:
        raise UsageError(
            f"{directory}: has no {WEIGHTS}; save the model as safetensors (save_pretrained does)"
        )
    # All names are checked before the first file is opened.
    paths = [filesystem.check_inside(directory, name, f"{directory}: {INDEX}") for name in names]
    arrays: Arrays = {}
    for name, path in zip(names, paths, strict=True):
        data = filesystem.read_bytes(path)
        hashes[name] = filesystem.sha256(data)
        part = decode(data, path)
        if double := sorted(set(part) & set(arrays)):
            raise TlmError(f"{path}: {double[0]!r} is in another file too")
        arrays.update(part)
    return arrays


def canonical(
    arrays: Mapping[str, np.ndarray], prefix: str, where: str
) -> tuple[Arrays, dict[str, str]]:
    """Arrays by their name without the family's prefix and with today's names of layer norms.

    Gives also canonical -> original name. Raises `TlmError` when two arrays get one name.
    """
    found: Arrays = {}
    originals: dict[str, str] = {}
    for name, array in arrays.items():
        new = name.removeprefix(prefix)
        new = _OLD_NORM.sub(lambda m: f"{m[1]}.{'weight' if m[2] == 'gamma' else 'bias'}", new)
        if new in found:
            raise TlmError(f"{where}: {name!r} and {originals[new]!r} have the same place")
        found[new], originals[new] = array, name
    return found, originals
