"""fastBPE's splitting of words into pieces, by fastBPE itself or by an equal of it."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tpu_tlm.data.tokenizers.text_files import BOM, with_line_feeds
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem import naming

END = "</w>"
# Words without white space -> the pieces of each, joined by single spaces.
Engine = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Codes:
    """The merges of a codes file: `ranks` pair -> line from 0, `parts` merged token -> its pair."""

    ranks: dict[tuple[str, str], int]
    parts: dict[str, tuple[str, str]]


_SUBWORD_NMT = "#version:"


def parse_codes(lines: list[str], name: str) -> Codes:
    """The merges of a codes file: `left right count`, or subword-nmt's two columns after a header.

    Raises `UsageError` naming file and line.
    """
    ranks: dict[tuple[str, str], int] = {}
    parts: dict[str, tuple[str, str]] = {}
    begin, width = 0, 3
    if lines and lines[0].startswith(_SUBWORD_NMT):
        if lines[0].removeprefix(_SUBWORD_NMT).strip() != "0.2":
            raise UsageError(f"{name}:1: {lines[0]!r}: of subword-nmt's codes, 0.2 is read only")
        begin, width = 1, 2
    for number, line in enumerate(lines[begin:], begin + 1):
        columns = line.split(" ")
        fits = len(columns) == width and all(columns) and (width == 2 or columns[2].isdecimal())
        if not fits:
            expected = (
                "left right count' as fastBPE" if width == 3 else "left right' as subword-nmt"
            )
            raise UsageError(f"{name}:{number}: is not '{expected} writes it: {line[:60]!r}")
        left, right = columns[:2]
        if width == 2 and (left, right) in ranks:
            continue  # subword-nmt, too, takes the first
        if (left, right) in ranks or right == END:
            raise UsageError(
                f"{name}:{number}: merge {left!r} {right!r} is doubled or has no letters: "
                "learn the codes again"
            )
        ranks[left, right] = len(ranks)
        parts[left + right] = (left, right)
    if not ranks:
        raise UsageError(f"{name}: is empty: learn a vocabulary with python -m tpu_tlm.vocab")
    return Codes(ranks, parts)


def fastbpe_codes(data: bytes, codes: Codes) -> bytes:
    """A codes file as fastBPE reads it: three columns, no mark."""
    if data.removeprefix(BOM).startswith(_SUBWORD_NMT.encode()):
        return "".join(f"{left} {right} 1\n" for left, right in codes.ranks).encode()
    return fastbpe_file(data)


def fastbpe_file(data: bytes) -> bytes:
    """A file as fastBPE reads it: no byte-order mark, line feeds."""
    return with_line_feeds(data.removeprefix(BOM).decode()).encode()


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


def _temporary() -> str:
    """The directory of temporary files, for the messages of its errors."""
    return tempfile.tempdir or os.environ.get("TMPDIR") or "temporary directory (TMPDIR)"


def fastbpe_engine(codes_file: bytes, vocab_file: bytes) -> Engine:
    """fastBPE over the contents of its two files; `ImportError` when it is not installed."""
    from fastBPE import fastBPE

    with naming(_temporary()), tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("codes", "vocab")]
        for path, data in zip(paths, (codes_file, vocab_file), strict=True):
            with open(path, "wb") as stream:
                stream.write(data)
        with _quiet_stderr():
            applier = fastBPE(*paths)
    apply: Engine = applier.apply
    return apply


def written(unit: str, final: bool) -> str:
    """A unit as it stands in fastBPE's output."""
    return unit[: -len(END)] if final else unit + "@@"


def known_pieces(unit: str, final: bool, codes: Codes, vocab: set[str]) -> list[str]:
    """A unit as the vocab file writes it; one that the file lacks is split again, to characters."""
    found: list[str] = []
    waiting = [(unit, final)]
    while waiting:  # no recursion: a file can merge thousands of times in a row
        unit, final = waiting.pop()
        spelled = written(unit, final)
        if spelled in vocab or unit not in codes.parts:
            found.append(spelled)
        else:
            left, right = codes.parts[unit]
            waiting += [(right, final), (left, False)]
    return found


def merge_word(word: str, codes: Codes, vocab: set[str]) -> str:
    """fastBPE's pieces of one word, found step by step as fastBPE finds them."""
    # fastBPE looks for characters up to a NUL only; the rest stays one unit with the character
    # before it.
    head, nul, tail = word.partition("\0")
    units = list(head)
    if nul:
        units = [*units[:-1], "".join(units[-1:]) + nul + tail]
    units[-1] += END
    while len(units) > 1:
        ranked = [
            (codes.ranks[pair], pair)
            for pair in zip(units, units[1:], strict=False)
            if pair in codes.ranks
        ]
        if not ranked:
            break
        left, right = min(ranked)[1]
        merged: list[str] = []
        index = 0
        while index < len(units):
            if units[index] == left and units[index + 1 : index + 2] == [right]:
                merged.append(left + right)
                index += 2
            else:
                merged.append(units[index])
                index += 1
        units = merged
    last = len(units) - 1
    return " ".join(
        piece
        for index, unit in enumerate(units)
        for piece in known_pieces(unit, index == last, codes, vocab)
    )


def irregular_tokens(codes: Codes) -> set[str]:
    """Tokens whose merges a priority queue could do in another order than fastBPE.

    fastBPE does all merges of one pair at a time. The tokens are those that a merge uses before a
    later merge makes them (once more), and those that end like a word's last piece without being
    one. A learner does not make such codes; a text full of `</w>`, or an editor, can.
    """
    first_use: dict[str, int] = {}
    for pair, rank in codes.ranks.items():
        for token in pair:
            first_use.setdefault(token, rank)
    merged = {(left + right, right): rank for (left, right), rank in codes.ranks.items()}
    late = {token for (token, _), rank in merged.items() if first_use.get(token, rank) < rank}
    return late | {
        token
        for token, right in merged
        if END in token.removesuffix(END) or token.endswith(END) != right.endswith(END)
    }


def tokenizers_engine(codes: Codes, vocab: set[str]) -> Engine:
    """An equal of fastBPE on the `tokenizers` library, in linear time of a word's length.

    Characters that no merge has divide a word into runs that can be split by themselves.
    """
    from tokenizers import Tokenizer, models

    units = {unit: None for pair in codes.ranks for unit in (*pair, pair[0] + pair[1])}
    letters = sorted({char for unit in units for char in unit.removesuffix(END)})
    for letter in letters:
        units[letter] = units[letter + END] = None
    ids = {unit: index for index, unit in enumerate(units)}
    merges = list(codes.ranks)
    pipelines = {
        True: Tokenizer(models.BPE(ids, merges, end_of_word_suffix=END)),
        False: Tokenizer(models.BPE(ids, merges)),
    }
    # What stands in the output for a unit at the end of a word, and inside it.
    output = {
        True: [
            " ".join(known_pieces(unit, True, codes, vocab)) if unit.endswith(END) else ""
            for unit in units
        ],
        False: [" ".join(known_pieces(unit, False, codes, vocab)) for unit in units],
    }
    letter_class = "[" + "".join(re.escape(letter) for letter in letters) + "]"
    runs = re.compile(f"{letter_class}+|.", re.DOTALL)
    known = re.compile(letter_class)
    odd = {token.removesuffix(END) for token in irregular_tokens(codes)} | {"\0"}
    exceptions = re.compile("|".join(re.escape(text) for text in sorted(odd)))

    def spell(texts: set[tuple[str, bool]]) -> dict[tuple[str, bool], str]:
        """(run of known letters, whether it ends its word) -> its pieces."""
        spelled = {}
        for text, final in texts:
            # One by one: a batch starts threads beside the other worker processes, for no less
            # work.
            *rest, last = pipelines[final].encode(text, add_special_tokens=False).ids
            spelled[text, final] = " ".join(
                [*(output[False][unit] for unit in rest), output[final][last]]
            )
        return spelled

    def split(words: list[str]) -> list[str]:
        regular = {word: runs.findall(word) for word in words if not exceptions.search(word)}
        texts = {
            (run, index == len(found) - 1)
            for found in regular.values()
            for index, run in enumerate(found)
            if known.match(run)
        }
        spelled = spell(texts)
        joined = []
        for word in words:
            if word not in regular:
                joined.append(merge_word(word, codes, vocab))
                continue
            found = [(run, False) for run in regular[word]]
            found[-1] = (found[-1][0], True)
            joined.append(
                " ".join(
                    spelled[item] if item in spelled else item[0] + ("" if item[1] else "@@")
                    for item in found
                )
            )
        return joined

    return split
