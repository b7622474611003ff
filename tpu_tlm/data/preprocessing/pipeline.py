"""Parts tokenized, examples shuffled on disk, shards written, `md.yml` last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.data.corpus.documents import BadInput, Part
from tpu_tlm.data.dataset.dataset import TOKENIZER
from tpu_tlm.data.dataset.metadata import write_metadata
from tpu_tlm.data.dataset.shards import Shard, remove_leftovers, shard_sizes
from tpu_tlm.data.preprocessing.pool import PreprocessPool
from tpu_tlm.data.preprocessing.worker import (
    PartResult,
    PreprocessJob,
    SplitResult,
    finished_shard,
    finished_shard_names,
    load_results,
    pack_leftovers,
)
from tpu_tlm.data.progress import ProgressBar
from tpu_tlm.data.share import Share, poll_seconds, wait_until
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError

_ALONE = Share()
_COUNTS = (
    "documents",
    "lines",
    "tokens",
    "text_bytes",
    "cut_x",
    "cut_y",
    "words",
    "unknown",
    "unknown_words",
)


@dataclass
class Made:
    """Counts and shards by split, bad input, and how many parts and shards were there before."""

    counts: dict[str, SplitResult] = field(default_factory=dict)
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    bad: BadInput = field(default_factory=BadInput)
    kept_parts: int = 0
    kept_shards: int = 0


def run(
    job: PreprocessJob,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    workers: int,
    max_shard_bytes: float,
    bad: BadInput | None = None,
    share: Share = _ALONE,
    notice: Callable[[str], None] = lambda text: None,
) -> Made:
    """Do all that is not done yet, up to but without `md.yml`.

    `bad`: input that was left out before; `share`: the parts and shards of this process, `notice`
    is called with a line while it waits for the others; only process 0 waits for all shards. Raises
    `TlmError` (`UsageError` under `strict`) for bad input.
    """
    made, progress = Made(), ProgressBar()
    if bad is not None:
        made.bad.merge(bad)
    mine = [part for part in parts if share.has(part.index)]
    pending = [part for part in mine if PartResult.load(job, part.index) is None]
    made.kept_parts = len(mine) - len(pending)
    total = sum(part.size for part in mine)
    before = total - sum(part.size for part in pending)
    workers = min(workers, max(len(pending), 1))
    pool = PreprocessPool(job, len(parts), workers, lambda: show_tokenizing())
    tokenizing = True

    def show_tokenizing() -> None:
        if tokenizing:
            progress.update(before + sum(pool.consumed[:-1]))

    try:
        progress.start("tokenizing", total, initial=before)
        # The largest first: a compressed file is one part however large, and must not come last.
        for _ in pool.tokenize(sorted(pending, key=lambda part: (-part.size, part.index))):
            show_tokenizing()
        tokenizing = False
        missing = [part.index for part in parts if not share.has(part.index)]

        def all_parts() -> bool:
            while missing and PartResult.load(job, missing[-1]) is not None:
                missing.pop()
            return not missing

        seconds = poll_seconds(job.work)
        wait_until(all_parts, "parts of other processes", notice, share, seconds)
        count_results(made, load_results(job, len(parts)))
        if share.leads and PartResult.load(job, len(parts)) is None:
            for split in job.splits:
                _remove_other_shards(job, split)
            pack_leftovers(job, list(load_results(job, len(parts))))
        # Once it was seen the work directory may go, if this process has no shards of its own.
        tails: list[PartResult] = []

        def packed() -> bool:
            if (found := PartResult.load(job, len(parts))) is not None:
                tails.append(found)
            return bool(tails)

        wait_until(packed, "process 0 to pack", notice, share, seconds)
        (tail,) = tails
        for split, counts in made.counts.items():
            counts.chunks += tail.splits[split].chunks
        check_not_empty(job, made)
        for split in job.splits:
            sizes = shard_sizes(
                sum(made.counts[split].chunks), job.layout.record_bytes, max_shard_bytes
            )
            _write_shards(job, split, sizes, len(parts) + 1, pool, progress, made, share)
            if share.leads:
                made.shards[split] = _all_shards(job, split, len(sizes), notice)
    finally:
        progress.clear()
        pool.close()
    return made


def count_results(made: Made, results: Iterable[PartResult]) -> None:
    """Add the counts, chunks and bad input of parts."""
    for result in results:
        made.bad.merge(result.bad)
        for split, counts in result.splits.items():
            total = made.counts.setdefault(split, SplitResult())
            total.chunks += counts.chunks
            for name in _COUNTS:
                setattr(total, name, getattr(total, name) + getattr(counts, name))


def check_not_empty(job: PreprocessJob, made: Made) -> None:
    """Raise `UsageError` with the cause when a split has no example."""
    for split, counts in made.counts.items():
        if not counts.chunks:
            raise UsageError(_nothing_in(split, job, made))


def _nothing_in(split: str, job: PreprocessJob, made: Made) -> str:
    """Why a split has no example."""
    documents = sum(counts.documents for counts in made.counts.values())
    if not documents:
        return "; ".join(["--input_files: no text in them", *made.bad.summary()])
    if len(job.splits) > 1 and documents == 1:
        ends = {
            "blank-line": "documents end at an empty line; see --document",
            "line": "a line is a document",
            "file": "a file is a document",
        }[job.document]
        return (
            f"--valid_fraction: the input has 1 document ({ends}): there is none to hold out, or "
            "none left to train on"
        )
    if split == "valid":
        return (
            f"--valid_fraction: of {documents:,} documents none fell into the valid split: take a "
            "larger fraction, another --seed or more text"
        )
    if split == "train":
        return (
            f"--valid_fraction: of {documents:,} documents none was left for the train split: "
            "take a smaller fraction, another --seed or more text"
        )
    return f"--input_files: {documents:,} documents, but no token in them"


def _remove_other_shards(job: PreprocessJob, split: str) -> None:
    """Remove what interrupted attempts left in the output, while no process writes there."""
    filesystem.make_directory(job.splits[split])
    remove_leftovers(job.splits[split], finished_shard_names(job, split))


def _write_shards(
    job: PreprocessJob,
    split: str,
    sizes: list[int],
    parts: int,
    pool: PreprocessPool,
    progress: ProgressBar,
    made: Made,
    share: Share,
) -> None:
    mine = [index for index in range(len(sizes)) if share.has(index)]
    pending = [index for index in mine if finished_shard(job, split, index) is None]
    made.kept_shards += len(mine) - len(pending)
    done = len(mine) - len(pending)
    progress.start(f"writing {split} shards", len(mine), " shards", initial=done)
    for _ in pool.write_shards(split, pending, sizes, parts):
        done += 1
        progress.update(done)


def _all_shards(
    job: PreprocessJob, split: str, count: int, notice: Callable[[str], None]
) -> list[Shard]:
    """The shards of all processes, waited for."""
    shards: list[Shard] = []

    def complete() -> bool:
        while len(shards) < count and (shard := finished_shard(job, split, len(shards))):
            shards.append(shard)
        return len(shards) == count

    wait_until(complete, f"{split} shards of other processes", notice, Share())
    _remove_other_shards(job, split)
    return shards


def finish(job: PreprocessJob, tokenizer: Tokenizer, made: Made, shared: dict[str, Any]) -> None:
    """Write the tokenizer and `md.yml`; `shared` are the keys of `md.yml` that all splits have."""
    for split, directory in job.splits.items():
        tokenizer.save(f"{directory.rstrip('/')}/{TOKENIZER}")
        counts = made.counts[split]
        own = {
            "split": split,
            "documents": counts.documents,
            "lines": counts.lines,
            "tokens": counts.tokens,
            "text_bytes": counts.text_bytes,
            "unknown_tokens": counts.unknown,
            "unknown_token_share": round(counts.unknown / max(counts.tokens, 1), 6),
            "unknown_word_share": round(counts.unknown_words / max(counts.words, 1), 6),
        } | ({"cut_x": counts.cut_x, "cut_y": counts.cut_y} if job.pairs else {})
        metadata = {
            "split": split,
            **shared,
            **own,
            "bad_input": made.bad.counts,
            "tokenizer": tokenizer.description(),
        }
        write_metadata(directory, metadata, job.layout, made.shards[split])
