"""Tokenize, pack and spill the documents of one split: lines -> tokens -> examples -> disk."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tpu_tlm.data.corpus.documents import BadInput
from tpu_tlm.data.corpus.pair_rows import Group
from tpu_tlm.data.dataset.records import Layout, token_layout, token_payload
from tpu_tlm.data.dataset.splitmix import key_of
from tpu_tlm.data.preprocessing.external_sort import RunWriter
from tpu_tlm.data.preprocessing.packing import Examples, Packer, Packing, Tokens
from tpu_tlm.data.preprocessing.pairs import PairRule, make_pairs
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.errors import TlmError

ENCODED_AT_ONCE = 1 << 20  # bytes of text
_SHUFFLE = 1  # separates this key from the one in worker.py


@dataclass(frozen=True)
class PreprocessJob:
    """Everything that the processes of one preprocessing share.

    `splits`: name -> the directory of its dataset; `unk_id`: the id whose occurrences are counted.
    """

    work: str
    splits: dict[str, str]
    packing: Packing
    vocab_size: int
    json_field: str
    strict: bool
    shuffle: bool
    seed: int
    valid_fraction: float
    pairs: PairRule | None = None
    unk_id: int = -1
    document: str = "blank-line"
    text_column: str | None = None

    @property
    def layout(self) -> Layout:
        """The bytes of a record."""
        return token_layout(
            self.packing.seq_length,
            self.vocab_size,
            self.pairs.y.seq_length if self.pairs else None,
        )

    def payload(self, examples: Examples, y: NDArray[np.uint32] | None = None) -> NDArray[np.uint8]:
        """Examples as they are kept on disk. Raises `TlmError` for an id outside the vocabulary."""
        for ids in (examples.ids,) if y is None else (examples.ids, y):
            if ids.size and int(ids.max()) >= self.vocab_size:
                raise TlmError(
                    f"the tokenizer gave id {int(ids.max())} of {self.vocab_size}: "
                    "its files do not belong together"
                )
        return token_payload(examples.ids, examples.word_start, self.vocab_size, y)

    def run_writer(self, split: str, part: int) -> RunWriter:
        """A writer of the examples of a part."""
        key = key_of(self.seed, _SHUFFLE, list(self.splits).index(split)) if self.shuffle else None
        return RunWriter(f"{self.work}/part-{part:06d}.{split}", part, key)


@dataclass
class SplitResult:
    """What a part gave to one split: its run on disk, tokens that fill no example, and counts."""

    chunks: list[int] = field(default_factory=list)
    leftover_ids: list[int] = field(default_factory=list)
    leftover_starts: list[int] = field(default_factory=list)
    documents: int = 0
    lines: int = 0
    tokens: int = 0
    text_bytes: int = 0
    cut_x: int = 0
    cut_y: int = 0
    words: int = 0
    unknown: int = 0
    unknown_words: int = 0

    def count_unknown(self, encoded: Encoded, unk_id: int) -> None:
        """Add the words, the unknown tokens and the words with one in them."""
        self.words += int(np.count_nonzero(encoded.word_start))
        unknown = encoded.ids == unk_id
        if count := int(np.count_nonzero(unknown)):
            self.unknown += count
            # WordPiece's unknown token is a whole word, so no word has two of them.
            whole = bool(encoded.word_start[unknown].all())
            words = count if whole else len(np.unique(np.cumsum(encoded.word_start)[unknown]))
            self.unknown_words += words

    @property
    def leftover(self) -> Tokens:
        """The tokens that wait for those of other parts."""
        return Tokens(np.array(self.leftover_ids, np.uint32), np.array(self.leftover_starts, bool))


class SplitWriter:
    """Writes the documents of one split, packed into examples."""

    def __init__(self, job: PreprocessJob, split: str, part: int, tokenizer: Tokenizer) -> None:
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
        """Take a document, or a block of one."""
        if first:
            self._begins.append(len(self._lines))
        self._lines += lines
        self._size += sum(map(len, lines))
        if cut:
            self._cuts.append(len(self._lines) - 1)
        if self._size >= ENCODED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_lines(self._lines)
        begins = np.zeros(len(self._lines), bool)
        begins[self._begins] = True
        ends = np.ones(len(self._lines), bool)
        ends[self._cuts] = False
        # A line without a token leaves none at its end either; b"" is the rest of a longer line.
        lengths = np.diff(encoded.offsets)
        for index in np.flatnonzero(lengths == 0):
            ends[index] &= not self._lines[index]
        self.result.count_unknown(encoded, self._job.unk_id)
        rows = self._packer.add_lines(
            Tokens(encoded.ids, encoded.word_start), encoded.offsets, begins, ends
        )
        self._writer.add(self._job.payload(rows))
        self.result.documents += len(self._begins)
        self.result.lines += int(ends.sum())
        self.result.tokens += len(encoded.ids) + (
            int(ends.sum()) if self._job.packing.eol is not None else 0
        )
        self.result.text_bytes += self._size
        self._lines, self._begins, self._cuts, self._size = [], [], [], 0

    def close(self) -> SplitResult:
        """Give out what waits; the result is complete."""
        if self._lines:
            self._flush()
        if self._job.packing.documents:
            self._writer.add(self._job.payload(self._packer.finish()))
        leftover = self._packer.leftover()
        self.result.leftover_ids = leftover.ids.tolist()
        self.result.leftover_starts = leftover.word_start.astype(int).tolist()
        self.result.chunks = list(self._writer.close().chunks)
        return self.result


class PairSplitWriter:
    """Writes the groups of texts of one split as pairs."""

    def __init__(
        self,
        job: PreprocessJob,
        rule: PairRule,
        split: str,
        part: int,
        tokenizer: Tokenizer,
        bad: BadInput,
    ) -> None:
        self._job, self._rule, self._tokenizer, self._bad = job, rule, tokenizer, bad
        self._writer = job.run_writer(split, part)
        self._groups: list[Group] = []
        self._size = 0
        self.result = SplitResult()

    def add(self, group: Group) -> None:
        """Take a group."""
        self._groups.append(group)
        self._size += sum(map(len, group.texts))
        if self._size >= ENCODED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        encoded = self._tokenizer.encode_lines(
            [text for group in self._groups for text in group.texts]
        )
        self.result.count_unknown(encoded, self._job.unk_id)
        pairs = make_pairs(self._groups, encoded, self._job.packing, self._rule)
        for index in pairs.empty:
            self._bad.add(
                "texts that give no pair (left out)",
                self._groups[index].where,
                "a pair needs two words",
                self._job.strict,
            )
        self._writer.add(self._job.payload(pairs.x, pairs.y))
        result = self.result
        result.documents += sum(group.first for group in self._groups)
        result.lines += len(encoded.offsets) - 1
        result.tokens += len(encoded.ids)
        result.text_bytes += self._size
        result.cut_x += pairs.cut_x
        result.cut_y += pairs.cut_y
        self._groups, self._size = [], 0

    def close(self) -> SplitResult:
        """Give out what waits; the result is complete."""
        if self._groups:
            self._flush()
        self.result.chunks = list(self._writer.close().chunks)
        return self.result
