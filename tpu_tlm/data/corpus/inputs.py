"""Which files a corpus has, cut into parts that processes can share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig
from tpu_tlm.errors import UsageError

PART_BYTES = 16 << 20
_COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus: where, how large, `kind` "text" or "json", `compression` "", ".gz" or ".zst"."""

    path: str
    size: int
    kind: str
    compression: str

    @property
    def can_be_cut(self) -> bool:
        """Whether reading can begin inside the file."""
        return not self.compression


@dataclass(frozen=True)
class Slice:
    """Nominal bytes [start, end) of a file; the reader moves both to the next place where a document or line begins."""

    file: InputFile
    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """What one process reads at a time: slices of files. The plan depends on the files only, never on the workers."""

    index: int
    slices: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Nominal bytes."""
        return sum(piece.end - piece.start for piece in self.slices)


def describe(path: str, size: int) -> InputFile:
    """What a file's name says about it: .json, .jsonl and .ndjson are JSON lines, all else plain text; .gz, .zst compressed."""
    name = os.path.basename(path).lower()
    compression = next((end for end in _COMPRESSIONS if name.endswith(end)), "")
    name = name.removesuffix(compression)
    return InputFile(
        path, size, "json" if name.endswith((".json", ".jsonl", ".ndjson")) else "text", compression
    )


def expand_inputs(config: CorpusConfig) -> list[InputFile]:
    """The files that `--input_files` names, each once: in the order of the option, sorted within a directory or glob.

    Raises `UsageError` naming a path that is not there, or a directory or glob without a matching file.
    """
    paths: dict[str, None] = {}
    for given in config.input_files:
        for path in _expand(given, config.input_pattern):
            paths[path] = None
    if not paths:
        raise UsageError("--input_files: no input files")
    return [describe(path, filesystem.file_size(path)) for path in paths]


def _expand(given: str, pattern: str) -> list[str]:
    if filesystem.is_directory(given):
        found = filesystem.find(f"{_escape(given.rstrip('/'))}/{pattern}")
        if not found:
            raise UsageError(
                f"--input_files: no file in {given} matches {pattern!r}: give --input_pattern"
            )
        return found
    if filesystem.exists(given):
        return [given]
    found = filesystem.find(given) if any(char in given for char in "*?[") else []
    if not found:
        raise UsageError(f"--input_files: {given}: no such file, directory or match")
    return found


def _escape(directory: str) -> str:
    # TensorFlow's glob has no escape; a remote directory with a bracket in its name is the user's to avoid.
    if filesystem.is_remote(directory):
        return directory
    import glob

    return glob.escape(directory)


def plan_parts(inputs: Sequence[InputFile], part_bytes: int = PART_BYTES) -> list[Part]:
    """Cut the corpus into parts of about `part_bytes`: large files are sliced, small ones share a part.

    Nothing is opened: the cuts are nominal, and the reader finds where documents begin near them. A compressed file is one
    slice, which is read as a stream.
    """
    parts: list[Part] = []
    waiting: list[Slice] = []
    size = 0
    for file in inputs:
        step = part_bytes if file.can_be_cut else max(file.size, 1)
        # Equal slices, so that a file a little over a part's size does not leave a sliver.
        count = max(1, -(-file.size // step))
        cuts = [file.size * index // count for index in range(count + 1)]
        for start, end in zip(cuts[:-1], cuts[1:], strict=True):
            if waiting and size + end - start > part_bytes:
                parts.append(Part(len(parts), tuple(waiting)))
                waiting, size = [], 0
            waiting.append(Slice(file, start, end))
            size += end - start
    if waiting:
        parts.append(Part(len(parts), tuple(waiting)))
    return parts
