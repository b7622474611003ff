"""BERT's TensorFlow checkpoint as Google's programs read and write it.

bert_model.ckpt, bert_config.json and vocab.txt in one directory.
"""

from __future__ import annotations

import json
import posixpath
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.tensorflow_files import translating
from tpu_tlm.formats.huggingface import tokenizer_read
from tpu_tlm.formats.huggingface.choose import config_of
from tpu_tlm.formats.huggingface.families import FAMILIES
from tpu_tlm.formats.huggingface.read import SPEC_KEY, assemble, embedded_spec, read_config
from tpu_tlm.formats.huggingface.tokenizer_write import vocab_file
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays, export_arrays
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.tensorflow.google_names import from_google, to_google

CONFIG, NAME = "bert_config.json", "bert_model.ckpt"
_INDEX = ".index"
# Google's program knows no other.
_EPSILON = 1e-12


def checkpoint_prefix(path: str) -> str | None:
    """The checkpoint that a path means, or None.

    A path is a prefix, its .index file, or a directory with checkpoints (the newest is meant).
    """
    if path.endswith(_INDEX):
        return path.removesuffix(_INDEX)
    if filesystem.exists(path + _INDEX):
        return path
    if not filesystem.is_directory(path):
        return None
    found = [
        name.removesuffix(_INDEX) for name in filesystem.list_names(path) if name.endswith(_INDEX)
    ]
    if not found:
        return None
    # `model.ckpt-1000` is newer than `model.ckpt-900`.
    newest = max(found, key=lambda name: (len(name), name))
    return posixpath.join(path, NAME if NAME in found else newest)


def read_variables(prefix: str, hashes: dict[str, str]) -> tuple[Arrays, dict[str, str]]:
    """Every numeric array of a TensorFlow checkpoint by its key.

    Gives also, for an object-based checkpoint, key -> the name that the variable had. The
    SHA-256 of its files are noted in `hashes`. Raises `TlmError` naming a damaged file.
    """
    import tensorflow as tf

    directory, base = posixpath.dirname(prefix) or ".", posixpath.basename(prefix)
    sizes = []
    for name in filesystem.list_names(directory):
        if name.startswith((f"{base}{_INDEX}", f"{base}.data-")):
            data = filesystem.read_bytes(posixpath.join(directory, name))
            hashes[name] = filesystem.sha256(data)
            sizes.append(f"{name} has {len(data):,} bytes")
    if len(sizes) < 2:
        raise TlmError(f"{prefix}: an .index and a .data file are needed")
    try:
        reader = tf.train.load_checkpoint(prefix)
        keys = reader.get_variable_to_dtype_map()
        names = _object_names(reader) if "_CHECKPOINTABLE_OBJECT_GRAPH" in keys else {}
        arrays = {key: reader.get_tensor(key) for key, dtype in keys.items() if dtype != tf.string}
    except Exception as error:  # the reader raises IndexError, RuntimeError, DataLossError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TlmError(
            f"{prefix}: is not a readable TensorFlow checkpoint ({reason}); {', '.join(sizes)}: is "
            "one cut off?"
        ) from None
    return arrays, names


def object_names(arrays: Arrays, names: dict[str, str]) -> Arrays:
    """Arrays by the names that the variables had, where these are noted."""
    return {names.get(key, key): array for key, array in arrays.items()}


def _object_names(reader: Any) -> dict[str, str]:
    """Checkpoint key -> the name that the variable had."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    for node in graph.nodes:
        for attribute in node.attributes:
            name = attribute.full_name
            seen[name] = seen.get(name, 0) + 1
            names[attribute.checkpoint_key] = name
    return {key: name for key, name in names.items() if name and seen[name] == 1}


def read_bert(path: str) -> PretrainedModel:
    """The model in a BERT checkpoint: a directory or a checkpoint prefix, with bert_config.json.

    Optimizer slots are dropped and reported. Raises `UsageError` when there is no checkpoint or
    no configuration.
    """
    prefix = checkpoint_prefix(path)
    if prefix is None:
        raise UsageError(f"{path}: holds no TensorFlow checkpoint (no .index file)")
    directory = posixpath.dirname(prefix) or "."
    hashes: dict[str, str] = {}
    config = read_config(posixpath.join(directory, CONFIG), hashes)
    arrays, originals, optimizer = from_google(object_names(*read_variables(prefix, hashes)))
    tokenizer = tokenizer_read.read_tokenizer(directory, hashes)
    own = embedded_spec(config)
    values = {"layer_norm_eps": _EPSILON, **config.values, "model_type": "bert"}
    notes = []
    if values.get("hidden_act", "gelu") == "gelu":
        # In Google's program `gelu` is the tanh form; a model of ours with the exact one says so.
        exact = own is not None and own.config.activation == "gelu-exact"
        values["hidden_act"] = "gelu" if exact else "gelu_new"
        if own is None:
            notes.append(
                "gelu is the tanh form, as in Google's program (HuggingFace computes the exact one)"
            )
    if optimizer:
        notes.append(f"{len(optimizer)} arrays of the optimizer dropped ({optimizer[0]}, ...)")
    saved = assemble(ConfigReader(values, config.where), arrays, originals, tokenizer, hashes, path)
    return saved.replaced(notes=(*saved.notes, *notes), unused=(*saved.unused, *optimizer))


def write_bert(saved: PretrainedModel, directory: str) -> tuple[dict[str, bytes], list[str]]:
    """Write the checkpoint's arrays into a directory, which is made.

    Gives the checkpoint's other files by name, and notes for the user. Raises `UsageError`
    naming the options of a model that BERT has no place for.
    """
    import tensorflow as tf

    if saved.spec.kind not in ("mlm", "embed"):
        raise UsageError(
            f"{saved.source}: a model of kind {saved.spec.kind!r} cannot be written as BERT"
        )
    spec, values, added = FAMILIES[0].complete(saved.spec, saved.values, saved.source)
    config = config_of(FAMILIES[0], spec, saved.source)
    if not spec.config.tie_weights:
        raise UsageError(f"{saved.source}: BERT's checkpoint has no place for --tie_weights false")
    arrays = export_arrays(FAMILIES[0].pairs(spec), values)
    notes = [f"added {what}, which BERT always has" for what in added]
    if spec.kind != saved.spec.kind:
        notes.append(
            "written as an encoder without a token head: BERT has none like this model's "
            "(--mlm_head bert has)"
        )
    kept: set[str] = set()
    for part in FAMILIES[0].optional(spec):
        paths = {path for one in part for path in one.paths}
        if paths <= set(saved.extras):
            arrays.update(export_arrays(part, {path: saved.extras[path] for path in paths}))
            kept |= paths
    if dropped := sorted(set(saved.extras) - kept):
        notes.append(f"BERT has no place for {', '.join(dropped)}: not written")
    if spec.config.activation == "gelu-exact":
        notes.append(
            "Google's program computes gelu in the tanh form, this model in the exact one: its "
            "numbers will differ by about 1e-3"
        )
    if spec.config.layer_norm_eps != _EPSILON:
        notes.append(
            f"Google's program has layer_norm_eps {_EPSILON} built in, this model "
            f"{spec.config.layer_norm_eps}"
        )
    named = to_google(arrays)
    filesystem.make_directory(directory)
    with filesystem.naming(directory), translating(), tf.device("CPU:0"):
        tf.raw_ops.SaveV2(
            prefix=posixpath.join(directory, NAME),
            tensor_names=list(named),
            shape_and_slices=[""] * len(named),
            tensors=[tf.constant(np.asarray(array)) for array in named.values()],
        )
    google = {
        k: config[k]
        for k in config
        if k not in ("architectures", "model_type", "dtype", "tie_word_embeddings", "pad_token_id")
    }
    google["hidden_act"] = {"gelu_new": "gelu"}.get(config["hidden_act"], config["hidden_act"])
    google[SPEC_KEY] = json.loads(saved.spec.to_json())
    found = {CONFIG: (json.dumps(google, indent=2) + "\n").encode()}
    if saved.own_tokenizer is not None or saved.tokenizer_dir is not None:
        tokenizer = saved.tokenizer()
        if isinstance(tokenizer, WordPieceTokenizer):
            found[tokenizer_read.VOCAB] = vocab_file(tokenizer)
            found[tokenizer_read.SETTINGS] = json.dumps(
                {"do_lower_case": not tokenizer.cased}
            ).encode()
        else:
            notes.append("no vocab.txt: the tokenizer is not WordPiece")
    elif saved.carried:
        found.update(saved.carried)
    return found, notes
