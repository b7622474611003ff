"""Preprocessing by Apache Beam: the local command's functions, with Beam's shuffle between them.

Parts are tokenized on any worker; their examples are grouped by ranges of the shuffle's keys,
sorted there, cut at the shards' limits and written. The bytes are those of the local command for
any runner and any number of workers. `md.yml` is written last, on a worker, so a pipeline that
fails leaves no dataset.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.config import strict
from tpu_tlm.data.beam_pipeline import run_pipeline
from tpu_tlm.data.corpus.documents import BadInput, Part
from tpu_tlm.data.dataset.shards import Shard, remove_leftovers, shard_name, shard_sizes
from tpu_tlm.data.dataset.shards import write_shard as write_records
from tpu_tlm.data.preprocessing.external_sort import BUCKET_BYTES, read_chunks
from tpu_tlm.data.preprocessing.pipeline import Made, check_not_empty, count_results, finish
from tpu_tlm.data.preprocessing.split_writers import PreprocessJob, SplitResult
from tpu_tlm.data.preprocessing.worker import PartResult, Worker, pack_leftovers
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer

Bucket = tuple[str, int]  # a split, and a range of keys
Rows = tuple[int, int, bytes, bytes]  # part, chunk within it, keys, rows
_SUMMARY = "made.json"
_tokenizers: dict[str, Tokenizer] = {}  # of this worker process, by directory


@dataclasses.dataclass(frozen=True)
class BeamJob:
    """What all steps of the pipeline share, pickled to the workers.

    `job.work`: a directory that all workers read, with the tokenizer; bits: of the key that choose
    a bucket; shared: the keys of `md.yml` that all splits have.
    """

    job: PreprocessJob
    parts: int
    bits: int
    max_shard_bytes: float
    shared: dict[str, Any]

    @property
    def tokenizer(self) -> Tokenizer:
        """Loaded once in a process."""
        path = f"{self.job.work}/tokenizer"
        if path not in _tokenizers:
            _tokenizers[path] = load_tokenizer(path)
        return _tokenizers[path]

    def tokenize(self, part: Part) -> Iterator[tuple[str, Any]]:
        """The examples of a part by bucket (`rows`), and its `PartResult` (`result`)."""
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as place:
            local = dataclasses.replace(self.job, work=place)
            Worker(local, self.tokenizer).tokenize(part, lambda size: None)
            result = PartResult.load(local, part.index)
            assert result is not None
            yield from self._spilled(local, part.index, result)
            yield "result", (part.index, result.to_json())

    def leftovers(self, results: Iterable[tuple[int, bytes]]) -> Iterator[tuple[str, Any]]:
        """The examples of what the parts left over, as the last part; its `PartResult`."""
        ordered = _in_order(results)
        made = Made()
        count_results(made, ordered)
        with tempfile.TemporaryDirectory(prefix="tpu_tlm_") as place:
            local = dataclasses.replace(self.job, work=place)
            tail = pack_leftovers(local, ordered)
            for split, counts in made.counts.items():
                counts.chunks += tail.splits[split].chunks
            check_not_empty(self.job, made)
            yield from self._spilled(local, len(ordered), tail)
            yield "result", (len(ordered), tail.to_json())

    def _spilled(self, job: PreprocessJob, part: int, result: PartResult) -> Iterator[Any]:
        for split in job.splits:
            chunks = read_chunks(result.run(job, split, part), job.layout.payload_bytes)
            for number, (keys, rows) in enumerate(chunks):
                if not job.shuffle:
                    buckets = np.full(len(keys), part, np.uint64)
                elif self.bits:
                    buckets = keys >> np.uint64(64 - self.bits)
                else:
                    buckets = np.zeros(len(keys), np.uint64)
                # The keys of a chunk are sorted, so those of a bucket stand together.
                found, starts = np.unique(buckets, return_index=True)
                for bucket, a, b in zip(found, starts, [*starts[1:], len(keys)], strict=True):
                    piece = (part, number, keys[a:b].tobytes(), rows[a:b].tobytes())
                    yield "rows", ((split, int(bucket)), piece)

    def cut(
        self, bucket: tuple[Bucket, Iterable[Rows]], counts: dict[Bucket, int]
    ) -> Iterator[tuple[tuple[str, int], tuple[int, bytes]]]:
        """A bucket in the order of its keys, cut into shards: (split, shard), (place, rows)."""
        (split, number), pieces = bucket
        ordered = sorted(pieces, key=lambda piece: piece[:2])
        keys = np.frombuffer(b"".join(piece[2] for piece in ordered), "<u8")
        width = self.job.layout.payload_bytes
        rows = np.frombuffer(b"".join(piece[3] for piece in ordered), np.uint8)
        rows = rows.reshape(len(keys), width)[np.argsort(keys, kind="stable")]
        start = sum(n for (name, other), n in counts.items() if name == split and other < number)
        sizes = self.sizes(split, counts)
        limits = np.concatenate([[0], np.cumsum(sizes)])
        at = start
        while at < start + len(rows):
            shard = int(np.searchsorted(limits, at, side="right")) - 1
            end = min(int(limits[shard + 1]), start + len(rows))
            yield (split, shard), (at, rows[at - start : end - start].tobytes())
            at = end

    def sizes(self, split: str, counts: dict[Bucket, int]) -> list[int]:
        """Examples in each shard of a split."""
        samples = sum(n for (name, _), n in counts.items() if name == split)
        return shard_sizes(samples, self.job.layout.record_bytes, self.max_shard_bytes)

    def write_shard(
        self,
        shard: tuple[tuple[str, int], Iterable[tuple[int, bytes]]],
        counts: dict[Bucket, int],
    ) -> tuple[str, int, Shard]:
        """Write one shard; it appears only when complete, with the same bytes at any attempt."""
        (split, index), pieces = shard
        width = self.job.layout.payload_bytes
        blocks = (
            np.frombuffer(data, np.uint8).reshape(-1, width)
            for _, data in sorted(pieces, key=lambda piece: piece[0])
        )
        name = shard_name(index, len(self.sizes(split, counts)))
        directory = self.job.splits[split]
        filesystem.make_directory(directory)
        return split, index, write_records(directory, name, self.job.layout, blocks)

    def finish(
        self, shards: Iterable[tuple[str, int, Shard]], results: Iterable[tuple[int, bytes]]
    ) -> None:
        """Write the tokenizer and `md.yml`, and what the summary needs into the work directory."""
        made = Made(shards={split: [] for split in self.job.splits})
        count_results(made, _in_order(results))
        for split, _, shard in sorted(shards, key=lambda one: one[:2]):
            made.shards[split].append(shard)
        for split, directory in self.job.splits.items():
            remove_leftovers(directory, [shard.name for shard in made.shards[split]])
        finish(self.job, self.tokenizer, made, self.shared)
        text = json.dumps(dataclasses.asdict(made)).encode()
        filesystem.write_bytes(f"{self.job.work}/{_SUMMARY}", text)


def _in_order(results: Iterable[tuple[int, bytes]]) -> list[PartResult]:
    return [PartResult.from_json(data) for _, data in sorted(results)]


def run(
    job: PreprocessJob,
    parts: Sequence[Part],
    max_shard_bytes: float,
    bad: BadInput,
    shared: dict[str, Any],
    options: Sequence[str],
) -> Made:
    """Make the whole dataset by a Beam pipeline, `md.yml` included.

    `job.work`: a directory that every worker sees, with the tokenizer in it; options: Beam's own,
    as name=value. Raises `UsageError` without apache-beam or for options that Beam refuses,
    `TlmError` when the pipeline fails.
    """
    size = sum(part.size for part in parts) * job.layout.payload_bytes // job.packing.seq_length
    one = BeamJob(
        job,
        len(parts),
        max(0, min(24, (size // BUCKET_BYTES).bit_length())),
        max_shard_bytes,
        shared,
    )
    first = PartResult({name: SplitResult() for name in job.splits}, bad)
    run_pipeline(lambda beam, pipeline: _build(beam, pipeline, one, parts, first), options)
    made = filesystem.read_bytes(f"{job.work}/{_SUMMARY}")
    found = strict.mapping(strict.read_json(made, f"{job.work}/{_SUMMARY}"), _SUMMARY)
    return Made(
        {name: SplitResult(**counts) for name, counts in found["counts"].items()},
        {
            name: [Shard(**{**shard, "sums": tuple(shard["sums"])}) for shard in shards]
            for name, shards in found["shards"].items()
        },
        BadInput(**found["bad"]),
    )


def _build(
    beam: Any, pipeline: Any, one: BeamJob, parts: Sequence[Part], first: PartResult
) -> None:
    """The pipeline's steps. `first`: input that was left out before, as the result of part -1."""

    def of_kind(made: Any, kind: str, what: str) -> Any:
        # Not tagged outputs: Dask's runner does not separate them.
        return (
            made
            | f"{kind} of {what}" >> beam.Filter(lambda one: one[0] == kind)
            | f"values: {kind} of {what}" >> beam.Values()
        )

    tokenized = (
        pipeline
        | "parts" >> beam.Create(list(parts))
        | "spread" >> beam.Reshuffle()
        | "tokenize" >> beam.FlatMap(one.tokenize)
    )
    tokenized_results = of_kind(tokenized, "result", "parts")
    once = pipeline | "once" >> beam.Create([None])
    tail = once | "pack leftovers" >> beam.FlatMap(
        lambda _, results: one.leftovers(results), beam.pvalue.AsList(tokenized_results)
    )
    buckets = (
        (of_kind(tokenized, "rows", "parts"), of_kind(tail, "rows", "leftovers"))
        | "all examples" >> beam.Flatten()
        | "by key" >> beam.GroupByKey()
    )
    width = one.job.layout.payload_bytes
    counts = beam.pvalue.AsDict(
        buckets
        | "count" >> beam.MapTuple(lambda at, rows: (at, sum(len(r[3]) for r in rows) // width))
    )
    shards = (
        buckets
        | "cut" >> beam.FlatMap(one.cut, counts)
        | "by shard" >> beam.GroupByKey()
        | "write shards" >> beam.Map(one.write_shard, counts)
    )
    left_out = pipeline | "left out" >> beam.Create([(-1, first.to_json())])
    results = (
        tokenized_results,
        of_kind(tail, "result", "leftovers"),
        left_out,
    ) | "all results" >> beam.Flatten()
    _ = once | "md.yml" >> beam.Map(
        lambda _, shards, results: one.finish(shards, results),
        beam.pvalue.AsList(shards),
        beam.pvalue.AsList(results),
    )
