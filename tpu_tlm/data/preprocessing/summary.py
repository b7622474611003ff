"""What a preprocessing made, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from tpu_tlm.data.preprocessing.pipeline import Made
from tpu_tlm.data.preprocessing.split_writers import PreprocessJob
from tpu_tlm.data.tokenizers.base import Tokenizer

MANY_UNKNOWN = 0.05  # share of the words beyond which a warning is given


def summary(
    job: PreprocessJob, made: Made, files: int, size: int, notes: Sequence[str], seconds: float
) -> list[str]:
    """One line a fact: what was read, written, cut, unknown and bad."""
    lines = []
    if made.kept_parts or made.kept_shards:
        lines.append(
            f"continued  {made.kept_parts:,} parts and {made.kept_shards:,} shards "
            "were there from before"
        )
    text = sum(counts.text_bytes for counts in made.counts.values())
    lines.append(f"read       {files:,} files, {size / 1e6:,.1f} MB, {text / 1e6:,.1f} MB of text")
    for split, directory in job.splits.items():
        counts, shards = made.counts[split], made.shards[split]
        examples = sum(shard.samples for shard in shards)
        stored = sum(shard.bytes for shard in shards)
        lines.append(
            f"wrote      {directory}: {counts.documents:,} documents, {counts.lines:,} lines, "
            f"{counts.tokens:,} tokens, {examples:,} examples, {len(shards):,} shards, "
            f"{stored / 1e6:,.1f} MB"
        )
        if counts.cut_x or counts.cut_y:
            tsv = job.pairs is not None and job.pairs.rows.kind == "tsv"
            side = "end" if tsv else "beginning"
            lines.append(
                f"too long   {split}: {counts.cut_x:,} first texts lost their {side}, "
                f"{counts.cut_y:,} second texts their end"
            )
    unknown, unknown_words, words, tokens = _unknown(made)
    lines.append(
        f"unknown    {unknown:,} tokens ({unknown / max(tokens, 1):.2%}), "
        f"{unknown_words:,} words ({unknown_words / max(words, 1):.2%})"
    )
    lines += [f"bad input  {line}" for line in made.bad.summary()]
    lines += [f"note       {line}" for line in notes]
    lines.append(f"time       {seconds:,.1f} s, {size / 1e6 / seconds:.1f} MB/s")
    return lines


def _unknown(made: Made) -> tuple[int, int, int, int]:
    """Unknown tokens, words with one in them, all words, all tokens."""
    every = made.counts.values()
    return (
        sum(counts.unknown for counts in every),
        sum(counts.unknown_words for counts in every),
        sum(counts.words for counts in every),
        sum(counts.tokens for counts in every),
    )


def warnings(made: Made, tokenizer: Tokenizer) -> list[str]:
    """A warning when many words are unknown, with the likely causes."""
    unknown, unknown_words, words, tokens = _unknown(made)
    share = max(unknown_words / max(words, 1), unknown / max(tokens, 1))
    if share <= MANY_UNKNOWN:
        return []
    causes = likely_causes(tokenizer)
    return [
        f"{share:.1%} of the words are unknown to the vocabulary ({unknown_words:,} of {words:,}). "
        f"Likely causes: {'; '.join(causes)}"
    ]


def likely_causes(tokenizer: Tokenizer) -> list[str]:
    """Why words may be unknown; first what the vocabulary itself shows."""
    ordinary = [token for i, token in enumerate(tokenizer.tokens) if i not in tokenizer.special_ids]
    spaced = sum(token != token.strip() for token in ordinary)
    counted = sum(len(token.split()) == 2 and token.split()[1].isdigit() for token in ordinary)
    capitals = any(token != token.lower() for token in ordinary)
    causes = []
    if counted > len(ordinary) / 2:
        causes.append("the lines of the vocabulary end with counts: keep the first column")
    elif spaced > len(ordinary) / 2:
        causes.append("the lines of the vocabulary end with spaces: remove them")
    if tokenizer.cased and not capitals:
        causes.append("the vocabulary has no capital letters: give --cased false")
    return [
        *causes,
        "a vocabulary of another case or language than the text",
        "words over the tokenizer's length limit (100 characters in WordPiece)",
    ]
