"""Text -> a learned vocabulary in a directory."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, VocabConfig
from tpu_tlm.data.corpus.inputs import InputReport, expand_inputs, plan_parts
from tpu_tlm.data.processes import usable_cores
from tpu_tlm.data.progress import ProgressBar
from tpu_tlm.data.tokenizers.base import DESCRIPTION, Tokenizer
from tpu_tlm.data.tokenizers.learn import learn
from tpu_tlm.data.tokenizers.learn_hf import normalized
from tpu_tlm.data.tokenizers.learn_options import LearnOptions
from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts, count_words
from tpu_tlm.errors import UsageError

# What a tokenizer directory may hold.
TOKENIZER_FILES = (
    DESCRIPTION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "codes",
    "vocab",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)


@dataclass(frozen=True)
class VocabularyResult:
    """A learned tokenizer, and the summary."""

    tokenizer: Tokenizer
    lines: list[str]


def learn_vocabulary(
    corpus: CorpusConfig,
    config: VocabConfig,
    more_files: Callable[[Tokenizer], dict[str, bytes]] = lambda tokenizer: {},
) -> VocabularyResult:
    """Count the words of a corpus, learn from them, and write the tokenizer's directory.

    more_files: files by name to write beside those of the tokenizer. Raises `UsageError` for
    options or input that cannot be used, and for a directory that holds a tokenizer, unless
    overwriting.
    """
    for name, least in (("vocab_size", 1), ("min_frequency", 1), ("workers", 0), ("reserve", 0)):
        if getattr(config, name) < least:
            raise UsageError(f"--{name}: {getattr(config, name)} is less than {least}")
    options = LearnOptions.of(config)
    if filesystem.exists(config.output) and not filesystem.is_directory(config.output):
        raise UsageError(f"--output {config.output}: is a file, a directory is needed")
    present = [n for n in filesystem.list_names(config.output) if n in TOKENIZER_FILES]
    if present and not config.overwrite:
        raise UsageError(
            f"--output {config.output}: holds a tokenizer already ({', '.join(present)}): "
            "take another directory or give --overwrite"
        )
    report = InputReport()
    inputs = expand_inputs(corpus, report)
    parts = plan_parts(inputs)
    total = sum(part.size for part in parts)
    started = time.monotonic()
    progress = ProgressBar()
    progress.start("counting words", total)
    task = CountTask(
        config.subword_type, not options.lower, corpus.json_field, corpus.strict, corpus.text_column
    )
    try:
        counts = count_words(
            parts,
            task,
            config.workers or usable_cores(),
            lambda counts: progress.update(counts.size),
        )
    finally:
        progress.clear()
    words = normalized(options, counts.words)
    letters = normalized(options, counts.letters)
    counts.words = Counter()  # frees its memory where normalizing made other words
    progress.message(f"learning from {len(words):,} distinct words")
    learned = learn(options, words, letters)
    _write(config.output, learned.tokenizer, more_files(learned.tokenizer), present)
    report.bad.merge(counts.bad)
    amount = words.total()
    lines = [
        f"read       {len(inputs):,} files, {total / 1e6:,.1f} MB, "
        f"{counts.documents:,} documents, {counts.lines:,} lines",
        f"words      {amount:,}, {len(words):,} distinct",
        f"pieces     {learned.pieces:,}, {learned.pieces / amount:.3f} a word",
        f"coverage   {learned.whole / amount:.2%} of the words are one piece, "
        f"{learned.unknown / amount:.4%} are unknown",
        f"vocabulary {len(learned.tokenizer.tokens):,} ids, special tokens included",
    ]
    notes = (*_dropped(counts), *learned.notes, *learned.tokenizer.notes, *report.notes)
    lines += [f"note       {note}" for note in notes]
    lines += [f"bad input  {line}" for line in report.bad.summary()]
    names = ", ".join(filesystem.list_names(config.output))
    lines.append(f"wrote      {config.output}: {names} in {time.monotonic() - started:.1f} s")
    return VocabularyResult(learned.tokenizer, lines)


def _dropped(counts: WordCounts) -> list[str]:
    if not counts.dropped:
        return []
    share = counts.dropped / max(counts.weight, 1)
    return [f"{share:.2%} of the text, in rare words, was not learned from for lack of room"]


def _write(
    directory: str, tokenizer: Tokenizer, more: dict[str, bytes], present: list[str]
) -> None:
    """Write a tokenizer's directory; a failure leaves none of its files behind."""
    base = directory.rstrip("/")
    own = {*tokenizer.files(), *more, DESCRIPTION}
    try:
        filesystem.make_directory(directory)
        for name in present:
            filesystem.remove(f"{base}/{name}")
        for name, data in more.items():
            filesystem.write_bytes(f"{base}/{name}", data)
        tokenizer.save(directory)
    except BaseException:
        for name in own:
            with contextlib.suppress(Exception):
                filesystem.remove(f"{base}/{name}")
        raise
