"""How often each word occurs, in bounded memory, the same for any number of processes."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpu_tlm.data.corpus.bad_input import BadInput
from tpu_tlm.data.corpus.documents import Part, read_part
from tpu_tlm.data.processes import ProcessPool
from tpu_tlm.data.tokenizers.chunks import Chunker
from tpu_tlm.data.tokenizers.line_chunks import LineChunks
from tpu_tlm.data.tokenizers.line_words import UNICODE_SPACES, Divider, WhiteSpace
from tpu_tlm.data.tokenizers.word_numbers import LineCounter
from tpu_tlm.data.tokenizers.wordpiece import ascii_words, bert_white_space

# Limits of the table of all parts (about 250 MB) and of that of one part of 16 MiB. The trainers
# learn from fewer words than either holds.
LARGEST_TABLE, LARGEST_TEXT = 1_200_000, 16_000_000
_LARGEST_PART_TABLE, _LARGEST_PART_TEXT = 700_000, 10_000_000
_BATCH = 1 << 20  # bytes of text counted at a time
# Scripts without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Chinese
# characters.
UNSEGMENTED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
# Longer runs in such scripts are cut for learning, or every line would be a word of its own.
_LONGEST_RUN, _CUT = 48, 32
# BERT's Chinese characters, each of which is a word.
_CHINESE = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf"
    "\U0002f800-\U0002fa1f]"
)


@dataclass
class WordCounts:
    """Words and their counts.

    `letters`: the characters of words that were dropped for room, `dropped` their weight (count
    times characters) of `weight` in all; `packed`: words and counts that another process sent.
    """

    words: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    bad: BadInput = field(default_factory=BadInput)
    documents: int = 0
    lines: int = 0
    size: int = 0
    weight: int = 0
    dropped: int = 0
    packed: tuple[str, np.ndarray] | None = None

    def count(self, words: Sequence[str] | Counter[str]) -> None:
        """Add words."""
        self.words.update(words)

    def prune(self, largest: int = LARGEST_TABLE, largest_text: int = LARGEST_TEXT) -> None:
        """Once the table is too large, drop words until half of what it may hold is left."""
        if len(self.words) <= min(largest, largest_text // 64):
            return
        text = sum(map(len, self.words))
        if len(self.words) <= largest and text <= largest_text:
            return
        kept = heaviest(self.words, largest // 2, largest_text // 2)
        for word in self.words.keys() - kept.keys():
            count = self.words[word]
            self.dropped += count * len(word)
            for letter in word:
                self.letters[letter] += count
        self.words = kept

    def pack(self) -> tuple[str, np.ndarray]:
        """Words, one a line, and their counts, in one order."""
        return "\n".join(self.words), np.fromiter(self.words.values(), np.int64, len(self.words))

    def __getstate__(self) -> dict[str, Any]:
        """As it is sent between processes: words in one text, which takes a tenth of the memory."""
        return {**self.__dict__, "words": Counter(), "packed": self.pack()}

    def add(self, other: WordCounts) -> None:
        """Add the counts of the next part, and keep the table within its limits.

        Which words are dropped depends on the order of the parts, so that must be the corpus's.
        """
        self.weight += other.weight
        for word, count in other._items():
            self.words[word] += count
        self.letters.update(other.letters)
        self.bad.merge(other.bad)
        self.documents += other.documents
        self.lines += other.lines
        self.size += other.size
        self.dropped += other.dropped
        self.prune(LARGEST_TABLE)

    def _items(self) -> Iterable[tuple[str, int]]:
        if self.packed is None:
            return self.words.items()
        text, counts = self.packed
        return zip(text.split("\n"), counts.tolist(), strict=True) if text else ()


def heaviest(words: Counter[str], most: int, most_text: int) -> Counter[str]:
    """At most `most` words of at most `most_text` characters, those of the largest weight.

    A word's weight (count times characters) is divided by a hash of it in (0, 1]: so heavy words
    stay, light ones stay in proportion to their weight, whatever their script or place in the
    alphabet, and a word that is dropped once is dropped again. The result does not depend on the
    order of `words`.
    """
    listed = sorted(words)
    lengths = np.fromiter(map(len, listed), np.int64, len(listed))
    counts = np.fromiter((words[word] for word in listed), np.int64, len(listed))
    hashes = np.fromiter((zlib.crc32(w.encode("utf-8", "replace")) for w in listed), np.uint32)
    priority = lengths * counts / ((_mixed(hashes) + 1.0) / 2**32)
    order = np.argsort(-priority, kind="stable")[:most]
    order = order[: int(np.searchsorted(np.cumsum(lengths[order]), most_text, "right"))]
    return Counter({listed[index]: int(counts[index]) for index in sorted(order.tolist())})


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """CRCs of similar words are related; a multiplication and a shift break that."""
    value = hashes.astype(np.uint64)
    value = (value * np.uint64(0x9E3779B97F4A7C15)) & np.uint64(2**64 - 1)
    return ((value ^ (value >> np.uint64(29))) >> np.uint64(32)).astype(np.float64)


@dataclass(frozen=True)
class CountTask:
    """What a process needs to know to count a part."""

    subword_type: str
    cased: bool
    json_field: str
    strict: bool
    text_column: str | None = None


def count_part(task: CountTask, part: Part) -> WordCounts:
    """The words of one part.

    bpe and unigram: runs without white space; wordpiece: BERT's words, not yet normalized where
    they are not ASCII; byte-bpe: GPT-2's chunks, with the space before them.
    """
    result = WordCounts()
    counter = LineCounter(_divider(task.subword_type))
    is_bert = task.subword_type == "wordpiece"
    lower = task.subword_type == "bpe" and not task.cased
    lines: list[bytes] = []
    size = 0

    def flush() -> None:
        counted = counter.count(lines)
        words = _bert_words(counted, task.cased) if is_bert else _texts(counted)
        for word, count in words.items():
            result.words[word.lower() if lower else word] += count
            result.weight += len(word) * count
        result.lines += len(lines)
        result.prune(_LARGEST_PART_TABLE, _LARGEST_PART_TEXT)
        lines.clear()

    documents = read_part(
        part, task.json_field, task.strict, result.bad, text_column=task.text_column
    )
    for document in documents:
        lines += document.lines
        result.documents += document.first
        size += sum(map(len, document.lines))
        if size > _BATCH:
            flush()
            size = 0
    flush()
    result.size = part.size
    return result


def _cut_runs(words: Counter[str]) -> Counter[str]:
    """The words, with long runs of scripts without spaces cut into pieces."""
    found: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) <= _LONGEST_RUN or not UNSEGMENTED.search(word):
            found[word] += count
            continue
        for at in range(0, len(word), _CUT):
            found[word[at : at + _CUT]] += count
    return found


def _texts(words: Counter[bytes]) -> Counter[str]:
    return _cut_runs(Counter({word.decode(): count for word, count in words.items()}))


def _bert_words(chunks: Counter[bytes], cased: bool) -> Counter[str]:
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        if chunk.isascii():
            found = [word.decode() for word in ascii_words(chunk, cased)]
        else:
            found = _CHINESE.sub(r" \g<0> ", chunk.decode()).split()
        for word in found:
            words[word] += count
    return words


def _divider(subword_type: str) -> Divider:
    """What finds the words of lines, before `_texts` and `_bert_words`."""
    if subword_type == "byte-bpe":
        return LineChunks(Chunker(True, set(), lowers=False))
    if subword_type == "wordpiece":
        return bert_white_space()
    return WhiteSpace(UNICODE_SPACES)


def count_words(
    parts: Sequence[Part],
    task: CountTask,
    workers: int,
    done: Callable[[WordCounts], None] = lambda counts: None,
    tick: Callable[[], None] = lambda: None,
) -> WordCounts:
    """The words of all parts. `done` is called with the sum so far after every part.

    Raises `UsageError` for bad input under `strict`, `TlmError` when a process dies.
    """
    total = WordCounts()
    pool = ProcessPool(min(workers, len(parts)), _task, task, tick=tick)
    try:
        # In the order of the parts, whichever process is first: dropping words depends on it.
        for counts in pool.run(count_part, ((part,) for part in parts), ordered=True):
            total.add(counts)
            done(total)
    finally:
        pool.close()
    return total


def _task(task: CountTask) -> CountTask:
    return task
