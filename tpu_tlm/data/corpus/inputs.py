"""Which files a corpus has, cut into parts that processes can share."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.file_types import HEAD, FileType, NotText, file_type
from tpu_tlm.data.corpus.find_files import Search, split_pattern
from tpu_tlm.errors import TlmError, UsageError

PART_BYTES = 16 << 20
_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_JSON = (".json", ".jsonl", ".ndjson")
_CSV = (".csv", ".tsv")
_JSON_FIELD = CorpusConfig.json_field  # where none is given
_REQUESTS = 16  # files of an object store that are opened at the same time
_NOT_TEXT, _UNREADABLE = "file that is not text (left out)", "cannot be read (left out)"


@dataclass(frozen=True)
class InputFile:
    """A file of the corpus.

    `kind`: "text", "json", "csv", "parquet", "arrow" or "arrow-stream"; `compression`: "", ".gz",
    ".bz2", ".xz" or ".zst"; `line_end`: "\\n", or "\\r" where that is the file's only line end.
    """

    path: str
    size: int
    kind: str
    compression: str
    line_end: str = "\n"

    @property
    def can_be_cut(self) -> bool:
        """Whether reading can begin inside the file."""
        return not self.compression and self.kind in ("text", "json")


@dataclass(frozen=True)
class Slice:
    """Nominal bytes [start, end) of a file.

    The reader moves both to the next place where a document or a line begins.
    """

    file: InputFile
    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """What one process reads at a time: slices of files.

    The plan depends on the files only, never on the number of workers.
    """

    index: int
    slices: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Nominal bytes."""
        return sum(piece.end - piece.start for piece in self.slices)


@dataclass
class InputReport:
    """What was found beside the files that are read: files left out, and notes for the summary."""

    bad: BadInput = field(default_factory=BadInput)
    notes: list[str] = field(default_factory=list)


def describe(
    path: str, size: int, found: FileType | None = None, text_column: str | None = None
) -> InputFile:
    """A file by its first bytes, and by its name.

    .json, .jsonl and .ndjson are JSON lines; .csv and .tsv are tables where a column is named.
    """
    name = os.path.basename(path).lower()
    suffix = next((end for end in _SUFFIXES if name.endswith(end)), "")
    found = found or FileType(suffix)
    name = name.removesuffix(suffix)
    kind = found.container or ("json" if name.endswith(_JSON) else "text")
    if text_column is not None and kind == "text" and name.endswith(_CSV):
        kind = "csv"
    return InputFile(path, size, kind, found.compression, found.line_end)


def expand_inputs(config: CorpusConfig, report: InputReport | None = None) -> list[InputFile]:
    """The files that `--input_files` names, each once, also where several paths lead to it.

    They are in the order of the option, sorted within a directory or glob. What cannot be read or
    is no text is noted in `report`. Raises `UsageError` naming a path that is not there, a
    directory or glob without a matching file, the first file that is not text when no other is
    there or under --strict.
    """
    report = report if report is not None else InputReport()
    paths: dict[str, None] = {}
    for given in config.input_files:
        for path in _expand(given, config, report):
            paths[path] = None
    if not paths:
        raise UsageError("--input_files: no input files")
    unique = list(_each_once(paths, report))
    remote = any(filesystem.is_remote(path) for path in unique)
    with ThreadPoolExecutor(_REQUESTS if remote else 1) as threads:
        tables = importlib.util.find_spec("pyarrow") is not None
        described = list(
            threads.map(lambda path: _described(path, config.text_column, tables), unique)
        )
    files = [found for found in described if isinstance(found, InputFile)]
    refused = [found for found in described if isinstance(found, TlmError)]
    if refused and (config.strict or not files):
        raise refused[0]
    for error in refused:
        kind = _NOT_TEXT if isinstance(error, _Refused) else f"file that {_UNREADABLE}"
        report.bad.add(kind, partial(str, error), "", False)
    return files


def about_columns(
    files: Sequence[InputFile], config: CorpusConfig, pairs: bool = False
) -> Iterator[str]:
    """Notes on what --text_column, its absence, or --json_field does that nobody may have meant.

    pairs: whether lines are divided at tabs.
    """
    if config.json_field != _JSON_FIELD and all(file.kind in ("text", "csv") for file in files):
        yield f"--json_field {config.json_field}: not used: no JSON lines are among the files"
    if config.text_column is not None and all(file.kind in ("text", "json") for file in files):
        yield f"--text_column {config.text_column}: not used: no table is among the files"
    tables = [file.path for file in files if file.kind == "text" and _is_table(file.path)]
    if tables and not pairs:
        yield (
            f"{len(tables):,} tables are read as plain text, with all their columns ({tables[0]}): "
            "name the column with --text_column"
        )


def about_growth(files: Sequence[InputFile]) -> Iterator[str]:
    """A note on local files that have become longer than they were when reading began.

    What was added meanwhile is not read. Compressed files and tables are read to their end.
    """
    added: list[tuple[str, int]] = []
    for file in files:
        # An object of a bucket is replaced, never appended to.
        if filesystem.is_remote(file.path) or not file.can_be_cut:
            continue
        with contextlib.suppress(OSError):
            more = os.stat(file.path).st_size - file.size
            if more > 0:
                added.append((file.path, more))
    if added:
        amount = sum(more for _, more in added)
        yield (
            f"{len(added):,} files became longer while they were read ({added[0][0]}): the last "
            f"{amount:,} bytes are left out: run again when they are complete"
        )


def _is_table(path: str) -> bool:
    name = os.path.basename(path).lower()
    suffix = next((end for end in _SUFFIXES if name.endswith(end)), "")
    return name.removesuffix(suffix).endswith(_CSV)


class _Refused(UsageError):
    """A file that is not text."""


def _described(path: str, text_column: str | None, tables: bool) -> InputFile | TlmError:
    """The file, or why it is not read. tables: Parquet and Arrow files can be read."""
    try:
        with filesystem.naming(path):
            size = filesystem.file_size(path)
            with contextlib.closing(filesystem.open_read(path)) as stream:
                found = describe(path, size, file_type(stream.read(HEAD), tables), text_column)
        if size and not found.compression and path.lower().endswith(_SUFFIXES):
            raise NotText("is not compressed as its name says: make it again or rename it")
        return found
    except NotText as error:
        return _Refused(f"{path}: {error}")
    except TlmError as error:
        return error


def _each_once(paths: Iterable[str], report: InputReport) -> Iterator[str]:
    """The first of the paths that lead to each file (device and inode)."""
    seen: dict[tuple[int, int] | str, str] = {}
    again = 0
    for path in paths:
        key: tuple[int, int] | str = path
        if not filesystem.is_remote(path):
            with contextlib.suppress(OSError):  # the reader names what is wrong with it
                status = os.stat(path)
                key = (status.st_dev, status.st_ino)
        if key in seen:
            again += 1
        else:
            seen[key] = path
            yield path
    if again:
        report.notes.append(f"{again:,} more paths lead to files that are read already")


def _expand(given: str, config: CorpusConfig, report: InputReport) -> list[str]:
    if filesystem.is_remote(given):
        return _expand_remote(given, config.input_pattern)
    if os.path.isdir(given):
        base, pattern = given.rstrip("/") or "/", config.input_pattern
    elif os.path.lexists(given) or not any(char in given for char in "*?["):
        return [_regular(given)]
    else:
        base, pattern = split_pattern(given)
    problems: list[str] = []

    def unreadable(path: str, error: OSError) -> None:
        problems.append(f"{path}: cannot be read: {error.strerror}")

    search = Search(unreadable)
    found = search.files(base, pattern)
    if problems and (config.strict or not found):
        raise UsageError(problems[0])
    for problem in problems:
        report.bad.add(f"directory that {_UNREADABLE}", partial(str, problem), "", False)
    if not found and os.path.isdir(given):
        raise UsageError(
            f"--input_files: no file in {given} matches {pattern!r}{_seen(search)}: "
            "give --input_pattern"
        )
    if not found:
        raise UsageError(f"--input_files: {given}: no such file, directory or match")
    if os.path.isdir(given) and (seen := _seen(search)):
        report.notes.append(f"{given}: {pattern!r} leaves out{seen} (--input_pattern)")
    return list(_regular_ones(found, config.strict, report))


def _regular_ones(paths: Sequence[str], strict: bool, report: InputReport) -> Iterator[str]:
    """The files among the paths in a directory; links that lead nowhere and pipes are counted.

    Raises `UsageError` for the first of these where nothing else is there, or under --strict.
    """
    refused: list[UsageError] = []
    count = 0
    for path in paths:
        try:
            yield _regular(path)
            count += 1
        except UsageError as error:
            if strict:
                raise
            refused.append(error)
    if refused and not count:
        raise refused[0]
    for problem in refused:
        where = str(problem).removeprefix("--input_files").lstrip(": ")
        report.bad.add("name that leads to no file (left out)", partial(str, where), "", False)


def _seen(search: Search) -> str:
    """What a directory holds beside the files that matched."""
    kinds = [f"{count:,} {suffix}" for suffix, count in search.skipped.most_common(5)]
    if len(search.skipped) > 5:
        kinds.append(f"{search.skipped.total() - _shown(search):,} other files")
    if search.directories:
        kinds.append(f"{search.directories:,} sub-directories")
    if search.hidden:
        kinds.append(f"{search.hidden:,} hidden files")
    return f" ({', '.join(kinds)})" if kinds else ""


def _shown(search: Search) -> int:
    return sum(count for _, count in search.skipped.most_common(5))


def _expand_remote(given: str, pattern: str) -> list[str]:
    # TensorFlow's glob has no escape; a remote directory with a bracket in its name is not found.
    if filesystem.is_directory(given):
        found = filesystem.find(f"{given.rstrip('/')}/{pattern}")
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


def _regular(path: str) -> str:
    """The path, if it leads to a file that several processes can open; else `UsageError`."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path == "-":
            raise UsageError(f"--input_files {path}: standard input {_NOT_A_FILE}") from None
        if os.path.islink(path):
            raise UsageError(f"--input_files: {path}: the link leads nowhere") from None
        raise UsageError(f"--input_files: {path}: no such file, directory or match") from None
    except OSError:
        return path  # opening it names what is wrong
    if not stat.S_ISREG(mode):
        kind = "is a pipe, which" if stat.S_ISFIFO(mode) else "is a device or socket, which"
        raise UsageError(f"--input_files {path}: {kind} {_NOT_A_FILE}")
    # /dev/stdin and /dev/fd/N name another file in each process.
    return os.path.realpath(path) if path.startswith(("/dev/", "/proc/")) else path


_NOT_A_FILE = "cannot be read in parts by several processes: write it to a file and give that"


def plan_parts(inputs: Sequence[InputFile], part_bytes: int = PART_BYTES) -> list[Part]:
    """Cut the corpus into parts of about `part_bytes`: large files are sliced, small ones share
    one.

    Nothing is opened: the cuts are nominal, and the reader finds where documents begin near them. A
    compressed file is one slice, which is read as a stream.
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
