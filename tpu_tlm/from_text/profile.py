"""What kind of text a corpus is, judged by samples: script, case, documents, size."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tpu_tlm.config import CorpusConfig
from tpu_tlm.data.corpus.documents import read_part
from tpu_tlm.data.corpus.inputs import InputFile, expand_inputs, plan_parts
from tpu_tlm.errors import UsageError

# A corpus is sampled in at most so many places of so many bytes.
_PLACES, _PLACE_BYTES = 16, 128 << 10
# Endings of text files that a directory may hold instead of *.txt.
_ENDINGS = (".md", ".rst", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".text")
# First words of Unicode names of letters in scripts that put no space between words.
_UNSPACED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "JAVANESE")
_CHARACTERS = ("CJK", "HIRAGANA", "KATAKANA")
# Below this share, letters of another script are names and quotations.
_SHARE = 0.05
_FEW_DOCUMENTS = 40


@dataclass(frozen=True)
class TextProfile:
    """What samples say of a corpus.

    size: bytes of all files; characters, documents: of the whole corpus, estimated from samples;
    script: "alphabet", "characters" (Chinese, Japanese: a written character is a word or nearly
    one) or "unspaced" (Thai and others: letters, but no spaces between words); plain: all letters
    are those of English; document: where documents end, an option of `CorpusConfig`.
    """

    size: int
    characters: int
    documents: int
    script: str
    plain: bool
    document: str

    def line(self) -> str:
        """One line about the text."""
        script = {
            "alphabet": "words with spaces between them",
            "characters": "Chinese or Japanese characters",
            "unspaced": "a script without spaces between words",
        }[self.script]
        return (
            f"{self.size / 1e6:,.1f} MB, about {self.documents:,} documents "
            f"({'a line each' if self.document == 'line' else 'ended by blank lines or files'}), "
            f"{script}"
        )


def corpus_of(
    text: Iterable[str], text_column: str | None = None, json_field: str = "text"
) -> CorpusConfig:
    """The options that read this text: for a directory without *.txt, its most frequent kind.

    Raises `UsageError` for a table without `text_column`.
    """
    paths, pattern = list(text), CorpusConfig().input_pattern
    for path in paths:
        if os.path.isdir(path):
            names = [name for _, _, files in os.walk(path) for name in files]
            found = Counter(os.path.splitext(name)[1].lower() for name in names)
            if not found[".txt"]:
                ending = max(_ENDINGS, key=lambda one: found[one])
                pattern = f"*{ending}" if found[ending] else pattern
        if path.lower().endswith((".csv", ".tsv")) and text_column is None:
            raise UsageError(f"{path}: give --text_column, the column that holds the text")
    return CorpusConfig(
        input_files=paths,
        input_pattern=pattern,
        text_column=text_column,
        json_field=json_field,
    )


def profile_of(corpus: CorpusConfig) -> TextProfile:
    """Sample a corpus.

    Raises `UsageError` where nothing can be read, or it has no letters or one document only.
    """
    inputs = expand_inputs(corpus)
    size = sum(file.size for file in inputs)
    by_blank = _sampled(inputs, corpus, "blank-line")
    document = "blank-line"
    plain_text = any(file.kind == "text" for file in inputs)
    if plain_text and by_blank.documents < _FEW_DOCUMENTS < by_blank.lines:
        document = "line"
    letters = by_blank.letters
    total = letters.total()
    if not total:
        raise UsageError(f"--text {' '.join(corpus.input_files)}: has no letters")
    shares: Counter[str] = Counter()
    plain = 0
    for letter, count in letters.items():
        shares[_script(letter)] += count
        plain += count if letter.isascii() else 0
    script = "alphabet"
    if shares["unspaced"] > _SHARE * total:
        script = "unspaced"
    elif shares["characters"] > _SHARE * total:
        script = "characters"
    counted = by_blank.lines if document == "line" else by_blank.documents
    if counted < 2 and by_blank.read >= size:
        raise UsageError(
            f"--text {' '.join(corpus.input_files)}: is one document, and some are held out to "
            "measure: give more text, with an empty line between documents"
        )
    scale = size / max(by_blank.read, 1)
    return TextProfile(
        size,
        int(by_blank.characters * scale),
        max(1, int(counted * scale)),
        script,
        plain > 0.999 * total,
        document,
    )


@dataclass
class _Sample:
    read: int
    characters: int
    documents: int
    lines: int
    letters: Counter[str]


def _sampled(inputs: list[InputFile], corpus: CorpusConfig, document: str) -> _Sample:
    parts = plan_parts(inputs, _PLACE_BYTES)
    step = max(1, len(parts) // _PLACES)
    sample = _Sample(0, 0, 0, 0, Counter())
    for part in parts[::step][:_PLACES]:
        for found in read_part(
            part, corpus.json_field, document=document, text_column=corpus.text_column
        ):
            sample.documents += found.last
            sample.lines += len(found.lines)
            for raw in found.lines:
                line = raw.decode("utf-8", "replace")
                sample.read += len(raw) + 1
                sample.characters += len(line)
                sample.letters.update(filter(str.isalpha, line))
            if sample.read > _PLACES * _PLACE_BYTES:  # compressed files are read from the start
                return sample
    return sample


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    if name.startswith(_UNSPACED):
        return "unspaced"
    return "characters" if name.startswith(_CHARACTERS) else "alphabet"
