"""Counting the words of a corpus by several processes or by Apache Beam, with one result.

Each part of the corpus is counted by itself into a file (`count_files.py`), whoever counts it. The
process that learns adds the files up in the order of the parts, as the local command adds up the
results of its processes: so the sums, and which words were dropped for room, are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.data.beam_pipeline import run_pipeline
from tpu_tlm.data.corpus.inputs import InputFile, Part
from tpu_tlm.data.made_from import listing
from tpu_tlm.data.processes import ProcessPool
from tpu_tlm.data.progress import ProgressBar
from tpu_tlm.data.share import Share, poll_seconds, wait_until
from tpu_tlm.data.tokenizers.count_files import CountFiles, DamagedCounts
from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts, count_part
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.lock import LEASE, Held, lock

WORK = ".vocab"  # what an unfinished count leaves in the output
VERSION = 1  # raised when the same input and options come to give other counts
_PATIENCE = 1.5 * LEASE  # seconds: a killed process's lease in a bucket ends within it
_WRITING = "writing.json"


def work_path(output: str, given: str | None) -> str:
    """The work directory: in the output, or below the one that is given."""
    if given is None:
        return f"{output.rstrip('/')}/{WORK}"
    name = hashlib.sha256(output.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{given.rstrip('/')}/tpu_tlm-vocab-{name}"


def made_from(inputs: Sequence[InputFile], parts: int, task: CountTask) -> dict[str, Any]:
    """All that the counts of each part depend on, as JSON values."""
    return {"pipeline": VERSION, **listing(inputs), "parts": parts, **asdict(task)}


def began_writing(work: str, present: Sequence[str], output: str) -> bool:
    """Whether the tokenizer in the output is one that this work began to write, maybe not whole.

    So a process that was killed while it wrote writes again, and nothing else is overwritten.
    """
    path = f"{work}/{_WRITING}"
    if _WRITING not in filesystem.list_names(work):
        return False
    try:
        hashes = strict.mapping(strict.read_json(filesystem.read_bytes(path), path), path)
    except UsageError:
        return False
    return all(
        hashes.get(name) == filesystem.sha256(filesystem.read_bytes(f"{output.rstrip('/')}/{name}"))
        for name in present
    )


@dataclass(frozen=True)
class _Counting:
    """What counts a part, in any process."""

    files: CountFiles
    task: CountTask

    def count(self, part: Part) -> Part:
        """Count the words of a part into its file."""
        self.files.save(part.index, count_part(self.task, part))
        return part


class SharedCount:
    """The counting of one corpus in a work directory, by this process and others.

    share: the parts of this process. notice: called with a line about leftovers and waiting.
    """

    def __init__(
        self, files: CountFiles, task: CountTask, share: Share, notice: Callable[[str], None]
    ) -> None:
        self._files, self._share, self._notice = files, share, notice
        self._counting = _Counting(files, task)
        self._said = False  # that another process counts something else

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process of the same index out. Raises `UsageError` where one is there."""
        directory, share = self._files.directory, self._share
        filesystem.make_directory(directory)
        held = lock(f"{directory}/lock-{share.index}")
        if held is None:  # a file system without locks
            yield
            return

        def waiting(holder: str) -> None:
            self._notice(f"{directory}: waiting for the lock of {holder}")

        try:
            with filesystem.naming(directory):
                held.acquire(_PATIENCE, waiting)
        except Held as holder:
            raise UsageError(
                f"{directory}: {holder} counts here now as process {share.index}: wait for it or "
                "take another --output"
            ) from None
        try:
            yield
        finally:
            held.release()

    def remove_foreign(self) -> None:
        """Remove what was counted of another corpus or with other options."""
        _, foreign = self._files.listed()
        if foreign:
            reason = self._files.difference(foreign[0])
            self._notice(f"word counts of another vocabulary removed ({reason})")
        for path in foreign:
            filesystem.remove(path)

    def count(self, parts: Sequence[Part], workers: int, progress: ProgressBar) -> int:
        """Count the parts of this process that have no counts yet; returns how many had some."""
        mine = [part for part in parts if self._share.has(part.index)]
        pending = self._pending(mine)
        total = sum(part.size for part in mine)
        done = total - sum(part.size for part in pending)
        progress.start("counting words", total, initial=done)
        pool = ProcessPool(min(workers, max(len(pending), 1)), _state, self._counting)
        try:
            for part in pool.run(_count, ((part,) for part in pending)):
                done += part.size
                progress.update(done)
        finally:
            pool.close()
            progress.clear()
        return len(mine) - len(pending)

    def count_by_beam(self, parts: Sequence[Part], options: Sequence[str]) -> int:
        """Count the parts that have no counts yet by a Beam pipeline; returns how many had some.

        Every worker must see the work directory.
        """
        pending = self._pending(parts)
        count = self._counting.count

        def build(beam: Any, pipeline: Any) -> None:
            _ = (
                pipeline
                | "parts" >> beam.Create(pending)
                | "spread" >> beam.Reshuffle()
                | "count words" >> beam.Map(count)
            )

        if pending:
            run_pipeline(build, options)
        if missing := self._pending(pending):
            raise TlmError(
                f"--runner beam: the counts of {len(missing):,} of {len(pending):,} parts are not "
                f"in {self._files.directory}: give a --work_dir that all workers see"
            )
        return len(parts) - len(pending)

    def _pending(self, parts: Sequence[Part]) -> list[Part]:
        """Parts without counts, the largest first: a compressed file is one part however large."""
        there, _ = self._files.listed()
        pending = [part for part in parts if part.index not in there]
        return sorted(pending, key=lambda part: (-part.size, part.index))

    def added_up(self, parts: Sequence[Part], progress: ProgressBar) -> WordCounts:
        """The words of all parts, in the order of the parts; waits for other processes' files."""
        total, there = WordCounts(), set[int]()
        seconds = poll_seconds(self._files.directory)
        progress.start("adding up word counts", sum(part.size for part in parts))
        try:
            for part in parts:
                is_there = partial(self._is_there, part.index, there)
                what = f"the word counts of part {part.index + 1:,} of {len(parts):,}"
                wait_until(is_there, what, self._notice, self._share, seconds)
                total.add(self._loaded(part))
                progress.update(total.size)
        finally:
            progress.clear()
        return total

    def _is_there(self, part: int, there: set[int]) -> bool:
        if part in there:
            return True
        present, foreign = self._files.listed()
        there |= present
        if part in there:
            return True
        if foreign and not self._said:
            self._said = True
            difference = self._files.difference(foreign[0])
            self._notice(f"{foreign[0]}: another process counts something else ({difference})")
        return False

    def _loaded(self, part: Part) -> WordCounts:
        try:
            return self._files.load(part.index)
        except DamagedCounts as damaged:
            self._notice(f"{damaged}: counted again")
            counts = count_part(self._counting.task, part)
            self._files.save(part.index, counts)
            return counts

    def begin_writing(self, files: Mapping[str, bytes]) -> None:
        """Note what is about to be written into the output, for `began_writing`."""
        hashes = {name: filesystem.sha256(data) for name, data in files.items()}
        path = f"{self._files.directory}/{_WRITING}"
        filesystem.write_bytes(path, json.dumps(hashes).encode())

    def remove(self) -> None:
        """Remove the work directory: the vocabulary is written, so a failure is only noted."""
        try:
            filesystem.remove_tree(self._files.directory)
        except TlmError as error:
            self._notice(f"{self._files.directory}: is not needed any more, remove it ({error})")


def _state(counting: _Counting) -> _Counting:
    return counting


def _count(counting: _Counting, part: Part) -> Part:
    return counting.count(part)
