"""The files of a HuggingFace tokenizer, and those of older kinds as a `tokenizer.json`."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.hf import (
    MOST_UNUSED,
    PIPELINE,
    SETTINGS,
    SPECIALS,
    HfTokenizer,
    library_error,
)
from tpu_tlm.data.tokenizers.hf_classes import class_name, splits_as_gpt2, usual_names
from tpu_tlm.data.tokenizers.hf_settings import FLAGS, completed
from tpu_tlm.data.tokenizers.text_files import json_of, lines_of
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

_SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_GPT2 = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def read_hf_tokenizer(path: str) -> HfTokenizer:
    """The tokenizer in a tokenizer.json, a SentencePiece model, or a directory that has files of
    one.

    Raises `UsageError` where there is none, or it cannot be read.
    """
    directory, name = path, ""
    if not filesystem.is_directory(path):
        directory, name = os.path.split(path)
    base = f"{directory.rstrip('/')}/" if directory else ""
    contents = {
        file: filesystem.read_bytes(base + file)
        for file in (SETTINGS, SPECIALS)
        if filesystem.exists(base + file)
    }
    settings = json_of(contents[SETTINGS], base + SETTINGS) if SETTINGS in contents else {}
    if name.endswith(".model"):
        return _sentencepiece(path, contents)
    if name:
        contents[PIPELINE] = completed(filesystem.read_bytes(path), base, path)
        return HfTokenizer(contents, name=path)
    if filesystem.exists(base + PIPELINE):
        data = filesystem.read_bytes(base + PIPELINE)
        contents[PIPELINE] = completed(data, base, base + PIPELINE)
    elif model := _first_there(base, _SENTENCEPIECE):
        # Where nothing names a class, the ids are the model's own.
        if "tokenizer_class" not in settings and not filesystem.exists(f"{directory}/config.json"):
            return _sentencepiece(base + model, contents)
        contents[PIPELINE] = _by_transformers(directory, "a SentencePiece model")[0]
    else:
        for vocab, merges in _GPT2:
            if filesystem.exists(base + vocab) and filesystem.exists(base + merges):
                name = class_name(settings, base)
                if not splits_as_gpt2(name):
                    what = f"{vocab} and {merges} of the class {name[:60]}"
                    contents[PIPELINE], contents[SPECIALS] = _by_transformers(directory, what)
                    break
                given = [json_of(data, base + file) for file, data in contents.items()]
                data = _byte_level(base + vocab, base + merges, given, name)
                contents[PIPELINE] = completed(data, base, base + vocab)
                break
    if PIPELINE not in contents:
        raise UsageError(
            f"{path}: holds no tokenizer ({PIPELINE}, a SentencePiece model, or vocab.json with "
            "merges.txt)"
        )
    return HfTokenizer(contents, name=base + PIPELINE)


def _first_there(base: str, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if filesystem.exists(base + name)), None)


def _sentencepiece(path: str, contents: dict[str, bytes]) -> HfTokenizer:
    from tpu_tlm.data.tokenizers.sentencepiece_model import tokenizer_json
    from tpu_tlm.data.tokenizers.sentencepiece_tokenizer import SPIECE, SentencePieceTokenizer

    data = filesystem.read_bytes(path)
    contents = {**contents, PIPELINE: tokenizer_json(data, path), SPIECE: data}
    return SentencePieceTokenizer(contents, name=path)


def _by_transformers(directory: str, what: str) -> tuple[bytes, bytes]:
    """A tokenizer.json and special_tokens_map.json of a directory without, by `transformers`.

    It knows how each class uses its files. what: those that are there. Raises `UsageError`.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UsageError(
            f"{directory}: has {what} but no {PIPELINE}: install transformers and sentencepiece "
            f"(extra `hf`), which convert it, or save it with its {PIPELINE}"
        ) from None
    try:
        with filesystem.naming(directory):
            loaded = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        return (
            str(loaded.backend_tokenizer.to_str()).encode(),
            json.dumps({k: str(v) for k, v in loaded.special_tokens_map.items()}).encode(),
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{directory}: has {what} but no {PIPELINE}, and transformers cannot convert its "
            f"tokenizer: {reason}"
        ) from None


def _byte_level(vocab: str, merges: str, given: list[dict[str, Any]], name: str) -> bytes:
    """GPT-2's and RoBERTa's files as a tokenizer.json. name: of the class; given: its settings."""
    ids = json_of(filesystem.read_bytes(vocab), vocab)
    lines = lines_of(filesystem.read_bytes(merges), merges)
    pairs = []
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith("#version") or not line.strip():
            continue
        pair = line.rstrip("\r").split(" ")
        if len(pair) != 2:
            raise UsageError(f"{merges}:{number}: is not 'left right': {line[:60]!r}")
        pairs.append((pair[0], pair[1]))
    prefix = any(settings.get("add_prefix_space") for settings in given)
    last = len(ids) + MOST_UNUSED
    if wrong := [k for k, v in ids.items() if type(v) is not int or not 0 <= v < last]:
        raise UsageError(f"{vocab}: {wrong[0][:60]!r} has no usable id: {str(ids[wrong[0]])[:40]}")
    if len(set(ids.values())) < len(ids):
        twice = sorted(ids, key=lambda token: (ids[token], token))
        first, second = next((a, b) for a, b in pairwise(twice) if ids[a] == ids[b])
        raise UsageError(f"{vocab}: {first[:60]!r} and {second[:60]!r} have the same id")
    try:
        pipeline = byte_level_pipeline(ids, pairs, prefix)
    except BaseException as error:
        raise library_error(error, f"{merges}: does not belong to {vocab}") from None
    pipeline.add_special_tokens(_special_of(given, ids, name))
    return str(pipeline.to_str()).encode()


def _special_of(given: list[dict[str, Any]], ids: dict[str, Any], name: str) -> list[Any]:
    """The special tokens in a vocabulary, as the settings or the class name them."""
    from tokenizers import AddedToken

    usual = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    roles: dict[str, Any] = dict(usual_names(name) or {token: token for token in usual})
    for settings in given:
        roles |= {key: v for key, v in settings.items() if key.endswith("_token") and v}
    found = {}
    for token in roles.values():
        content, flags = token, {}
        if isinstance(token, dict):
            content = token.get("content")
            flags = {flag: bool(token[flag]) for flag in FLAGS if flag in token}
        if isinstance(content, str) and content in ids:
            found[content] = AddedToken(content, **{"normalized": False, **flags, "special": True})
    return list(found.values())


def byte_level_pipeline(
    ids: dict[str, int], merges: list[tuple[str, str]], add_prefix_space: bool = False
) -> Pipeline:
    """GPT-2's byte-level BPE as a pipeline."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import decoders, models, pre_tokenizers, processors

    pipeline = Pipeline(models.BPE(ids, merges))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.post_processor = processors.ByteLevel(trim_offsets=False)
    return pipeline


def settings_json(tokenizer_class: str, roles: dict[str, str], **more: Any) -> bytes:
    """A tokenizer_config.json. roles: `pad_token` and so on -> token."""
    return (
        json.dumps({"tokenizer_class": tokenizer_class, **roles, **more}, indent=1) + "\n"
    ).encode()
