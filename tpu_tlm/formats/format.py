"""The interface of a file format: how its files are recognized, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tpu_tlm import filesystem

if TYPE_CHECKING:
    import numpy as np

    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.models.spec import ModelSpec


class Contents(NamedTuple):
    """What is at a path: `names` of the files in a directory (empty for a file)."""

    path: str
    is_directory: bool
    names: frozenset[str]


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may need beside the path.

    step: checkpoint of a run (None: the newest good one); describe: gives the spec of a file
    without configuration (MEAD's NPZ) from its arrays and its path.
    """

    step: int | None = None
    describe: Callable[[Mapping[str, np.ndarray], str], ModelSpec] | None = None


@dataclass(frozen=True)
class WriteOptions:
    """What a writer may need beside the destination.

    family: HuggingFace model family (None: the nearest); length: tokens of a served text (None:
    those of a training example); origin: JSON values that say what the model was made from.
    """

    family: str | None = None
    length: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


class Written(NamedTuple):
    """What a writer gives back: files still to be written, by name, and notes for the user.

    For a format of a single file (`suffix`), `files` has one entry, the bytes of that file.
    """

    files: dict[str, bytes]
    notes: list[str]


@dataclass(frozen=True)
class Format:
    """One file format. An entry in `registry.FORMATS` makes it known to every command.

    name: what `--to` calls it; description: for messages; sniff: whether contents are of this
    format; read: path -> model, raising `UsageError` or `TlmError` with one line; write: model,
    directory (which exists), options -> files, or None for a format that is only read; suffix:
    ending of a destination that is one file ("": a directory); options: names of the
    `WriteOptions` that apply.
    """

    name: str
    description: str
    sniff: Callable[[Contents], bool]
    read: Callable[[str, ReadOptions], PretrainedModel]
    write: Callable[[PretrainedModel, str, WriteOptions], Written] | None = None
    suffix: str = ""
    options: frozenset[str] = frozenset()


def contents_of(path: str) -> Contents:
    """What is at a path; a path without anything has no names and is no directory."""
    is_directory = filesystem.is_directory(path)
    names = frozenset(filesystem.list_names(path)) if is_directory else frozenset()
    return Contents(path, is_directory, names)
