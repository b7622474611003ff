"""What one process does: a part of the corpus -> examples on disk, and later a range of all examples -> a shard."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.data import files
from tpu_tlm.data.hashing import STEP, key_of, mix
from tpu_tlm.data.packing import Examples, Packer, Packing, Tokens
from tpu_tlm.data.records import Layout, token_layout, token_payload
from tpu_tlm.data.shards import Shard, shard_name, write_shard
from tpu_tlm.data.spill import Merge, Run, RunWriter
from tpu_tlm.data.text import BadInput, Part, read_part
from tpu_tlm.data.tokenizers import Tokenizer, load_tokenizer

_ENCODED_AT_ONCE = 1 << 20  # bytes of text
_SHUFFLE, _SPLIT = 1, 2  # what a key is for


@dataclass(frozen=True)
class Job:
    """Everything that the processes of one preprocessing share. `splits`: name -> the directory of its dataset."""

    work: str
    splits: dict[str, str]
    packing: Packing
    vocab_size: int
    json_field: str
    strict: bool
    shuffle: bool
    seed: int
    valid_fraction: float

    @property
    def layout(self) -> Layout:
        """The bytes of a record."""
        return token_layout(self.packing.nctx, self.vocab_size)

    def payload(self, examples: Examples) -> NDArray[np.uint8]:
        """Examples as they are kept on disk."""
        return token_payload(examples.ids, examples.word_start, self.vocab_size)

    def run_writer(self, split: str, part: int) -> RunWriter:
        """A writer of the examples of a part."""
        key = key_of(self.seed, _SHUFFLE, list(self.splits).index(split)) if self.shuffle else None
        return RunWriter(f"{self.work}/part-{part:06d}.{split}", part, key)


@dataclass
class SplitResult:
    """What a part gave to one dataset: its run on disk, the tokens that did not fill an example, and counts."""

    chunks: list[int] = field(default_factory=list)
    leftover_ids: list[int] = field(default_factory=list)
    leftover_starts: list[int] = field(default_factory=list)
    documents: int = 0
    lines: int = 0
    tokens: int = 0
    text_bytes: int = 0

    @property
    def leftover(self) -> Tokens:
        """The tokens that wait for those of other parts."""
        return Tokens(np.array(self.leftover_ids, np.uint32), np.array(self.leftover_starts, bool))


@dataclass
class PartResult:
    """What is written about a finished part, as JSON."""

    splits: dict[str, SplitResult]
    bad: BadInput

    def save(self, job: Job, part: int) -> None:
        """Write it down: from now on the part is finished."""
        files.write_bytes(_result_path(job, part), json.dumps(asdict(self)).encode())

    @staticmethod
    def load(job: Job, part: int) -> PartResult | None:
        """The result of a part, or None when it is not finished."""
        if not os.path.exists(_result_path(job, part)):
            return None
        told = json.loads(files.read_bytes(_result_path(job, part)))
        result = PartResult({name: SplitResult(**split) for name, split in told["splits"].items()}, BadInput(**told["bad"]))
        whole = all(result.run(job, name, part).is_whole(job.layout.payload_bytes) for name in result.splits)
        return result if whole else None

    def run(self, job: Job, split: str, part: int) -> Run:
        """Where the examples of the part are."""
        return Run(f"{job.work}/part-{part:06d}.{split}", tuple(self.splits[split].chunks))


def _result_path(job: Job, part: int) -> str:
    return f"{job.work}/part-{part:06d}.json"


class _Lane:
    """The way of one dataset's documents: lines -> tokens -> examples -> disk."""

    def __init__(self, job: Job, split: str, part: int, tokenizer: Tokenizer) -> None:
        self._job = job
        self._tokenizer = tokenizer
        self._packer = Packer(job.packing)
        self._writer = job.run_writer(split, part)
        self._lines: list[bytes] = []
        self._begins: list[int] = []
        self._cuts: list[int] = []
        self._size = 0
        self.result = SplitResult()

    def add(self, lines: list[bytes], first: bool, cut: bool) -> None:
        if first:
            self._begins.append(len(self._lines))
        self._lines += lines
        self._size += sum(map(len, lines))
        if cut:
            self._cuts.append(len(self._lines) - 1)
        if self._size >= _ENCODED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_lines(self._lines)
        begins = np.zeros(len(self._lines), bool)
        begins[self._begins] = True
        ends = np.ones(len(self._lines), bool)
        ends[self._cuts] = False
        rows = self._packer.add_lines(Tokens(encoded.ids, encoded.word_start), encoded.offsets, begins, ends)
        self._writer.add(self._job.payload(rows))
        self.result.documents += len(self._begins)
        self.result.lines += int(ends.sum())
        self.result.tokens += len(encoded.ids) + (int(ends.sum()) if self._job.packing.eol is not None else 0)
        self.result.text_bytes += self._size
        self._lines, self._begins, self._cuts, self._size = [], [], [], 0

    def close(self) -> SplitResult:
        if self._lines:
            self._flush()
        if self._job.packing.documents:
            self._writer.add(self._job.payload(self._packer.finish()))
        leftover = self._packer.leftover()
        self.result.leftover_ids = leftover.ids.tolist()
        self.result.leftover_starts = leftover.word_start.astype(int).tolist()
        self.result.chunks = list(self._writer.close().chunks)
        return self.result


class Worker:
    """Does the work of one process; what it loads for one task it keeps for the next."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._tokenizer: Tokenizer | None = None
        self._merges: dict[str, Merge] = {}

    def tokenize(self, part: Part, consumed: Callable[[int], None]) -> None:
        """Read a part and leave its examples and its `PartResult` in the work directory.

        Whole documents go to the valid split by a hash of seed, part and document; of a document too long for one part, each
        part's share counts as a document.
        """
        job = self.job
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(f"{job.work}/tokenizer")
        lanes = {name: _Lane(job, name, part.index, self._tokenizer) for name in job.splits}
        train, *others = lanes.values()
        key, limit = key_of(job.seed, _SPLIT, part.index), int(job.valid_fraction * 2**64)
        lane, number = train, 0
        bad = BadInput()
        for document in read_part(part, job.json_field, job.strict, bad, consumed):
            if others and (document.first or not number):
                number += 1
                lane = others[0] if mix(key + STEP * number) < limit else train
            if document.lines:
                lane.add(document.lines, document.first, document.cut)
        PartResult({name: lane.close() for name, lane in lanes.items()}, bad).save(job, part.index)

    def write_shard(self, split: str, index: int, sizes: list[int], parts: int) -> Shard:
        """Write one shard of a split, given the examples in every shard, and note it in the work directory."""
        job = self.job
        if split not in self._merges:
            results = [(part, PartResult.load(job, part)) for part in range(parts)]
            runs = [result.run(job, split, part) for part, result in results if result is not None]
            self._merges[split] = Merge(runs, job.layout.payload_bytes)
        merge, start = self._merges[split], sum(sizes[:index])
        blocks = (merge.read(a, b) for a, b in merge.ranges(start, start + sizes[index]))
        shard = write_shard(job.splits[split], shard_name(index, len(sizes)), job.layout, blocks)
        files.write_bytes(_shard_path(job, split, index), json.dumps(asdict(shard)).encode())
        return shard


def _shard_path(job: Job, split: str, index: int) -> str:
    return f"{job.work}/shard-{index:06d}.{split}.json"


def finished_shard(job: Job, split: str, index: int) -> Shard | None:
    """The shard as noted when it was written, or None when it is not there whole."""
    if not os.path.exists(_shard_path(job, split, index)):
        return None
    told: dict[str, Any] = json.loads(files.read_bytes(_shard_path(job, split, index)))
    shard = Shard(**{**told, "sums": tuple(told["sums"])})
    path = f"{job.splits[split].rstrip('/')}/{shard.name}"
    return shard if files.exists(path) and files.file_size(path) == shard.bytes else None


def pack_leftovers(job: Job, parts: int) -> PartResult:
    """Pack what the parts left over, in their order, as the last part; only the very last example is padded."""
    results = list(load_results(job, parts))
    splits = {}
    for name in job.splits:
        packer, writer = Packer(job.packing), job.run_writer(name, parts)
        for result in results:
            writer.add(job.payload(packer.add(result.splits[name].leftover)))
        writer.add(job.payload(packer.finish()))
        splits[name] = SplitResult(chunks=list(writer.close().chunks))
    result = PartResult(splits, BadInput())
    result.save(job, parts)
    return result


def load_results(job: Job, parts: int) -> Iterator[PartResult]:
    """The results of all parts, which must be finished."""
    for part in range(parts):
        result = PartResult.load(job, part)
        assert result is not None, part
        yield result
