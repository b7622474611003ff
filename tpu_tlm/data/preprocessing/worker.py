"""What one process does: a part of the corpus -> examples on disk; a range of them -> a shard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from tpu_tlm import filesystem
from tpu_tlm.data.corpus.documents import BadInput, Part, read_part
from tpu_tlm.data.corpus.pair_rows import read_groups
from tpu_tlm.data.dataset.shards import Shard, shard_name, write_shard
from tpu_tlm.data.dataset.splitmix import STEP, key_of, mix
from tpu_tlm.data.preprocessing.external_sort import ExternalMerge, SortedRun
from tpu_tlm.data.preprocessing.packing import Packer
from tpu_tlm.data.preprocessing.split_writers import (
    PairSplitWriter,
    PreprocessJob,
    SplitResult,
    SplitWriter,
)
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError

__all__ = [
    "PreprocessJob",
    "PartResult",
    "SplitResult",
    "Worker",
    "finished_shard",
    "finished_shard_names",
    "load_results",
    "pack_leftovers",
]

Choice = TypeVar("Choice")
_SPLIT = 2  # separates this key from the one in split_writers.py


@dataclass
class PartResult:
    """What is written about a finished part, as JSON."""

    splits: dict[str, SplitResult]
    bad: BadInput

    def to_json(self) -> bytes:
        """JSON; `from_json` reads it."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(data: bytes) -> PartResult:
        """The result in what `to_json` gave."""
        found = json.loads(data)
        return PartResult(
            {name: SplitResult(**split) for name, split in found["splits"].items()},
            BadInput(**found["bad"]),
        )

    def save(self, job: PreprocessJob, part: int) -> None:
        """Write it: from now on the part is finished."""
        filesystem.write_bytes(_result_path(job, part), self.to_json())

    @staticmethod
    def load(job: PreprocessJob, part: int) -> PartResult | None:
        """The result of a part, or None when it is not finished."""
        if (text := _read_if_there(_result_path(job, part))) is None:
            return None
        result = PartResult.from_json(text)
        whole = all(
            result.run(job, name, part).is_whole(job.layout.payload_bytes) for name in result.splits
        )
        return result if whole else None

    def run(self, job: PreprocessJob, split: str, part: int) -> SortedRun:
        """Where the examples of the part are."""
        return SortedRun(f"{job.work}/part-{part:06d}.{split}", tuple(self.splits[split].chunks))


def _result_path(job: PreprocessJob, part: int) -> str:
    return f"{job.work}/part-{part:06d}.json"


def _read_if_there(path: str) -> bytes | None:
    """A file of the work directory, or None when it is not there."""
    with filesystem.naming(path):
        try:
            return filesystem.of(path).read(path)
        except FileNotFoundError:
            return None


@contextlib.contextmanager
def spilling(job: PreprocessJob) -> Iterator[PreprocessJob]:
    """The job with a work directory on this machine's disk.

    What was written there is in the job's own when the block ends.
    """
    if not filesystem.is_remote(job.work):
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as place:
        yield replace(job, work=place)
        for name in sorted(os.listdir(place)):
            # A process that was killed may have left the same file.
            target = filesystem.replacing(f"{job.work}/{name}")
            with open(os.path.join(place, name), "rb") as source, target as stream:
                shutil.copyfileobj(source, stream, 1 << 20)


class SplitChooser(Generic[Choice]):
    """Chooses the split of a document: the first, or for a share of them the second."""

    def __init__(self, seed: int, valid_fraction: float, part: int, writers: list[Choice]) -> None:
        self._train: Choice = writers[0]
        self._others: list[Choice] = writers[1:]
        self._key, self._limit = key_of(seed, _SPLIT, part), int(valid_fraction * 2**64)
        self._writer: Choice = self._train
        self._number = 0

    def __call__(self, begins: bool) -> Choice:
        """The writer of what comes next; `begins`: a new document begins."""
        if self._others and (begins or not self._number):
            self._number += 1
            self._writer = (
                self._others[0]
                if mix(self._key + STEP * self._number) < self._limit
                else self._train
            )
        return self._writer


class Worker:
    """Does the work of one process; what it loads for one task it keeps for the next."""

    def __init__(self, job: PreprocessJob, tokenizer: Tokenizer | None = None) -> None:
        self.job = job
        self._tokenizer = tokenizer
        self._merges: dict[str, ExternalMerge] = {}

    def tokenize(self, part: Part, consumed: Callable[[int], None]) -> None:
        """Read a part and leave its examples and its `PartResult` in the work directory.

        Whole documents go to the valid split by a hash of seed, part and document; of a document
        too long for one part, each part's share counts as a document.
        """
        job = self.job
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(f"{job.work}/tokenizer")
        bad = BadInput()
        make = _pairs if job.pairs else _documents
        with spilling(job) as local:
            splits = make(local, part, self._tokenizer, bad, consumed)
        PartResult(splits, bad).save(job, part.index)

    def write_shard(self, split: str, index: int, sizes: list[int], parts: int) -> Shard:
        """Write one shard of a split and note it in the work directory.

        `sizes`: the examples in every shard.
        """
        job = self.job
        if split not in self._merges:
            results = enumerate(load_results(job, parts))
            runs = [result.run(job, split, part) for part, result in results]
            self._merges[split] = ExternalMerge(runs, job.layout.payload_bytes)
        merge, start = self._merges[split], sum(sizes[:index])
        blocks = (merge.read(a, b) for a, b in merge.ranges(start, start + sizes[index]))
        shard = write_shard(job.splits[split], shard_name(index, len(sizes)), job.layout, blocks)
        filesystem.write_bytes(_shard_path(job, split, index), json.dumps(asdict(shard)).encode())
        return shard


def _documents(
    job: PreprocessJob,
    part: Part,
    tokenizer: Tokenizer,
    bad: BadInput,
    consumed: Callable[[int], None],
) -> dict[str, SplitResult]:
    writers = {name: SplitWriter(job, name, part.index, tokenizer) for name in job.splits}
    choose = SplitChooser(job.seed, job.valid_fraction, part.index, list(writers.values()))
    documents = read_part(
        part, job.json_field, job.strict, bad, consumed, job.document, job.text_column
    )
    for document in documents:
        writer = choose(document.first)
        if document.lines:
            writer.add(document.lines, document.first, document.cut)
    return {name: writer.close() for name, writer in writers.items()}


def _pairs(
    job: PreprocessJob,
    part: Part,
    tokenizer: Tokenizer,
    bad: BadInput,
    consumed: Callable[[int], None],
) -> dict[str, SplitResult]:
    rule = job.pairs
    assert rule is not None
    writers = {
        name: PairSplitWriter(job, rule, name, part.index, tokenizer, bad) for name in job.splits
    }
    choose = SplitChooser(job.seed, job.valid_fraction, part.index, list(writers.values()))
    for group in read_groups(part, rule.rows, bad, consumed):
        choose(group.first).add(group)
    return {name: writer.close() for name, writer in writers.items()}


def _shard_path(job: PreprocessJob, split: str, index: int) -> str:
    return f"{job.work}/shard-{index:06d}.{split}.json"


def finished_shard(job: PreprocessJob, split: str, index: int) -> Shard | None:
    """The shard as noted when it was written, or None when it is not there whole."""
    if (text := _read_if_there(_shard_path(job, split, index))) is None:
        return None
    found: dict[str, Any] = json.loads(text)
    shard = Shard(**{**found, "sums": tuple(found["sums"])})
    path = f"{job.splits[split].rstrip('/')}/{shard.name}"
    return shard if filesystem.exists(path) and filesystem.file_size(path) == shard.bytes else None


def finished_shard_names(job: PreprocessJob, split: str) -> list[str]:
    """The names of all shards that are noted as written and are there whole."""
    names = []
    for note in filesystem.list_names(job.work):
        if note.startswith("shard-") and note.endswith(f".{split}.json"):
            index = int(note.removeprefix("shard-").partition(".")[0])
            if (shard := finished_shard(job, split, index)) is not None:
                names.append(shard.name)
    return names


def pack_leftovers(job: PreprocessJob, results: Sequence[PartResult]) -> PartResult:
    """Pack what the parts left over, in their order, as the last part; it is finished then.

    Only the very last example is padded.
    """
    parts = len(results)
    splits = {}
    with spilling(job) as local:
        for name in job.splits:
            packer, writer = Packer(job.packing), local.run_writer(name, parts)
            for result in results:
                writer.add(job.payload(packer.add(result.splits[name].leftover)))
            writer.add(job.payload(packer.finish()))
            splits[name] = SplitResult(chunks=list(writer.close().chunks))
    result = PartResult(splits, BadInput())
    result.save(job, parts)
    return result


def load_results(job: PreprocessJob, parts: int) -> Iterator[PartResult]:
    """The results of all parts, which must be finished.

    Raises `TlmError` for one that is gone.
    """
    for part in range(parts):
        result = PartResult.load(job, part)
        if result is None:
            raise TlmError(f"{_result_path(job, part)}: is gone, or what belongs to it: run again")
        yield result
