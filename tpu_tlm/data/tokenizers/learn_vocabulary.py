"""Text -> a learned vocabulary in a directory."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, VocabConfig
from tpu_tlm.data.corpus.inputs import (
    PART_BYTES,
    InputFile,
    InputReport,
    about_columns,
    about_growth,
    expand_inputs,
    plan_parts,
)
from tpu_tlm.data.processes import usable_cores
from tpu_tlm.data.progress import ProgressBar
from tpu_tlm.data.share import Share
from tpu_tlm.data.tokenizers.base import DESCRIPTION, Tokenizer
from tpu_tlm.data.tokenizers.count_files import CountFiles
from tpu_tlm.data.tokenizers.learn import learn
from tpu_tlm.data.tokenizers.learn_hf import normalized
from tpu_tlm.data.tokenizers.learn_options import LearnOptions
from tpu_tlm.data.tokenizers.shared_counting import (
    WORK,
    SharedCount,
    began_writing,
    made_from,
    work_path,
)
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
    """A learned tokenizer (None: another process learns it), and the summary."""

    tokenizer: Tokenizer | None
    lines: list[str]


def learn_vocabulary(
    corpus: CorpusConfig,
    config: VocabConfig,
    more_files: Callable[[Tokenizer], dict[str, bytes]] = lambda tokenizer: {},
    notice: Callable[[str], None] = lambda text: None,
) -> VocabularyResult:
    """Count the words of a corpus, learn from them, and write the tokenizer's directory.

    Of several processes (`config.of`) the first learns; the others count their parts of the corpus.
    more_files: files by name to write beside those of the tokenizer. notice: called with a line
    about leftovers and waiting. Raises `UsageError` for options or input that cannot be used, and
    for a directory that holds a tokenizer, unless overwriting.
    """
    for name, least in (("vocab_size", 1), ("min_frequency", 1), ("workers", 0), ("reserve", 0)):
        if getattr(config, name) < least:
            raise UsageError(f"--{name}: {getattr(config, name)} is less than {least}")
    options = LearnOptions.of(config)
    if filesystem.exists(config.output) and not filesystem.is_directory(config.output):
        raise UsageError(f"--output {config.output}: is a file, a directory is needed")
    share = Share(config.index, config.of)
    # The directory of the counts; None: they stay in memory.
    work = None
    if share.of > 1 or config.runner == "beam" or config.work_dir is not None:
        work = work_path(config.output, config.work_dir)
    present = [n for n in filesystem.list_names(config.output) if n in TOKENIZER_FILES]
    if present and not config.overwrite:
        if not share.leads:
            done = f"process {share.index} of {share.of}: {config.output} holds a tokenizer"
            return VocabularyResult(None, [f"{done}: nothing to count"])
        if work is None or not began_writing(work, present, config.output):
            raise UsageError(
                f"--output {config.output}: holds a tokenizer already ({', '.join(present)}): "
                "take another directory or give --overwrite"
            )
    report = InputReport()
    inputs = expand_inputs(corpus, report)
    report.notes += about_columns(inputs, corpus)
    parts = plan_parts(inputs, PART_BYTES)
    learning = _Learning(config, options, more_files, present, inputs, report)
    task = CountTask(
        config.subword_type, not options.lower, corpus.json_field, corpus.strict, corpus.text_column
    )
    progress, workers = ProgressBar(), config.workers or usable_cores()
    if work is None:
        progress.start("counting words", sum(part.size for part in parts))
        try:
            counts = count_words(parts, task, workers, lambda so_far: progress.update(so_far.size))
        finally:
            progress.clear()
        return learning.finish(counts, progress)
    own = sum(share.has(part.index) for part in parts)
    counted = (
        f"process {share.index} of {share.of}: its {own:,} parts of {len(parts):,} are counted"
    )
    if not share.leads and not own:
        # Nobody waits for it, so the work directory may have gone before it comes.
        return VocabularyResult(None, [counted])
    files = CountFiles(work, made_from(inputs, len(parts), task))
    shared = SharedCount(files, task, share, notice)
    with shared.locked():
        if share.leads:
            shared.remove_foreign()
        if config.runner == "beam":
            before = shared.count_by_beam(parts, config.beam_options)
        else:
            before = shared.count(parts, workers, progress)
        if before:
            notice(f"{before:,} parts were counted before")
        if not share.leads:
            return VocabularyResult(None, [f"{counted}; process 0 learns the vocabulary"])
        counts = shared.added_up(parts, progress)
        result = learning.finish(counts, progress, shared.begin_writing)
        shared.remove()
    return result


@dataclass
class _Learning:
    """What is done once, with the counts of the whole corpus.

    present: the tokenizer's files in the output that are to be replaced.
    """

    config: VocabConfig
    options: LearnOptions
    more_files: Callable[[Tokenizer], dict[str, bytes]]
    present: list[str]
    inputs: list[InputFile]
    report: InputReport
    started: float = field(default_factory=time.monotonic)

    def finish(
        self,
        counts: WordCounts,
        progress: ProgressBar,
        writing: Callable[[dict[str, bytes]], None] = lambda files: None,
    ) -> VocabularyResult:
        """Learn, and write the output. writing: called with its files before that."""
        output, report = self.config.output, self.report
        words = normalized(self.options, counts.words)
        letters = normalized(self.options, counts.letters)
        counts.words = Counter()  # frees its memory where normalizing made other words
        progress.message(f"learning from {len(words):,} distinct words")
        learned = learn(self.options, words, letters)
        tokenizer = learned.tokenizer
        more = self.more_files(tokenizer)
        writing({**more, **tokenizer.files(), DESCRIPTION: tokenizer.description_file()})
        _write(output, tokenizer, more, self.present)
        report.bad.merge(counts.bad)
        report.notes += about_growth(self.inputs)
        amount = words.total()
        lines = [
            f"read       {len(self.inputs):,} files, {counts.size / 1e6:,.1f} MB, "
            f"{counts.documents:,} documents, {counts.lines:,} lines",
            f"words      {amount:,}, {len(words):,} distinct",
            f"pieces     {learned.pieces:,}, {learned.pieces / amount:.3f} a word",
            f"coverage   {learned.whole / amount:.2%} of the words are one piece, "
            f"{learned.unknown / amount:.4%} are unknown",
            f"vocabulary {len(tokenizer.tokens):,} ids, special tokens included",
        ]
        notes = (*_dropped(counts), *learned.notes, *tokenizer.notes, *report.notes)
        lines += [f"note       {note}" for note in notes]
        lines += [f"bad input  {line}" for line in report.bad.summary()]
        names = ", ".join(name for name in filesystem.list_names(output) if name != WORK)
        seconds = time.monotonic() - self.started
        lines.append(f"wrote      {output}: {names} in {seconds:.1f} s")
        return VocabularyResult(tokenizer, lines)


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
