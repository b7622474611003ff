"""fastBPE's splitting of words into pieces, by fastBPE itself or by an equal of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tpu_tlm.errors import UsageError

END = "</w>"
Engine = Callable[[list[str]], list[list[str]]]


@dataclass(frozen=True)
class Codes:
    """The merges of a codes file: `ranks` pair -> line from 0, `parts` merged token -> its pair."""

    ranks: dict[tuple[str, str], int]
    parts: dict[str, tuple[str, str]]


def parse_codes(lines: list[str], name: str) -> Codes:
    """The merges in the lines of a codes file (`left right count`); `UsageError` naming file and line."""
    ranks: dict[tuple[str, str], int] = {}
    parts: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(lines, 1):
        columns = line.split(" ")
        if len(columns) != 3 or not all(columns) or not columns[2].isdecimal():
            hint = " (a file of subword-nmt?)" if line.startswith("#version") or len(columns) == 2 else ""
            raise UsageError(f"{name}:{number}: is not 'left right count' as fastBPE writes it{hint}: {line[:60]!r}")
        left, right = columns[:2]
        if (left, right) in ranks or right == END:
            raise UsageError(f"{name}:{number}: merge {left!r} {right!r} is doubled or has no letters: learn the codes again")
        ranks[left, right] = number - 1
        parts[left + right] = (left, right)
    if not ranks:
        raise UsageError(f"{name}: is empty: learn a vocabulary with python -m tpu_tlm.vocab")
    return Codes(ranks, parts)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    # fastBPE reports its loading straight to file descriptor 2.
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def fastbpe_engine(codes_file: bytes, vocab_file: bytes) -> Engine:
    """fastBPE over the contents of its two files; `ImportError` when it is not installed."""
    from fastBPE import fastBPE

    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("codes", "vocab")]
        for path, data in zip(paths, (codes_file, vocab_file), strict=True):
            with open(path, "wb") as stream:
                stream.write(data)
        with _quiet_stderr():
            applier = fastBPE(*paths)

    def split(words: list[str]) -> list[list[str]]:
        return [pieces.split(" ") for pieces in applier.apply(words)]

    return split


def merge_word(word: str, codes: Codes, vocab: set[str]) -> list[str]:
    """fastBPE's pieces of one word, step by step as fastBPE finds them."""
    # fastBPE looks for characters up to a NUL only; the rest stays one unit.
    head, nul, tail = word.partition("\0")
    units = list(head)
    if nul:
        units = [*units[:-1], "".join(units[-1:]) + nul + tail]
    units[-1] += END
    while len(units) > 1:
        ranked = [(codes.ranks[pair], pair) for pair in zip(units, units[1:], strict=False) if pair in codes.ranks]
        if not ranked:
            break
        left, right = min(ranked)[1]
        merged: list[str] = []
        index = 0
        while index < len(units):
            if index + 1 < len(units) and units[index] == left and units[index + 1] == right:
                merged.append(left + right)
                index += 2
            else:
                merged.append(units[index])
                index += 1
        units = merged
    last = len(units) - 1
    return [piece for index, unit in enumerate(units) for piece in known_pieces(unit, index == last, codes, vocab)]


def _written(unit: str, final: bool) -> str:
    return unit[: -len(END)] if final else unit + "@@"


def known_pieces(unit: str, final: bool, codes: Codes, vocab: set[str]) -> list[str]:
    """A unit as the vocab file writes it; one that the file lacks is taken apart again, down to characters."""
    written = _written(unit, final)
    if written in vocab or unit not in codes.parts:
        return [written]
    left, right = codes.parts[unit]
    return [*known_pieces(left, False, codes, vocab), *known_pieces(right, final, codes, vocab)]


def tokenizers_engine(codes: Codes, vocab: set[str]) -> Engine:
    """An equal of fastBPE on the `tokenizers` library; words it does not split the same way go through `merge_word`."""

    def split(words: list[str]) -> list[list[str]]:
        return [merge_word(word, codes, vocab) for word in words]

    return split
