"""Vocabulary learning for tokenizers that only a `tokenizer.json` describes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tpu_tlm.data.tokenizers.hf import PIPELINE, SETTINGS, HfTokenizer
from tpu_tlm.data.tokenizers.hf_files import settings_json
from tpu_tlm.data.tokenizers.learn import Learned, measured, wordpiece_tokens
from tpu_tlm.data.tokenizers.learn_options import LearnOptions
from tpu_tlm.data.tokenizers.trainers import first_made, train_bpe, train_unigram
from tpu_tlm.data.tokenizers.wordpiece import LONGEST_WORD
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

_SPACE = "\u2581"
_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}


def learn_hf(options: LearnOptions, words: Counter[str], letters: Counter[str]) -> Learned:
    """Learn a byte-level BPE, unigram or WordPiece vocabulary. Raises `UsageError`."""
    made = {"byte-bpe": _byte_bpe, "unigram": _unigram, "wordpiece": _wordpiece}[options.kind]
    model, notes = made(options, words, letters)
    return measured(_tokenizer(options, model), words, notes)


def _tokenizer(options: LearnOptions, model: Any) -> HfTokenizer:
    """The tokenizer around a model, as files that `transformers` reads."""
    from tokenizers import AddedToken, decoders, processors
    from tokenizers import Tokenizer as Pipeline

    pipeline: Pipeline = Pipeline(model)
    if (normalizer := options.normalizer()) is not None:
        pipeline.normalizer = normalizer
    pipeline.pre_tokenizer = options.pre_tokenizer()
    special = options.special_tokens()
    reserved = set(options.reserved())
    pipeline.add_special_tokens(
        [
            # As RoBERTa's: a mask takes the space before it, as the word that it replaces does.
            AddedToken(t, special=True, normalized=False, lstrip=t == "<mask>")
            for t in special
            if t not in reserved
        ]
    )
    wordpiece = options.kind == "wordpiece"
    roles = _BERT_ROLES if wordpiece else _ROBERTA_ROLES
    begin, end = (special.index(roles[name]) for name in ("cls_token", "sep_token"))
    pipeline.post_processor = processors.TemplateProcessing(
        single=f"{roles['cls_token']} $A {roles['sep_token']}",
        pair=f"{roles['cls_token']} $A {roles['sep_token']} $B:1 {roles['sep_token']}:1",
        special_tokens=[(special[begin], begin), (special[end], end)],
    )
    pipeline.decoder = {
        "wordpiece": decoders.WordPiece,
        "byte-bpe": decoders.ByteLevel,
        "unigram": decoders.Metaspace,
    }[options.kind]()
    return HfTokenizer(
        {
            PIPELINE: str(pipeline.to_str(pretty=False)).encode(),
            SETTINGS: settings_json(
                "PreTrainedTokenizerFast", roles, clean_up_tokenization_spaces=False
            ),
        }
    )


def _byte_bpe(
    options: LearnOptions, words: Counter[str], letters: Counter[str]
) -> tuple[Any, list[str]]:
    from tokenizers import models, pre_tokenizers

    special = options.special_tokens()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first = [*special, *alphabet]
    if options.vocab_size <= len(first):
        raise UsageError(
            f"--vocab_size: {options.vocab_size} leaves no room for pieces beside the 256 bytes "
            f"and {len(special)} special tokens: give more than {len(first)}"
        )
    found = train_bpe(_as_words(options, words), first, options.vocab_size, options.min_frequency)
    merges = first_made(found, lambda left, right: left + right, set(first))
    tokens = [*first, *(left + right for left, right in merges)]
    options.check_pieces(tokens)
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    return model, _few(len(tokens), options)


def _few(count: int, options: LearnOptions) -> list[str]:
    if count >= options.vocab_size:
        return []
    return [f"the text has {count:,} pieces, not {options.vocab_size:,}"]


def _unigram(
    options: LearnOptions, words: Counter[str], letters: Counter[str]
) -> tuple[Any, list[str]]:
    from tokenizers import models

    special = options.special_tokens()
    if options.vocab_size < 2 * len(special):
        raise UsageError(
            f"--vocab_size: {options.vocab_size} leaves no room for pieces: "
            f"give {2 * len(special)} or more"
        )
    vocab = train_unigram(_as_words(options, words), special, options.vocab_size, "<unk>")
    known = {piece for piece, _ in vocab}
    # Characters of words that were dropped for room, at the score of the rarest piece.
    least = min(score for _, score in vocab)
    rare = sorted((-count, letter) for letter, count in letters.items() if letter not in known)
    vocab += [(letter, least) for _, letter in rare[: max(0, options.vocab_size - len(vocab))]]
    model = models.Unigram(vocab, special.index("<unk>"), False)
    return model, _few(len(vocab), options)


def _wordpiece(
    options: LearnOptions, words: Counter[str], letters: Counter[str]
) -> tuple[Any, list[str]]:
    from tokenizers import models

    tokens, notes = wordpiece_tokens(options, words, letters)
    options.check_pieces(tokens)
    ids = {token: index for index, token in enumerate(tokens)}
    model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    return model, notes


def _as_words(options: LearnOptions, words: Counter[str]) -> Counter[str]:
    """Counted words in the form in which the model sees them."""
    from tokenizers import pre_tokenizers

    if options.kind == "unigram":
        return Counter({_SPACE + word: count for word, count in words.items()})
    mapped: Counter[str] = Counter()
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for chunk, count in words.items():
        for word, _ in splitter.pre_tokenize_str(chunk):
            mapped[word] += count
    return mapped


def normalized(options: LearnOptions, words: Counter[str]) -> Counter[str]:
    """Counted words as the normalizer and, for WordPiece, the pre-tokenizer leave them."""
    normalizer, splitter = options.normalizer(), options.pre_tokenizer()
    if normalizer is None:
        return words
    found: Counter[str] = Counter()
    ascii_is_done = options.kind == "wordpiece"  # counting lower-cased and divided it
    for word, count in words.items():
        if ascii_is_done and word.isascii():
            found[word.lower() if options.lower else word] += count
            continue
        text = normalizer.normalize_str(word)
        if options.kind == "wordpiece":
            for part, _ in splitter.pre_tokenize_str(text):
                found[part] += count
        elif text:
            found[text] += count
    return found
