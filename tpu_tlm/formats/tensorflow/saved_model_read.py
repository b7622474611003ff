"""Reading a SavedModel: ours, or BERT from TensorFlow Hub and Keras, by its variables' names."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import Classifier
from tpu_tlm.formats.huggingface import tokenizer_read
from tpu_tlm.formats.huggingface.read import assemble, read_config
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays
from tpu_tlm.formats.pretrained import PretrainedModel, read_spec
from tpu_tlm.formats.tensorflow.bert_checkpoint import CONFIG, object_names, read_variables
from tpu_tlm.formats.tensorflow.google_names import from_google

OWN = "assets.extra/tpu_tlm"
SPEC, TOKENIZER = f"{OWN}/spec.json", f"{OWN}/tokenizer"
# Attributes of our served module that hold the variables by path, and the extras.
VALUES, EXTRAS = "values", "extras"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Directories in which a vocabulary or a configuration may be.
_PLACES = ("", "assets", "assets.extra")


def _ours(arrays: Mapping[str, np.ndarray], place: str) -> Arrays:
    """The arrays under one attribute of our module, by path.

    TensorFlow writes `/` inside a key as `.S`, and `.` as `..`.
    """
    found = {}
    for key, array in arrays.items():
        if key.startswith(f"{place}/") and key.endswith(_SUFFIX):
            inner = key.removeprefix(f"{place}/").removesuffix(_SUFFIX)
            found[re.sub(r"\.([.S])", lambda m: "/" if m[1] == "S" else ".", inner)] = array
    return found


def read_saved_model(directory: str) -> PretrainedModel:
    """The model in a SavedModel directory, ours (`convert --to savedmodel`) or BERT's.

    BERT's are those of TensorFlow Hub and Keras.

    Raises `UsageError` when it is none of them, `TlmError` when it is damaged.
    """
    hashes: dict[str, str] = {}
    prefix = posixpath.join(directory, "variables", "variables")
    if not filesystem.exists(f"{prefix}.index"):
        raise UsageError(f"{directory}: has no variables; it is no SavedModel with weights")
    arrays, names = read_variables(prefix, hashes)
    own = posixpath.join(directory, SPEC)
    if filesystem.exists(own):
        return _read_ours(directory, read_config(own, hashes).values, arrays, hashes)
    return _read_bert(directory, object_names(arrays, names), hashes)


def _read_ours(
    directory: str, inside: Mapping[str, Any], arrays: Arrays, hashes: dict[str, str]
) -> PretrainedModel:
    where = posixpath.join(directory, SPEC)
    if "spec" not in inside:
        raise TlmError(f"{where}: holds no model configuration")
    tokenizer_dir = posixpath.join(directory, TOKENIZER)
    tokenizer = load_tokenizer(tokenizer_dir) if filesystem.is_directory(tokenizer_dir) else None
    return PretrainedModel(
        _ours(arrays, VALUES),
        read_spec(json.dumps(inside["spec"]), where),
        directory,
        fingerprint=tokenizer.fingerprint() if tokenizer else None,
        own_tokenizer=tokenizer,
        extras=_ours(arrays, EXTRAS),
        hashes=hashes,
        family=inside.get("family") if isinstance(inside.get("family"), str) else None,
        generation=inside["generation"] if isinstance(inside.get("generation"), dict) else {},
        classifier=(
            Classifier.from_json(json.dumps(inside["classifier"]), where)
            if inside.get("classifier") is not None
            else None
        ),
    ).checked()


def _found(directory: str, name: str) -> str | None:
    paths = (
        posixpath.join(directory, place, name) if place else posixpath.join(directory, name)
        for place in _PLACES
    )
    return next((path for path in paths if filesystem.exists(path)), None)


def _read_bert(directory: str, arrays: Arrays, hashes: dict[str, str]) -> PretrainedModel:
    lower = next(
        (bool(a) for name, a in arrays.items() if name.split(":")[0].endswith("do_lower_case")),
        None,
    )
    floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
    found, originals, optimizer = from_google(floats)
    if "embeddings.word_embeddings.weight" not in found:
        some = ", ".join(sorted(floats)[:3]) or "none"
        raise UsageError(
            f"{directory}: its variables ({some}, ...) are not named as BERT's are in TensorFlow "
            "Hub or Keras"
        )
    config, where, notes = _configuration(directory, found, floats, originals, hashes)
    vocab = _found(directory, tokenizer_read.VOCAB)
    tokenizer = tokenizer_read.FoundTokenizer(
        notes=("it has no vocab.txt; give the tokenizer's directory with --tokenizer",)
    )
    if vocab is not None:
        tokenizer = tokenizer_read.read_tokenizer(posixpath.dirname(vocab), hashes, lower=lower)
    config = {**config, "model_type": "bert"}
    saved = assemble(ConfigReader(config, where), found, originals, tokenizer, hashes, directory)
    if optimizer:
        notes.append(f"{len(optimizer)} arrays of the optimizer dropped ({optimizer[0]}, ...)")
    return saved.replaced(notes=(*saved.notes, *notes), unused=(*saved.unused, *optimizer))


def _configuration(
    directory: str,
    found: Arrays,
    floats: Arrays,
    originals: Mapping[str, str],
    hashes: dict[str, str],
) -> tuple[dict[str, Any], str, list[str]]:
    """BERT's configuration by HuggingFace's names: from bert_config.json, else from the shapes."""
    beside = _found(directory, CONFIG)
    if beside is not None:
        config = dict(read_config(beside, hashes).values)
        if config.get("hidden_act", "gelu") == "gelu":
            config["hidden_act"] = "gelu_new"
        return (
            {"layer_norm_eps": 1e-12, **config},
            beside,
            ["gelu is the tanh form, as in Google's programs"],
        )
    where, notes = (
        f"{directory} (shapes of its variables)",
        ["sizes taken from the shapes; gelu in the tanh form, layer_norm_eps 1e-12"],
    )
    try:
        vocab_size, d_model = found["embeddings.word_embeddings.weight"].shape
        layers = {int(m[1]) for name in found if (m := re.match(r"encoder\.layer\.(\d+)\.", name))}
        query = "encoder.layer.0.attention.self.query.weight"
        by_head = floats[originals[query]]
        config = {
            "vocab_size": vocab_size,
            "hidden_size": d_model,
            "num_hidden_layers": max(layers) + 1,
            "num_attention_heads": by_head.shape[1] if by_head.ndim == 3 else max(1, d_model // 64),
            "intermediate_size": len(found["encoder.layer.0.intermediate.dense.weight"]),
            "max_position_embeddings": len(found["embeddings.position_embeddings.weight"]),
            "type_vocab_size": len(found["embeddings.token_type_embeddings.weight"]),
            "hidden_act": "gelu_new",
        }
    except (KeyError, ValueError) as error:
        raise TlmError(
            f"{directory}: its variables are not a whole BERT: {error} is missing"
        ) from None
    if by_head.ndim != 3:
        notes.append(
            "its variables do not show the number of heads: "
            f"{config['num_attention_heads']} of width 64 are assumed, as in Google's models"
        )
    return config, where, notes
