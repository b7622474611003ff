"""Words of lines by their bytes, against `split` and a dictionary."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from tests.data.tokenizers.test_bpe import CODES, VOCAB
from tpu_tlm.data.tokenizers import word_index, word_numbers
from tpu_tlm.data.tokenizers.bpe import BpeTokenizer
from tpu_tlm.data.tokenizers.line_words import UNICODE_SPACES, WhiteSpace
from tpu_tlm.data.tokenizers.word_cache import Counts, Ids, LineTable
from tpu_tlm.data.tokenizers.word_index import LONGEST, PADDING, WordIndex, Words
from tpu_tlm.data.tokenizers.word_numbers import LineCounter

UNICODE = tuple(filter(str.isspace, map(chr, range(sys.maxunicode + 1))))
ASCII = tuple(" \t\n\r\v\f")


def words_in(words: Sequence[bytes]) -> Words:
    """The words as words in a text, with a letter between them."""
    lengths = np.array([len(word) for word in words], np.int64)
    starts = np.cumsum(lengths + 1) - lengths
    return Words(b"x" + b"x".join(words) + b"x" * PADDING, starts, lengths)


def drawn(count: int, seed: int = 0) -> list[bytes]:
    """So many different words of 1 to 40 bytes, many of which begin or end alike."""
    draw = random.Random(seed)
    found: dict[bytes, None] = {}
    while len(found) < count:
        word = bytes(draw.choices(b"ab\0\xff", k=draw.randint(1, 40)))
        found |= {word: None, word[:8]: None, word[-7:]: None, word + b"\0": None}
    return list(found)[:count]


def test_an_index_finds_what_was_added_and_nothing_else() -> None:
    words = drawn(30_000)
    index, held = WordIndex(), {}
    for at in range(0, 20_000, 700):
        some = [w for w in words[at : min(at + 700, 20_000)] if len(w) <= LONGEST]
        numbers = 3 * np.arange(len(held), len(held) + len(some))  # any numbers that grow
        index.add(words_in(some), numbers)
        held |= dict(zip(some, numbers.tolist(), strict=True))
    found = index.find(words_in(words)).tolist()
    expected = [held.get(word, -1) for word in words]
    # A word may go unheld when its slots are taken; of this many, hardly one does.
    assert all(a in (b, -1) for a, b in zip(found, expected, strict=True))
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 5
    assert -1 in expected and len(held) > 10_000


@pytest.mark.parametrize("length", [1, 6, 7, 8, 14, 15, 16, 22, 23, 24, 30, 31])
def test_words_that_differ_in_one_byte_are_different(length: int) -> None:
    word = b"\0" * length
    near = [word[:i] + b"\1" + word[i + 1 :] for i in range(length)]
    near += [word[:-1], word + b"\0"] if length > 1 else [word + b"\0"]
    index = WordIndex()
    index.add(words_in([word]), np.array([5]))
    assert index.find(words_in([word, *near])).tolist() == [5] + [-1] * len(near)


def test_words_that_meet_in_one_slot_cost_their_places_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(word_index, "_FACTOR", np.uint64(0))  # every word has the same place
    alike = [b"the same " + bytes([code]) for code in range(100, 120)]  # first keys are equal
    words = alike + [word for word in drawn(3_000) if len(word) <= LONGEST]
    index = WordIndex()
    for at in range(0, len(words), 50):
        index.add(words_in(words[at : at + 50]), np.arange(at, min(at + 50, len(words))))
    found = index.find(words_in(words))
    held = np.flatnonzero(found >= 0)
    assert len(held) == word_index._PROBES and (found[held] == held).all()


def lines_of(spaces: Sequence[str], seed: int, count: int = 200) -> list[bytes]:
    """Lines of words between any white space, empty ones among them."""
    draw = random.Random(seed)
    letters = ["a", "b", "é", "語", "\0", "\x1e", "\x85", "x" * 30]
    return [
        "".join(
            draw.choice(spaces) if draw.random() < 0.4 else draw.choice(letters)
            for _ in range(draw.randint(0, 30))
        ).encode()
        for _ in range(count)
    ]


@pytest.mark.parametrize("dropped", [b"", b"\x1e\0a"])
def test_words_of_lines_are_those_of_split(dropped: bytes) -> None:
    lines = [b"", b"a", *lines_of(ASCII, 1), *lines_of(UNICODE, 2), b"z" * 50, b""]
    for spaces, split in ((ASCII, bytes.split), (UNICODE_SPACES, split_text)):
        words, ends = WhiteSpace(spaces, dropped).words(lines)
        found = words.to_list()
        assert [found[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)] == [
            split(line.translate(None, dropped)) for line in lines
        ]
        assert len(words.text) >= int(words.starts[-1] + words.lengths[-1]) + PADDING
    none, ends = WhiteSpace(ASCII).words([])
    assert none.to_list() == [] and ends.tolist() == [0]
    assert WhiteSpace(ASCII).words([b"", b" "])[1].tolist() == [0, 0, 0]


def split_text(line: bytes) -> list[bytes]:
    return [word.encode() for word in line.decode().split()]


def spelled(words: list[bytes]) -> tuple[Ids, Counts]:
    """A toy splitter: a word's bytes as ids."""
    return np.frombuffer(b"".join(words), np.uint8).astype(np.uint32), np.array([*map(len, words)])


@pytest.mark.parametrize("largest", [10, 300, 100_000])
@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("spaces", [UNICODE, UNICODE[-9:]])  # the latter without line feeds
def test_ids_of_lines_are_those_of_their_words(
    largest: int, block: int, spaces: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_numbers, "_BLOCK", block)
    table = LineTable(spelled, WhiteSpace(UNICODE_SPACES), largest)
    for seed in range(12):
        lines = lines_of(spaces, seed % 5, 60)
        ids, begins, ends = table.lookup_lines(lines)
        words = [word for line in lines for word in split_text(line)]
        assert ids.tolist() == list(b"".join(words))
        assert begins.tolist() == np.cumsum([0, *map(len, words)]).tolist()
        assert np.diff(ends).tolist() == [len(split_text(line)) for line in lines]
    again, _ = table.lookup(words)
    assert again.tolist() == ids.tolist()


def test_a_word_is_split_and_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    held: list[int] = []
    add = WordIndex.add

    def noting(index: WordIndex, words: Words, numbers: Counts) -> None:
        held.extend(numbers.tolist())
        add(index, words, numbers)

    def split(words: list[bytes]) -> tuple[Ids, Counts]:
        asked.extend(words)
        return spelled(words)

    monkeypatch.setattr(WordIndex, "add", noting)
    table = LineTable(split, WhiteSpace(ASCII))
    for _ in range(3):
        table.lookup_lines([b"a b a", b"%b b" % (b"long" * 20), b"c" * 31, b"c" * 32])
    assert sorted(asked) == sorted([b"a", b"b", b"long" * 20, b"c" * 31, b"c" * 32])
    assert len(held) == 3 and held == sorted({*held})  # the short ones


def test_a_splitter_that_fails_leaves_a_table_that_is_sound() -> None:
    fails = [True]

    def split(words: list[bytes]) -> tuple[Ids, Counts]:
        if b"bad" in words and fails.pop():
            raise ValueError("bad")
        return spelled(words)

    table = LineTable(split, WhiteSpace(ASCII))
    table.lookup_lines([b"good"])
    with pytest.raises(ValueError, match="bad"):
        table.lookup_lines([b"good bad new"])
    fails.append(False)
    assert bytes(table.lookup_lines([b"good bad new"])[0].tolist()) == b"goodbadnew"


def test_bytes_that_are_not_utf8_are_refused_by_bpe() -> None:
    tokenizer = BpeTokenizer(CODES, VOCAB)
    for _ in range(2):
        with pytest.raises(UnicodeDecodeError):
            tokenizer.encode_lines([b"the peace", b"a\xff"])
    assert tokenizer.encode_lines([b"the peace"]).ids.tolist() == tokenizer.encode("the peace")


@pytest.mark.parametrize("largest", [0, 20, 100_000])
def test_words_of_lines_are_counted_in_their_order(largest: int) -> None:
    counter = LineCounter(WhiteSpace(UNICODE_SPACES), largest)
    total: Counter[bytes] = Counter()
    expected: Counter[bytes] = Counter()
    for seed in range(8):
        lines = lines_of(UNICODE, seed % 5, 40)
        counted = counter.count(lines)
        assert counted == Counter(word for line in lines for word in split_text(line))
        assert len(counter._numbers.words) <= largest + len(counted)
        total.update(counted)
        expected.update(word for line in lines for word in split_text(line))
    assert list(total.items()) == list(expected.items())
    assert counter.count([]) == counter.count([b"", b" "]) == Counter()


@pytest.mark.parametrize("kind", ["table", "counter"])
def test_the_text_that_is_held_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_numbers, "LARGEST_TEXT", 1_000)
    table = LineTable(spelled, WhiteSpace(ASCII))
    counter = LineCounter(WhiteSpace(ASCII))
    for number in range(50):
        lines = [b"%03d" % number * 40]
        if kind == "table":
            assert bytes(table.lookup_lines(lines)[0].tolist()) == lines[0]
            assert len(table._numbers.words) < 12
        else:
            assert counter.count(lines) == {lines[0]: 1}
            assert len(counter._numbers.words) < 12
