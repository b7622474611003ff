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
from tpu_tlm.config import ModelConfig, strict
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
from tpu_tlm.formats.mead.config import canonical, spec_from_mead
from tpu_tlm.formats.mead.mapping import OWN
from tpu_tlm.formats.mead.shown import completed, embeddings_key, tables
from tpu_tlm.formats.mead.tagger import pop_tagger, put_tagger, tagger_of
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

_EXTRA, _FILES, _CARRIED = f"{OWN}extra/", f"{OWN}tokenizer_files/", f"{OWN}carried/"
_ORIGIN, _FAMILY, _CLASSIFIER = f"{OWN}origin", f"{OWN}family", f"{OWN}classifier"
_GENERATION = f"{OWN}generation"
_TAGGED = {"prefix": "GO", "suffix": "EOS"}
_WORDS = {"prefix": "begin", "suffix": "end"}
NO_TOKENIZER = "MEAD's file holds no tokenizer; give it with --tokenizer"
# Rows of a position table that no text reaches, as they are kept of RoBERTa.
_FIRST_POSITIONS = "positions/first"

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
    extras = put_tagger(arrays, saved.extras, saved.classifier)
    arrays.update({_EXTRA + k: array for k, array in extras.items() if k != OTHER_TYPES})
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
                "(--mead_config)"
            )
        spec = describe(arrays, path)
        # Only MEAD's own hyper-parameters say that a table begins with rows of no text.
        ours = describe if isinstance(describe, MeadDescription) else None
        found = _from_mead(arrays, spec, path, hashes, ours.offset if ours else 0)
        return found.replaced(notes=(*found.notes, *(ours.notes if ours else ())))

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
    plain, output = pop_tagger(arrays, spec, path)
    return PretrainedModel(
        from_mead(plain, spec, path),
        spec,
        path,
        fingerprint=text(TOKENIZER_KEY),
        tokenizer_dir=beside if not contents and filesystem.is_directory(beside) else None,
        own_tokenizer=_tokenizer_of(contents, path) if contents else None,
        extras={**under(_EXTRA), **output, **mead_extras(arrays, spec)},
        carried=carried,
        hashes=hashes,
        family=text(_FAMILY),
        classifier=Classifier.from_json(classifier, path) if classifier is not None else None,
        generation=parse_object(generation.encode(), path) if generation is not None else {},
    ).checked()


def _from_mead(
    arrays: Arrays, spec: ModelSpec, path: str, hashes: dict[str, str], offset: int
) -> PretrainedModel:
    arrays, extras = pop_tagger(arrays, spec, path)
    notes: tuple[str, ...] = (NO_TOKENIZER,)
    classifier = None
    if extras:
        classifier, note = tagger_of(extras["classifier/kernel"].shape[1], path)
        notes += (note,)
    key = f"{embeddings_key(arrays, path)}/x/pos_weights"
    if offset and key in arrays:
        extras[_FIRST_POSITIONS] = np.asarray(arrays[key][:offset], np.float32)
        arrays = {**arrays, key: arrays[key][offset:]}
    values = from_mead(arrays, spec, path, without=("head/",))
    extras |= mead_extras(arrays, spec)
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
    return PretrainedModel(
        values, spec, path, extras=extras, hashes=hashes, notes=notes, classifier=classifier
    ).checked()


class MeadDescription:
    """MEAD's hyper-parameters by MEAD's names, as JSON gives them; calling it gives the spec.

    config: the options as they were given, under MEAD's canonical names; kind: of model. frame:
    tokens around a text by `prefix` and `suffix`, where they are given. where: what errors name,
    the JSON's own where it says so. offset: rows of the
    position table before that of the first token. notes: lines for the user, and whether it was
    `used`, both after the call.
    """

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        kind = given.get("kind", "mlm")
        own = ("kind", "frame", "where")
        config = given.get("config", {k: v for k, v in given.items() if k not in own})
        frame = given.get("frame", {})
        if isinstance(frame, dict):
            frame = {
                n: strict.entry(frame, n, str, f"{where}: frame") for n in _WORDS if n in frame
            }
        if not all(isinstance(one, dict) for one in (config, frame)) or not isinstance(kind, str):
            raise UsageError(f"{where}: is not a JSON object of MEAD's hyper-parameters")
        self.kind, self.frame, self.where = kind, frame, str(given.get("where", where))
        self.offset = strict.entry(config, "offset", int, self.where, default=0, minimum=0)
        try:
            self.config = canonical({k: v for k, v in config.items() if k != "offset"})
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}") from None
        self.notes: list[str] = []
        self.used = False

    def __call__(self, arrays: Mapping[str, np.ndarray], path: str) -> ModelSpec:
        self.used = True
        seen = tables(arrays, path)
        config, self.notes = completed(self.config, arrays, path, self.kind)
        positions = seen["positions"] - self.offset if seen["positions"] else 0
        if seen["positions"] and positions < 1:
            raise UsageError(
                f"{self.where}: offset {self.offset}: {path} has {seen['positions']} positions"
            )
        return spec_from_mead(
            {"vocab": seen["vocab"], **config},
            max_positions=positions or config.get("mxlen") or config.get("nctx") or 256,
            token_types=seen["types"] or 2,
            kind=self.kind,
        )

    def framed(
        self, spec: ModelSpec, tokenizer: Tokenizer, notes: list[str], *, fine_tuning: bool = False
    ) -> ModelSpec:
        """The spec with the tokens that MEAD puts around a text, and a line about them in `notes`.

        Those of `frame`; else [CLS] and [SEP] of its WordPiece vectorizer (of fine-tuning, or in a
        model that was), and <GO> and <EOS> of its tagging corpus. Raises `UsageError` for a token
        that the vocabulary lacks.
        """
        if spec.prefix_id is not None or spec.suffix_id is not None:
            return spec
        frame = {name: tokenizer.required_id(token) for name, token in self.frame.items()}
        if not frame and tokenizer.kind == "wordpiece":
            if fine_tuning or self.kind in ("embed", "tagger"):
                frame = {"prefix": tokenizer.cls_id, "suffix": tokenizer.sep_id}
        elif not frame and self.kind == "tagger" and tokenizer.kind == "bpe":
            frame = {name: tokenizer.required_id(f"<{t}>") for name, t in _TAGGED.items()}
        if frame:
            shown = {name: tokenizer.tokens[index] for name, index in frame.items()}
            said = [f"{w} with {shown[n]}" for n, w in _WORDS.items() if n in shown]
            notes.append(f"texts {' and '.join(said)}, as MEAD's do")
        return replace(spec, prefix_id=frame.get("prefix"), suffix_id=frame.get("suffix"))


def with_tokenizer(
    saved: PretrainedModel, path: str | None, describe: Describe | None
) -> PretrainedModel:
    """The model with the tokenizer at `path`, where one is given, and with the tokens around a
    text that MEAD has, where `describe` is MEAD's.
    """
    if path is None:
        return saved
    tokenizer, spec = saved.tokenizer(path), saved.spec
    notes = [note for note in saved.notes if note != NO_TOKENIZER]
    if isinstance(describe, MeadDescription) and describe.used:
        spec = describe.framed(spec, tokenizer, notes)
    return saved.replaced(
        spec=spec,
        own_tokenizer=tokenizer,
        fingerprint=saved.fingerprint or tokenizer.fingerprint(),
        notes=(*notes, *tokenizer.notes),
    )


def described_by(mead_config: str | None) -> MeadDescription | None:
    """The description in JSON, or in a file of JSON; None where none is given.

    Raises `UsageError` naming what is wrong.
    """
    if mead_config is None:
        return None
    inline = mead_config.lstrip().startswith("{")
    text = mead_config.encode() if inline else filesystem.read_bytes(mead_config)
    return described_by_json(text, "--mead_config" if inline else mead_config)


def described_by_json(text: bytes, where: str) -> MeadDescription:
    """The description in a JSON text: MEAD's hyper-parameters by MEAD's names.

    Either an object of them, or `{"kind": ..., "config": {...}}`. What the arrays show need not be
    given. Raises `UsageError` naming what is wrong.
    """
    return MeadDescription(parse_object(text, where), where)


def described_by_options(config: ModelConfig, kind: str = "mlm", seq_length: int = 256) -> Describe:
    """The model flags as the description.

    Vocabulary, positions and what is more than an encoder come from the arrays.
    """

    def describe(arrays: Mapping[str, np.ndarray], path: str) -> ModelSpec:
        seen = tables(arrays, path)
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
