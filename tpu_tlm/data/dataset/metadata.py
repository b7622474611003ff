"""`md.yml`: what a dataset directory says of itself, written last and checked once when read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.records import Layout
from tpu_tlm.data.dataset.shards import FORMAT, Shard, piece_samples
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.sealed import check_sealed, sealed

METADATA = "md.yml"
RESTORE = "restore it or preprocess again"

_LARGEST = 64 << 20  # bytes of a md.yml: a table of shards for some 10 TB of text
_PIECE_BYTES = 1 << 30  # no reader takes more at once
_HEX = {16: re.compile("[0-9a-f]{16}"), 64: re.compile("[0-9a-f]{64}")}


def write_metadata(
    directory: str, metadata: Mapping[str, Any], layout: Layout, shards: Sequence[Shard]
) -> None:
    """Write `md.yml`: from then on the directory is a dataset.

    metadata: its keys besides `num_samples`, `format`, `record_bytes`, `piece_samples` and
    `shards`; values are JSON's.
    """
    head: dict[str, Any] = {
        "num_samples": sum(shard.samples for shard in shards),
        "format": FORMAT,
        **metadata,
        "record_bytes": layout.record_bytes,
        "piece_samples": piece_samples(layout.record_bytes),
    }
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1 << 30)
    # One line per shard, for readers; these values are plain enough for JSON to be YAML.
    table = "".join(f"- {json.dumps(asdict(shard))}\n" for shard in shards)
    path = f"{directory.rstrip('/')}/{METADATA}"
    filesystem.write_bytes(path, sealed(f"{text}shards:\n{table}".encode()))


def read_metadata(directory: str) -> dict[str, Any] | None:
    """The content of `md.yml`, or None where there is none; `UsageError` when it is damaged.

    Of format 1, everything that is read later has the right type and lies within its limits.
    """
    path = f"{directory.rstrip('/')}/{METADATA}"
    if not filesystem.exists(path):
        return None
    raw = filesystem.read_inside(directory, METADATA, limit=_LARGEST)
    check_sealed(path, raw, RESTORE)
    loaded = _read_yaml(raw, path)
    if not isinstance(loaded, dict) or "num_samples" not in loaded:
        raise UsageError(f"{path}: has no num_samples: make the dataset again")
    if loaded.get("format", 0) == FORMAT:
        _check(path, loaded)
    return loaded


def _read_yaml(raw: bytes, path: str) -> Any:
    """The value of the file, without aliases: a few of them can stand for gigabytes."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both safe; in C where there is one
    try:
        if b"*" in raw and any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(raw, loader)):
            raise UsageError(f"{path}: uses YAML aliases, which are not taken: {RESTORE}")
        return yaml.load(raw, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not YAML: {error}: make the dataset again") from None


class _Wrong(Exception):
    """What is wrong with a value; the first argument is the path of its key."""


_Check = Callable[[Any], bool]


def _whole(least: int, most: int) -> _Check:
    return lambda value: type(value) is int and least <= value <= most


def _hex(digits: int) -> _Check:
    return lambda value: isinstance(value, str) and _HEX[digits].fullmatch(value) is not None


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


_LENGTH = _whole(1, 1 << 20)
_COUNT = _whole(1, 1 << 48)
# Key -> what it must be, and whether it must be there.
_TOP: dict[str, tuple[_Check, bool]] = {
    "num_samples": (_COUNT, True),
    "nctx": (_LENGTH, True),
    "nctx_y": (_LENGTH, False),
    "record_bytes": (_whole(1, _PIECE_BYTES), True),
    "piece_samples": (_whole(1, _PIECE_BYTES), True),
    "prefix": (_text_or_none, False),
    "suffix": (_text_or_none, False),
    "tok_on_eol": (_text_or_none, False),
    "y_prefix": (_text_or_none, False),
    "y_suffix": (_text_or_none, False),
    "turn_sep": (_text_or_none, False),
    "pack": (_text_or_none, False),
    "seed": (_whole(-(1 << 63), 1 << 64), False),
    "made_from": (_mapping, False),
    "tokenizer": (_mapping, True),
    "shards": (lambda value: isinstance(value, list) and len(value) > 0, True),
}
_TOKENIZER: dict[str, tuple[_Check, bool]] = {
    "kind": (_text, True),
    "vocab_size": (_whole(1, (1 << 31) - 1), True),
    "special": (_mapping, False),
    "extra_tokens": (lambda value: isinstance(value, list) and all(map(_text, value)), False),
    "files": (lambda value: _mapping(value) and all(map(_hex(64), value.values())), False),
}
_SHARD: dict[str, tuple[_Check, bool]] = {
    "name": (_text, True),
    "samples": (_COUNT, True),
    "bytes": (_COUNT, True),
    "sha256": (_hex(64), True),
    "sums": (lambda value: isinstance(value, list) and all(map(_hex(16), value)), True),
}


def _check_keys(value: Mapping[str, Any], schema: dict[str, tuple[_Check, bool]], at: str) -> None:
    for key, (check, required) in schema.items():
        if key not in value:
            if required:
                raise _Wrong(f"{at}{key} is missing")
        elif not check(value[key]):
            shown = ascii(value[key])
            raise _Wrong(f"{at}{key} is {shown if len(shown) < 60 else f'{shown[:60]}...'}")


def _check(path: str, metadata: dict[str, Any]) -> None:
    """Raise `UsageError` naming the first key that is wrong."""
    try:
        _check_keys(metadata, _TOP, "")
        tokenizer = metadata["tokenizer"]
        _check_keys(tokenizer, _TOKENIZER, "tokenizer.")
        for name, index in tokenizer.get("special", {}).items():
            if index is not None and not _whole(0, tokenizer["vocab_size"] - 1)(index):
                raise _Wrong(f"tokenizer.special.{name} is {ascii(index)[:60]}")
        if metadata["piece_samples"] * metadata["record_bytes"] > _PIECE_BYTES:
            raise _Wrong(f"piece_samples is {metadata['piece_samples']}")
        names = set()
        for number, shard in enumerate(metadata["shards"]):
            if not _mapping(shard):
                raise _Wrong(f"shards[{number}] is not a mapping")
            _check_keys(shard, _SHARD, f"shards[{number}].")
            filesystem.safe_join("", shard["name"], path)
            if shard["name"] in names:
                raise _Wrong(f"shards[{number}].name is there twice: {shard['name']!r}")
            names.add(shard["name"])
    except _Wrong as wrong:
        raise UsageError(f"{path}: is damaged: {wrong}: {RESTORE}") from None
