"""Text -> dataset directories: parts tokenized, examples shuffled on disk, shards written, `md.yml` last."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.corpus.documents import BadInput, Part
from tpu_tlm.data.dataset.dataset import TOKENIZER
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.shards import Shard, remove_leftovers, shard_name, shard_sizes
from tpu_tlm.data.preprocessing.pool import Pool
from tpu_tlm.data.preprocessing.worker import (
    PartResult,
    PreprocessJob,
    SplitResult,
    finished_shard,
    load_results,
    pack_leftovers,
)
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError

_COUNTS = ("documents", "lines", "tokens", "text_bytes", "cut_x", "cut_y")


@dataclass
class Made:
    """What a preprocessing made: counts and shards by split, bad input, and the parts and shards found from before."""

    counts: dict[str, SplitResult] = field(default_factory=dict)
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    bad: BadInput = field(default_factory=BadInput)
    kept_parts: int = 0
    kept_shards: int = 0


class PreprocessProgress:
    """A line on standard error about how far a phase is: rewritten in place on a terminal, else a line now and then."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._every = 0.5 if self._live else 10.0
        self._begun = self._shown = time.monotonic()
        self._width = 0

    def start(self) -> None:
        """A new phase begins: rates count from here."""
        self._begun = time.monotonic()

    def show(
        self, what: str, done: float, before: float, total: float, unit: float, name: str
    ) -> None:
        """Tell `done` of `total`, of which `before` was there from the start; rates in `name` of `unit` each."""
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown = now
        rate = (done - before) / max(now - self._begun, 1e-9)
        left = _clock((total - done) / rate) if rate > 0 else "unknown"
        text = f"{what}: {done / max(total, 1):.0%}, {rate / unit:.1f} {name}/s, {left} left"
        if self._live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds + 0.5), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def run(
    job: PreprocessJob,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    workers: int,
    max_shard_bytes: float,
) -> Made:
    """Do all that is not done yet, up to but without `md.yml`. Raises `TlmError` (`UsageError` under `strict`) for bad input."""
    made, progress = Made(), PreprocessProgress()
    tokenizer.save(f"{job.work}/{TOKENIZER}")
    pending = []
    for part in parts:
        if PartResult.load(job, part.index) is None:
            pending.append(part)
    made.kept_parts = len(parts) - len(pending)
    pool = Pool(job, len(parts), min(workers, max(len(pending), 1)), lambda: told())
    total = sum(part.size for part in parts)
    before = total - sum(part.size for part in pending)

    def told() -> None:
        progress.show("tokenizing", before + sum(pool.consumed[:-1]), before, total, 1e6, "MB")

    try:
        # The largest first: a compressed file is one part however large, and must not be alone at the end.
        for _ in pool.tokenize(sorted(pending, key=lambda part: (-part.size, part.index))):
            told()
        _count(made, load_results(job, len(parts)))
        tail = PartResult.load(job, len(parts)) or pack_leftovers(job, len(parts))
        for split, counts in made.counts.items():
            counts.chunks += tail.splits[split].chunks
            if not counts.chunks:
                raise UsageError(_nothing(split, made.bad))
        progress.start()
        for split in job.splits:
            sizes = shard_sizes(
                sum(made.counts[split].chunks), job.layout.record_bytes, max_shard_bytes
            )
            made.shards[split] = _write_shards(
                job, split, sizes, len(parts) + 1, pool, progress, made
            )
    finally:
        progress.clear()
        pool.close()
    return made


def _count(made: Made, results: Iterable[PartResult]) -> None:
    for result in results:
        made.bad.merge(result.bad)
        for split, counts in result.splits.items():
            total = made.counts.setdefault(split, SplitResult())
            total.chunks += counts.chunks
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(counts, name))


def _nothing(split: str, bad: BadInput) -> str:
    if split == "valid":
        return "--valid_fraction: no document fell into the valid split: take a larger fraction, another --seed or more text"
    return "; ".join(["--input_files: no text in them", *bad.summary()])


def _write_shards(
    job: PreprocessJob,
    split: str,
    sizes: list[int],
    parts: int,
    pool: Pool,
    progress: PreprocessProgress,
    made: Made,
) -> list[Shard]:
    shards = {index: finished_shard(job, split, index) for index in range(len(sizes))}
    pending = [index for index, shard in shards.items() if shard is None]
    made.kept_shards += len(sizes) - len(pending)
    filesystem.make_directory(job.splits[split])
    if pending:
        remove_leftovers(job.splits[split], [shard.name for shard in shards.values() if shard])
    names = {shard_name(index, len(sizes)): index for index in pending}
    before = done = len(sizes) - len(pending)
    for shard in pool.write_shards(split, pending, sizes, parts):
        shards[names[shard.name]] = shard
        done += 1
        progress.show(f"writing {split} shards", done, before, len(sizes), 1, "shards")
    return [shard for shard in shards.values() if shard is not None]


def finish(job: PreprocessJob, tokenizer: Tokenizer, made: Made, told: dict[str, Any]) -> None:
    """Put the tokenizer and `md.yml` into each directory; `told` are the keys of `md.yml` that all splits share."""
    for split, directory in job.splits.items():
        tokenizer.save(f"{directory.rstrip('/')}/{TOKENIZER}")
        counts = made.counts[split]
        own = {
            "split": split,
            "documents": counts.documents,
            "lines": counts.lines,
            "tokens": counts.tokens,
            "text_bytes": counts.text_bytes,
        } | ({"cut_x": counts.cut_x, "cut_y": counts.cut_y} if job.pairs else {})
        metadata = {
            "split": split,
            **told,
            **own,
            "bad_input": made.bad.counts,
            "tokenizer": tokenizer.description(),
        }
        write_metadata(directory, metadata, job.layout, made.shards[split])
