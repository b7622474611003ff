"""Tagged sentences in columns: CoNLL (a word a line) and CoNLL-U."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tpu_tlm.errors import UsageError

# The columns of CoNLL-U by name, https://universaldependencies.org/format.html.
NAMES = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_ID = re.compile(r"[0-9]+([-.][0-9]+)?$")
_NO_WORD = re.compile(r"[0-9]+[-.][0-9]+$")
# Defaults of --text and --label, which name no column of such files.
_DEFAULTS = ("text", "label")


class Sentence(NamedTuple):
    """Words, their tags (empty where they are not read), and their lines from 1."""

    words: list[str]
    tags: list[str]
    lines: list[int]


class _Columns:
    """How the lines of a file are split, by its first line that holds a word."""

    def __init__(self, lines: Sequence[str], path: str) -> None:
        self.path = path
        first = next(_with_words(lines))
        # Only these two separate columns: U+00A0 may stand inside of a word.
        self.tabs = "\t" in first[1]
        self.first, self.width = first[0], len(self.split(first[1]))
        cells = self.split(first[1])
        self.conllu = self.width == len(NAMES) and self.tabs and bool(_ID.match(cells[0]))

    def split(self, line: str) -> list[str]:
        if self.tabs:
            return [cell.strip(" ") for cell in line.split("\t")]
        return re.split("[ \t]+", line.strip(" \t"))

    def is_comment(self, line: str) -> bool:
        """Whether a line that begins a sentence is a comment: any with # in CoNLL-U; elsewhere
        `# key = value`, or a line that is one column where words have more."""
        if not line.startswith("#"):
            return False
        if self.conllu or (line.startswith("# ") and "=" in line):
            return True
        return self.width > 1 and len(self.split(line)) == 1

    def number(self, name: str, flag: str) -> int:
        """The number of a column that an option names.

        Raises `UsageError` for a name that is none, and a number that the file lacks.
        """
        if name in _DEFAULTS:
            if self.conllu:
                return NAMES.index("FORM" if name == "text" else "UPOS")
            return 0 if name == "text" else -1
        if self.conllu and name.upper() in NAMES:
            return NAMES.index(name.upper())
        try:
            at = int(name)
        except ValueError:
            known = f", or one of {', '.join(NAMES)}" if self.conllu else ""
            raise UsageError(
                f"{flag} {name}: {self.path} has columns without names; give a number, from 0 "
                f"(-1 is the last){known}"
            ) from None
        if not -self.width <= at < self.width:
            raise UsageError(
                f"{self.path}:{self.first}: has {self.width} columns, so {flag} {name} is none of "
                "them; they are counted from 0 (-1 is the last)"
            )
        return at


def _with_words(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(number, line) of what may be a word: first the lines that do not begin with #."""
    for hashes in (False, True):
        for number, line in enumerate(lines, 1):
            there = line.strip(" \t") and not line.startswith("-DOCSTART-")
            if there and line.startswith("#") == hashes:
                yield number, line


def sentences(text: str, path: str, word: str, tag: str, *, labelled: bool) -> Iterator[Sentence]:
    """The sentences of a file's text, in order.

    word, tag: numbers of their columns; in CoNLL-U also names, and by default FORM and UPOS. Its
    ranges (`2-3`) and empty nodes (`1.1`) are no words. Raises `UsageError` naming file and line
    of a row that has another number of columns than the first, or an empty word or tag.
    """
    # Only line feeds end a line: a token may be U+0085 or U+2028.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if next(_with_words(lines), None) is None:
        return
    columns = _Columns(lines, path)
    if labelled and columns.width < 2:
        raise UsageError(
            f"{path}:{columns.first}: has {columns.width} columns; a line is a word and its tag, "
            "with an empty line after each sentence"
        )
    word_at = columns.number(word, "--text")
    tag_at = columns.number(tag, "--label") if labelled else word_at
    found = Sentence([], [], [])
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip(" \t"):
            if found.words:
                yield found
            found = Sentence([], [], [])
            continue
        if line.startswith("-DOCSTART-") or (not found.words and columns.is_comment(line)):
            continue
        cells = columns.split(line)
        if len(cells) != columns.width:
            raise UsageError(
                f"{path}:{number}: has {len(cells)} columns, line {columns.first} has "
                f"{columns.width}; every line is a word with the same columns, with an empty line "
                "after each sentence"
            )
        if columns.conllu and _NO_WORD.match(cells[0]):
            continue
        if not cells[word_at] or not cells[tag_at]:
            what = "word" if not cells[word_at] else "tag"
            raise UsageError(f"{path}:{number}: has an empty {what}")
        found.words.append(cells[word_at])
        found.lines.append(number)
        if labelled:
            found.tags.append(cells[tag_at])
