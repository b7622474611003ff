"""Vocabulary learning from word counts: fastBPE's files, and BERT's vocab.txt."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.bpe import BPE_WORDS, LARGEST_COUNT, BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import END, parse_codes, tokenizers_engine, written
from tpu_tlm.data.tokenizers.learn_options import LearnOptions
from tpu_tlm.data.tokenizers.trainers import first_made, train_bpe
from tpu_tlm.data.tokenizers.wordpiece import LONGEST_WORD, WordPieceTokenizer
from tpu_tlm.errors import UsageError

LONGEST_LEARNED = 1000
# fastBPE's own mark, and the character at which it stops reading a word.
_UNFIT = re.compile(re.escape(END) + "|\0")
_BATCH = 100_000


@dataclass(frozen=True)
class Learned:
    """A learned vocabulary, and how it splits the words that it was learned from.

    `pieces`: of all words; `whole`, `unknown`: words of one piece, unknown words.
    """

    tokenizer: Tokenizer
    pieces: int
    whole: int
    unknown: int
    notes: list[str] = field(default_factory=list)


def learn(options: LearnOptions, words: Counter[str], letters: Counter[str]) -> Learned:
    """Learn from word counts; `letters` are characters of words that are not among them.

    Raises `UsageError` when there is too little text.
    """
    if not words:
        raise UsageError("--input_files: there are no words to learn from")
    if options.kind == "bpe":
        return _learn_bpe(options, words, letters)
    from tpu_tlm.data.tokenizers.learn_hf import learn_hf

    if not options.is_bert:
        return learn_hf(options, words, letters)
    tokens, notes = wordpiece_tokens(options, words, letters)
    data = "".join(f"{token}\n" for token in tokens).encode()
    tokenizer = WordPieceTokenizer(data, cased=not options.lower)
    return measured(tokenizer, words, notes)


def measured(tokenizer: Tokenizer, words: Counter[str], notes: list[str]) -> Learned:
    """How a tokenizer splits counted words."""
    pieces = whole = unknown = 0
    listed = sorted(words)
    for begin in range(0, len(listed), _BATCH):
        batch = listed[begin : begin + _BATCH]
        encoded = tokenizer.encode_lines([word.encode("utf-8", "replace") for word in batch])
        for index, word in enumerate(batch):
            ids = encoded.ids[encoded.offsets[index] : encoded.offsets[index + 1]]
            pieces += len(ids) * words[word]
            if tokenizer.unk_id in ids:
                unknown += words[word]
            elif len(ids) == 1:
                whole += words[word]
    return Learned(tokenizer, pieces, whole, unknown, notes)


def _learn_bpe(options: LearnOptions, words: Counter[str], letters: Counter[str]) -> Learned:
    vocab_size, min_frequency, notes = options.vocab_size, options.min_frequency, []
    # Special words are never split, and so never learned from.
    whole_words = BPE_WORDS | set(options.special)
    words = Counter({word: count for word, count in words.items() if word not in whole_words})
    learnable = Counter(
        {
            word: count
            for word, count in words.items()
            if len(word) <= LONGEST_LEARNED and not _UNFIT.search(word)
        }
    )
    if len(learnable) < len(words):
        left_out = (
            f"{len(words) - len(learnable):,} words over {LONGEST_LEARNED} characters or with "
            f"{END} in them"
        )
        if not learnable:
            raise UsageError(f"--input_files: there are {left_out}, and none to learn from")
        notes.append(f"{left_out} were not learned from")
    units = sorted({unit for word in learnable for unit in (*word, word[-1] + END)})
    found = train_bpe(
        learnable, units, len(units) + vocab_size, min_frequency, end_of_word_suffix=END
    )
    merges = first_made(found, lambda left, right: left + right, set(units))
    if not merges:
        raise UsageError(
            "--input_files: no two letters stand together often enough: "
            "give more text or a smaller --min_frequency"
        )
    if len(merges) < vocab_size:
        notes.append(
            f"the text has {len(merges):,} merges, not {vocab_size:,}: "
            f"pairs seen less than {min_frequency} times are not merged"
        )
    codes = parse_codes([f"{left} {right} 0" for left, right in merges], "codes")
    known = {*units, *(left + right for left, right in merges)}
    engine = tokenizers_engine(
        codes, {written(unit, final) for unit in known for final in {False, unit.endswith(END)}}
    )
    counts: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    whole = 0
    listed = sorted(words)
    for begin in range(0, len(listed), _BATCH):
        batch = listed[begin : begin + _BATCH]
        for word, joined in zip(batch, engine(batch), strict=True):
            pieces = joined.split(" ")
            for piece in pieces:
                counts[piece] += words[word]
            uses[pieces[-1] + END] += words[word]
            for piece in pieces[:-1]:
                uses[piece[:-2]] += words[word]
            whole += words[word] if len(pieces) == 1 else 0
    total = counts.total()
    # A merge was done as often as its token is a piece or went into the merges after it.
    for left, right in reversed(merges):
        uses[left] += uses[left + right]
        uses[right] += uses[left + right]
    for letter, count in letters.items():
        for piece in (written(letter, False), letter):
            counts.setdefault(piece, count)
    # Pieces that no learned word ends with: other programs need an id for all that a merge makes.
    for left, right in merges:
        for unit in (left, right, left + right):
            counts.setdefault(written(unit, unit.endswith(END)), 0)
    if max(counts.values()) > LARGEST_COUNT:
        notes.append(
            f"counts over {LARGEST_COUNT:,} are written as that, the most that fastBPE can read"
        )
    lines = [f"{left} {right} {uses[left + right]}\n" for left, right in merges]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    vocab = [f"{piece} {min(count, LARGEST_COUNT)}\n" for piece, count in ranked]
    tokenizer = BpeTokenizer(
        "".join(lines).encode(),
        "".join(vocab).encode(),
        cased=not options.lower,
        extra_tokens=[*TokenizerConfig().extra_tokens, *options.special],
    )
    return Learned(tokenizer, total, whole, 0, notes)


def wordpiece_tokens(
    options: LearnOptions, words: Counter[str], letters: Counter[str]
) -> tuple[list[str], list[str]]:
    """The tokens of a WordPiece vocabulary, special ones first, and notes."""
    vocab_size, min_frequency, notes = options.vocab_size, options.min_frequency, []
    special = options.special_tokens()
    least = 2 * len(special)
    if vocab_size < least:
        raise UsageError(
            f"--vocab_size: {vocab_size} leaves no room for pieces: give {least} or more"
        )
    learnable = Counter({word: count for word, count in words.items() if len(word) <= LONGEST_WORD})
    if not learnable and not letters:
        raise UsageError(f"--input_files: all words have over {LONGEST_WORD} characters")
    units_of: Counter[str] = Counter()
    for word, count in learnable.items():
        for unit in _units(word):
            units_of[unit] += count
    for letter, count in letters.items():
        units_of[letter] += count
        units_of["##" + letter] += count
    # Half of the vocabulary is for longer pieces, however many letters the text has.
    ranked = sorted(
        (unit for unit in units_of if units_of[unit] >= min_frequency),
        key=lambda unit: (-units_of[unit], unit),
    )
    units = set(ranked[: (vocab_size - len(special)) // 2])
    if not units:
        raise UsageError(
            f"--input_files: no letter occurs {min_frequency} times: give more text or a smaller "
            "--min_frequency"
        )
    if len(units) < len(units_of):
        share = 1 - sum(units_of[unit] for unit in units) / units_of.total()
        notes.append(
            f"{len(units_of) - len(units):,} rare letters ({share:.3%} of the text) are left out; "
            "words with them become [UNK]"
        )
    learnable = Counter(
        {word: count for word, count in learnable.items() if units.issuperset(_units(word))}
    )
    first = [*special, *sorted(units)]
    merges = []
    if learnable:
        merges = train_bpe(
            learnable, first, vocab_size, min_frequency, continuing_subword_prefix="##"
        )
    known = set(first)
    made = first_made(merges, lambda left, right: left + right.removeprefix("##"), known)
    tokens = [*first, *(left + right.removeprefix("##") for left, right in made)][:vocab_size]
    if len(tokens) < vocab_size:
        notes.append(
            f"the text has {len(tokens):,} pieces, not {vocab_size:,}: "
            f"pairs seen less than {min_frequency} times are not joined"
        )
    return tokens, notes


def _units(word: str) -> list[str]:
    return [word[0], *("##" + letter for letter in word[1:])]
