"""ELMo in and out: `options.json` and `weights.hdf5` of AllenNLP and bilm-tf."""

from __future__ import annotations

import json
import posixpath

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.characters import CharacterTokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.elmo.arrays import arrays
from tpu_tlm.formats.elmo.format import files_of
from tpu_tlm.formats.elmo.options import read_options, spec_of, write_options
from tpu_tlm.formats.elmo.weights import names_of, opened, read_array, written
from tpu_tlm.formats.json_files import read_object
from tpu_tlm.formats.pretrained import PretrainedModel

OPTIONS, WEIGHTS = "options.json", "weights.hdf5"
# Not part of the published format, where a task's model keeps it: read back by us.
MIX = "scalar_mix"


def read_elmo(path: str) -> PretrainedModel:
    """The ELMo in a directory with `options.json` and `weights.hdf5`, or beside one of the two.

    The mix begins as the plain average of the layers, as in AllenNLP, unless our own file has one.
    Raises `UsageError` for what is not supported, `TlmError` for what is damaged.
    """
    options_path, weights_path = files_of(path)
    values, data = read_object(options_path)
    content = filesystem.read_bytes(weights_path)
    with opened(content, weights_path) as file:
        names = names_of(file, weights_path)
        config = read_options(values, options_path, "CNN_proj/W_proj" in names)
        found: dict[str, np.ndarray] = {}
        used = set()
        for array in arrays(config):
            name = array.name or f"{MIX}/{posixpath.basename(array.path)}"
            if array.name is None and name not in names:
                fill = 1.0 if name.endswith("gamma") else 0.0
                found[array.path] = np.full(array.shape, fill, np.float32)
                continue
            used.add(name)
            found[array.path] = read_array(file, name, array.shape, weights_path)
    return PretrainedModel(
        found,
        spec_of(config, values, options_path),
        path,
        own_tokenizer=CharacterTokenizer(config.characters),
        unused=tuple(sorted(set(names) - used)),
        hashes={
            posixpath.basename(options_path): filesystem.sha256(data),
            posixpath.basename(weights_path): filesystem.sha256(content),
        },
        notes=("texts are split at white space: give texts whose words are separated by spaces",),
    )


def elmo_files(saved: PretrainedModel) -> tuple[dict[str, bytes], list[str]]:
    """`options.json` and `weights.hdf5` of a model, and notes.

    Raises `UsageError` for a model of another kind.
    """
    config = saved.spec.elmo
    if config is None:
        raise UsageError(
            f"{saved.source}: a model of kind {saved.spec.kind!r} cannot be written as an ELMo"
        )
    values = {
        array.name or f"{MIX}/{posixpath.basename(array.path)}": saved.values[array.path]
        for array in arrays(config)
    }
    text = json.dumps(write_options(saved.spec), indent=1) + "\n"
    note = f"the mix of the layers is in {WEIGHTS} as {MIX}/, which other programs ignore"
    return {OPTIONS: text.encode(), WEIGHTS: written(values)}, [note]
