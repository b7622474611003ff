"""Words in a text -> numbers, by their bytes and without a Python object for each word."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = npt.NDArray[np.uint64]

# A key is 64 bits of a word: the first holds its length and 7 bytes, every further one 8 bytes, so
# that words with equal keys are equal.
_KEYS = 4
LONGEST = 7 + 8 * (_KEYS - 1)
# Bytes that must follow the last word of a text, because a key is read whole.
PADDING = 8 * _KEYS
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_LENGTHS = np.arange(LONGEST + 2, dtype=np.uint64) << np.uint64(56)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
# Slots that are looked at for a word. A word that finds none of them free is not held, which bounds
# what words that were chosen to meet in one slot can cost.
_PROBES = 16


class Words(NamedTuple):
    """Words in a text: word i is text[starts[i]:starts[i] + lengths[i]], both int64 [words].

    At least `PADDING` bytes follow the last word; every length is 1 or more.
    """

    text: bytes
    starts: Integers
    lengths: Integers

    def take(self, index: Integers | slice) -> Words:
        """Some of the words."""
        return Words(self.text, self.starts[index], self.lengths[index])

    def to_list(self) -> list[bytes]:
        """The words themselves."""
        text, starts = self.text, self.starts.tolist()
        ends = (self.starts + self.lengths).tolist()
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]


class WordIndex:
    """Words of 1 to `LONGEST` bytes with a number each: a hash table with linear probing.

    Hardly a word in ten thousand is not held, because its slots are taken.
    """

    def __init__(self) -> None:
        # Column n + 1 is that of number n; column 0 is that of no word, which no word equals.
        self._keys = np.zeros((_KEYS, 1024), np.uint64)
        self._hashes = np.zeros(1024, np.uint64)
        self._end = 1
        self._slots = np.zeros(2048, np.int64)  # columns; a power of two, at least half are free

    def find(self, words: Words) -> Integers:
        """The numbers of words, int64 [words]; -1 for a word that is not held."""
        return self._find(words, 0) - 1

    def _find(self, words: Words, probe: int) -> Integers:
        """The columns of words, 0 for none, which are not in the slots before `probe`."""
        keys, further = _keys(words)
        found = self._slots.take(self._places(_hashes(keys, further), probe))
        other = self._keys[0].take(found) != keys
        for row, (index, more) in enumerate(further, 1):
            other[index] |= self._keys[row].take(found[index]) != more
        if len(left := np.flatnonzero(other)):
            # A word that is held is not behind a free slot.
            behind = left[found[left] > 0] if probe + 1 < _PROBES else left[:0]
            found[left] = 0
            if len(behind):
                found[behind] = self._find(words.take(behind), probe + 1)
        return found

    def add(self, words: Words, numbers: Integers) -> None:
        """Hold words of at most `LONGEST` bytes, all different, if their slots are not taken.

        Their numbers are 0 or more and grow, within a call and from call to call; no word may be
        added twice.
        """
        if not len(numbers):
            return
        columns = numbers + 1
        self._end = int(columns[-1]) + 1
        if self._end > len(self._hashes):
            self._keys = np.stack([grown(row, self._end) for row in self._keys])
            self._hashes = grown(self._hashes, self._end)
        keys, further = _keys(words)
        self._keys[0, columns] = keys
        for row, (index, more) in enumerate(further, 1):
            self._keys[row, columns[index]] = more
        self._hashes[columns] = _hashes(keys, further)
        if 2 * self._end > len(self._slots):
            self._slots = np.zeros(1 << (4 * self._end - 1).bit_length(), np.int64)
            columns = np.flatnonzero(self._keys[0])
        self._enter(columns)

    def _enter(self, columns: Integers) -> None:
        """Give every column the first free slot from its place on."""
        for probe in range(_PROBES):
            at = self._places(self._hashes[columns], probe)
            free = self._slots[at] == 0
            # Of columns that meet in a slot, the one that is written last has it.
            self._slots[at[free]] = columns[free]
            columns = columns[self._slots[at] != columns]

    def _places(self, hashes: Keys, probe: int) -> Integers:
        """The slots of hashes after so many steps."""
        bits = len(self._slots).bit_length() - 1
        at = (hashes >> np.uint64(64 - bits)).view(np.int64)
        return (at + probe) & (len(self._slots) - 1) if probe else at


def _keys(words: Words) -> tuple[Keys, list[tuple[Integers, Keys]]]:
    """The first keys, uint64 [words], and for every further one the words that have it, and it.

    A word longer than `LONGEST` has a first key that no word of at most `LONGEST` bytes has.
    """
    text, starts, lengths = words
    at_once = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    keys = at_once[starts]
    keys &= _MASKS.take(np.minimum(lengths, 7))
    keys |= _LENGTHS.take(lengths, mode="clip")
    further = []
    index = np.flatnonzero(lengths > 7)
    for column in range(1, _KEYS):
        if not len(index):
            break
        before = 8 * column - 1
        rest = lengths[index] - before
        further.append((index, at_once[starts[index] + before] & _MASKS.take(np.minimum(rest, 8))))
        index = index[rest > 8]
    return keys, further


def _hashes(keys: Keys, further: list[tuple[Integers, Keys]]) -> Keys:
    """Numbers whose high bits choose a word's slot (Fibonacci hashing of the keys in turn)."""
    hashes = keys * _FACTOR
    for index, more in further:
        hashes[index] = (hashes[index] ^ (hashes[index] >> np.uint64(32)) ^ more) * _FACTOR
    return hashes


def grown(array: npt.NDArray, size: int) -> npt.NDArray:
    """The array if it has `size` elements, or else a longer copy with zeros behind it."""
    if size <= len(array):
        return array
    found = np.zeros(max(size, 2 * len(array)), array.dtype)
    found[: len(array)] = array
    return found
