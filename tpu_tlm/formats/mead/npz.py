"""NPZ files: MEAD's arrays under MEAD's keys, and keys of ours that make a file complete."""

from __future__ import annotations

import io
import json
import os
import posixpath
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.config import ModelConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import Classifier
from tpu_tlm.formats.huggingface.tokenizer_read import TOKENIZER_FILES
from tpu_tlm.formats.json_files import parse_object
from tpu_tlm.formats.mapping import Arrays
from tpu_tlm.formats.mead.arrays import (
    CONFIG_KEY,
    OTHER_TYPES,
    TOKENIZER_KEY,
    from_mead,
    mead_extras,
    read_npz,
    spec_of,
    text_of,
    to_mead,
)
from tpu_tlm.formats.mead.config import spec_from_mead
from tpu_tlm.formats.mead.mapping import OWN
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

_EXTRA, _FILES, _CARRIED = f"{OWN}extra/", f"{OWN}tokenizer_files/", f"{OWN}carried/"
_ORIGIN, _FAMILY, _CLASSIFIER = f"{OWN}origin", f"{OWN}family", f"{OWN}classifier"
_GENERATION = f"{OWN}generation"
# Where MEAD keeps the token table: of an encoder-decoder, of all else.
_EMBEDDINGS = ("Seq2Seq/SrcEmbeddings", "TLM/Embeddings")

# Arrays of a file without a configuration, and its path -> the spec of its model.
Describe = Callable[[Mapping[str, np.ndarray], str], ModelSpec]


def npz_bytes(saved: PretrainedModel, origin: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of an NPZ file with everything that is known of a model.

    `origin`: what it was made from. Raises `UsageError` when the model has a variable that the
    layout has no place for.
    """
    if saved.spec.elmo is not None:
        raise UsageError(f"{saved.source}: an ELMo is not written as NPZ; use --to elmo")
    try:
        arrays: Arrays = to_mead(saved.values, saved.spec, saved.extras)
    except KeyError as error:
        raise UsageError(f"{saved.source}: cannot be written as NPZ: {error.args[0]}") from None
    texts = {CONFIG_KEY: saved.spec.to_json().encode()}
    if saved.fingerprint:
        texts[TOKENIZER_KEY] = saved.fingerprint.encode()
    if saved.own_tokenizer is not None or saved.tokenizer_dir is not None:
        files = _tokenizer_files(saved.tokenizer())
        texts.update({_FILES + name: data for name, data in files.items()})
    texts.update({_CARRIED + name: data for name, data in saved.carried.items()})
    if saved.family is not None:
        texts[_FAMILY] = saved.family.encode()
    if saved.classifier is not None:
        texts[_CLASSIFIER] = saved.classifier.to_json().encode()
    if saved.generation:
        texts[_GENERATION] = json.dumps(saved.generation, sort_keys=True).encode()
    if origin is not None:
        texts[_ORIGIN] = json.dumps(origin, sort_keys=True).encode()
    arrays.update({_EXTRA + k: array for k, array in saved.extras.items() if k != OTHER_TYPES})
    arrays.update({key: np.frombuffer(text, np.uint8) for key, text in texts.items()})
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save(directory)
        return {
            name: filesystem.read_bytes(os.path.join(directory, name))
            for name in filesystem.list_names(directory)
        }


def _tokenizer_of(contents: Mapping[str, bytes], path: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as directory:
        for name, data in contents.items():
            plain = filesystem.plain_name(name, f"{path}: a tokenizer file inside")
            filesystem.write_bytes(os.path.join(directory, plain), data)
        try:
            return load_tokenizer(directory)
        except TlmError as error:
            raise TlmError(
                f"{path}: the tokenizer inside: {str(error).replace(directory, '')}"
            ) from None


def read_npz_model(path: str, describe: Describe | None = None) -> PretrainedModel:
    """The model in an NPZ file, ours or MEAD's.

    `describe` gives the spec of one that holds no configuration. Raises `UsageError` for such a
    file without `describe`, `TlmError` when the file is damaged, does not fit its configuration,
    or holds a file under a name that no tokenizer has.
    """
    data = filesystem.read_bytes(path)
    arrays = read_npz(data, path)
    hashes = {posixpath.basename(path): filesystem.sha256(data)}
    spec = spec_of(arrays, path)
    if spec is None:
        if describe is None:
            raise UsageError(
                f"{path}: holds no configuration (MEAD writes none): give MEAD's hyper-parameters "
                "(convert --mead_config)"
            )
        return _from_mead(arrays, describe(arrays, path), path, hashes)

    def under(prefix: str) -> Arrays:
        return {
            key.removeprefix(prefix): array
            for key, array in arrays.items()
            if key.startswith(prefix)
        }

    def text(key: str) -> str | None:
        return text_of(arrays, key, path) if key in arrays else None

    contents = {name: array.tobytes() for name, array in under(_FILES).items()}
    carried = {name: array.tobytes() for name, array in under(_CARRIED).items()}
    if bad := sorted(set(carried) - set(TOKENIZER_FILES)):
        raise UsageError(f"{path}: holds a file {bad[0][:80]!r}, which is no tokenizer's; not read")
    beside = posixpath.join(posixpath.dirname(posixpath.dirname(path)), "tokenizer")
    classifier, generation = text(_CLASSIFIER), text(_GENERATION)
    return PretrainedModel(
        from_mead(arrays, spec, path),
        spec,
        path,
        fingerprint=text(TOKENIZER_KEY),
        tokenizer_dir=beside if not contents and filesystem.is_directory(beside) else None,
        own_tokenizer=_tokenizer_of(contents, path) if contents else None,
        extras={**under(_EXTRA), **mead_extras(arrays, spec)},
        carried=carried,
        hashes=hashes,
        family=text(_FAMILY),
        classifier=Classifier.from_json(classifier, path) if classifier is not None else None,
        generation=parse_object(generation.encode(), path) if generation is not None else {},
    ).checked()


def _from_mead(
    arrays: Arrays, spec: ModelSpec, path: str, hashes: dict[str, str]
) -> PretrainedModel:
    values = from_mead(arrays, spec, path, without=("head/",))
    extras = mead_extras(arrays, spec)
    notes: tuple[str, ...] = (
        "MEAD's file holds no tokenizer; give its directory with --tokenizer",
    )
    untied = spec.kind in ("mlm", "clm") and not spec.config.tie_weights
    if (untied and "head/kernel" not in values) or (
        spec.kind == "discriminator" and "head/unit/kernel" not in values
    ):
        notes += ("MEAD's file holds no output layer: this is the encoder alone",)
        spec = ModelSpec(
            **{
                **vars(spec),
                "kind": "embed",
                "config": replace(spec.config, tie_weights=True, output_bias=False),
            }
        )
        values = {name: value for name, value in values.items() if not name.startswith("head/")}
    return PretrainedModel(values, spec, path, extras=extras, hashes=hashes, notes=notes).checked()


def described_by_json(text: bytes, where: str) -> Describe:
    """The description in a JSON text: MEAD's hyper-parameters by MEAD's names.

    Either an object of them, or `{"kind": ..., "config": {...}}`. What the arrays show
    (vocabulary, positions, token types) need not be given. Raises `UsageError` naming what is
    wrong.
    """
    given = parse_object(text, where)
    kind = given.get("kind", "mlm")
    config = given.get("config", {k: v for k, v in given.items() if k != "kind"})
    if not isinstance(config, dict) or not isinstance(kind, str):
        raise UsageError(f"{where}: is not a JSON object of MEAD's hyper-parameters")

    def describe(arrays: Mapping[str, np.ndarray], path: str) -> ModelSpec:
        seen = _seen(arrays, path)
        return spec_from_mead(
            {"vocab": seen["vocab"], **config},
            max_positions=seen["positions"] or config.get("mxlen") or config.get("nctx") or 256,
            token_types=seen["types"] or 2,
            kind=kind,
        )

    return describe


def described_by_options(config: ModelConfig, kind: str = "mlm", seq_length: int = 256) -> Describe:
    """The model flags as the description.

    Vocabulary, positions and what is more than an encoder come from the arrays.
    """

    def describe(arrays: Mapping[str, np.ndarray], path: str) -> ModelSpec:
        seen = _seen(arrays, path)
        length = seen["positions"] or config.max_positions or seq_length
        return ModelSpec(
            replace(config, max_positions=length), seen["vocab"], length, kind=_kind(arrays, kind)
        )

    return describe


def _kind(arrays: Mapping[str, np.ndarray], asked: str) -> str:
    """The kind of model that MEAD's arrays hold; `asked`: the kind of model it is to start."""
    if any(name.startswith("Seq2Seq/") for name in arrays):
        return "seq2seq"
    if any(name.startswith("TLM/ReductionLayer/") for name in arrays):
        return "dual"
    # Of these, MEAD's file has the encoder at most.
    return "embed" if asked in ("dual", "electra") else asked


def _seen(arrays: Mapping[str, np.ndarray], path: str) -> dict[str, int]:
    root = next((root for root in _EMBEDDINGS if f"{root}/x/weights" in arrays), None)
    if root is None:
        raise UsageError(
            f"{path}: has no array {' or '.join(f'{root}/x/weights' for root in _EMBEDDINGS)}: it "
            "is no model of MEAD's"
        )
    keys = {"vocab": "x/weights", "positions": "x/pos_weights", "types": "tt/weights"}
    return {
        name: len(arrays[f"{root}/{key}"]) if f"{root}/{key}" in arrays else 0
        for name, key in keys.items()
    }
