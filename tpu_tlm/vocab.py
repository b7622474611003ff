"""`python -m tpu_tlm.vocab`: learn a subword vocabulary from text."""

from __future__ import annotations

import os
import sys
import time

from tpu_tlm.config import CorpusConfig, VocabConfig
from tpu_tlm.config.cli import parse
from tpu_tlm.errors import run_command

DESCRIPTION = """Learn a subword vocabulary from text.

bpe: `codes` (left right count) and `vocab` (piece count) as fastBPE reads them. wordpiece: a BERT `vocab.txt`.
The output directory is a tokenizer directory too: it names the files' SHA-256. The same text and options give the same
bytes, whatever the number of workers."""


def main(argv: list[str] | None = None) -> int:
    """Count the words, learn, write the files, print a summary."""
    corpus, config = parse("tpu_tlm.vocab", DESCRIPTION, (CorpusConfig, VocabConfig), argv)
    from tpu_tlm.data.corpus.documents import expand_inputs, plan_parts
    from tpu_tlm.data.tokenizers.learn import learn
    from tpu_tlm.data.tokenizers.word_counts import CountTask, WordCounts, count_words, usable_cores

    inputs = expand_inputs(corpus)
    parts = plan_parts(inputs)
    total = sum(part.size for part in parts)
    started = shown = time.monotonic()

    def show(counts: WordCounts) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= 2.0:
            shown = now
            speed = counts.size / (now - started)
            left = (total - counts.size) / speed
            share = counts.size / max(total, 1)
            print(
                f"counting words: {share:.0%}, {speed / 1e6:.1f} MB/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    task = CountTask(config.subword_type, config.cased, corpus.json_field, corpus.strict)
    counts = count_words(parts, task, config.workers or usable_cores(), show)
    print(f"learning from {len(counts.words):,} distinct words", file=sys.stderr, flush=True)
    learned = learn(
        config.subword_type, counts.words, config.vocab_size, config.min_frequency, config.cased
    )
    learned.tokenizer.save(config.output)
    seconds = time.monotonic() - started

    words = counts.words.total()
    print(
        f"read       {len(inputs):,} files, {total / 1e6:,.1f} MB, {counts.documents:,} documents, {counts.lines:,} lines"
    )
    print(f"words      {words:,}, {len(counts.words):,} distinct")
    print(f"pieces     {learned.pieces:,}, {learned.pieces / words:.3f} a word")
    print(
        f"coverage   {learned.whole / words:.2%} of the words are one piece, {learned.unknown / words:.4%} are unknown"
    )
    print(f"vocabulary {len(learned.tokenizer.tokens):,} ids, special tokens included")
    if counts.pruned:
        learned.notes.append(
            f"{counts.pruned:,} rare words were dropped for room: counts may be low by {counts.threshold:,}"
        )
    for note in learned.notes:
        print(f"note       {note}")
    for line in counts.bad.summary():
        print(f"bad input  {line}")
    names = ("codes", "vocab") if config.subword_type == "bpe" else ("vocab.txt",)
    print(
        f"wrote      {', '.join(os.path.join(config.output, name) for name in names)} in {seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
