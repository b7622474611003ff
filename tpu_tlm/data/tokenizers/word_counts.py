"""How often each word of a corpus occurs, in bounded memory, the same for any number of processes."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from tpu_tlm.data.corpus.documents import BadInput, Part, read_part
from tpu_tlm.data.tokenizers.wordpiece import ascii_words, bert_pipeline, without_controls
from tpu_tlm.errors import TlmError

# About 400 MB of words; a part of 16 MiB has far fewer than the second number.
LARGEST_TABLE = 2_000_000
_LARGEST_PART_TABLE = 1_000_000
_BATCH = 100_000


@dataclass
class WordCounts:
    """Words and their counts; `pruned` words were seen no more than `threshold` times when they were dropped for room."""

    words: Counter[str] = field(default_factory=Counter)
    bad: BadInput = field(default_factory=BadInput)
    documents: int = 0
    lines: int = 0
    size: int = 0
    pruned: int = 0
    threshold: int = 0

    def prune(self, largest: int) -> None:
        """Drop the rarest words once there are more than `largest`, until half of that is left; ties go together."""
        if len(self.words) <= largest:
            return
        counts = np.sort(np.fromiter(self.words.values(), np.int64, len(self.words)))[::-1]
        least = int(counts[largest // 2])
        kept = Counter({word: count for word, count in self.words.items() if count > least})
        self.pruned += len(self.words) - len(kept)
        self.threshold += least
        self.words = kept

    def add(self, other: WordCounts) -> None:
        """Add the counts of the next part."""
        self.words.update(other.words)
        self.bad.merge(other.bad)
        self.documents += other.documents
        self.lines += other.lines
        self.size += other.size
        self.pruned += other.pruned
        self.threshold = max(self.threshold, other.threshold)


@dataclass(frozen=True)
class CountTask:
    """What a process needs to know to count a part."""

    subword_type: str
    cased: bool
    json_field: str
    strict: bool


def count_part(part: Part, task: CountTask) -> WordCounts:
    """The words of one part: for BPE runs without white space, for WordPiece BERT's words (not yet normalized if not ASCII)."""
    result = WordCounts()
    count = _count_bpe if task.subword_type == "bpe" else _count_wordpiece
    lines: list[bytes] = []
    size = 0
    for document in read_part(part, task.json_field, task.strict, result.bad):
        lines += document.lines
        result.documents += document.first
        size += sum(map(len, document.lines))
        if size > _BATCH * 10:
            count(result, lines, task.cased)
            result.prune(_LARGEST_PART_TABLE)
            lines, size = [], 0
    count(result, lines, task.cased)
    result.size = part.size
    return result


def _count_bpe(result: WordCounts, lines: list[bytes], cased: bool) -> None:
    words: list[str] = []
    for line in lines:
        words += line.decode().split()
    result.lines += len(lines)
    if cased:
        result.words.update(words)
        return
    for word, count in Counter(words).items():
        result.words[word.lower()] += count


def _count_wordpiece(result: WordCounts, lines: list[bytes], cased: bool) -> None:
    chunks: list[bytes] = []
    for line in lines:
        chunks += without_controls(line).split()
    result.lines += len(lines)
    for chunk, count in Counter(chunks).items():
        for word in ascii_words(chunk, cased) if chunk.isascii() else (chunk,):
            result.words[word.decode()] += count


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_words(
    parts: Sequence[Part],
    task: CountTask,
    workers: int,
    done: Callable[[WordCounts], None] = lambda counts: None,
) -> WordCounts:
    """The words of all parts. `done` is called with the sum so far after every part.

    Raises `UsageError` for bad input under `strict`, `TlmError` when a process dies.
    """
    total = WordCounts()
    for counts in _counted(parts, task, min(workers, len(parts))):
        total.add(counts)
        total.prune(LARGEST_TABLE)
        done(total)
    if task.subword_type == "wordpiece":
        total.words = _normalized(total.words, task.cased)
    return total


def _counted(parts: Sequence[Part], task: CountTask, workers: int) -> Iterator[WordCounts]:
    """The parts' counts in the order of the parts, whichever process is first."""
    if workers <= 1:
        yield from (count_part(part, task) for part in parts)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[WordCounts]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(count_part, part, task))
                # Counts that nobody has taken yet lie in memory: do not run far ahead.
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise TlmError(
                "a counting process died, most likely of too little memory: give fewer --workers"
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _normalized(chunks: Counter[str], cased: bool) -> Counter[str]:
    """BERT's words, where the chunks that are not ASCII were left as they stood in the text."""
    pipeline = bert_pipeline({"[UNK]": 0}, cased)
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        if chunk.isascii():
            words[chunk] += count
            continue
        for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(
            pipeline.normalizer.normalize_str(chunk)
        ):
            words[word] += count
    return words
