"""Our tokenizers as TensorFlow graphs: a served model splits raw strings as in training."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.bpe import BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import END, irregular_tokens, known_pieces
from tpu_tlm.data.tokenizers.wordpiece import (
    LONGEST_WORD,
    SPECIALS,
    WordPieceTokenizer,
    bert_pipeline,
)
from tpu_tlm.errors import UsageError

# The white space of Python's str.split() as an RE2 pattern.
_WHITE = (
    r"[\t-\r\x1c- \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)
_CODES = 0x110000
_SAME, _ALONE, _FIRST = 0, 1, 2
# The library's time grows faster than the length of a text.
_CHUNK = 4096
# Below this code every character is tested.
_SURE = 0x3400
_NEVER = np.iinfo(np.int32).max

# Strings [P] -> ragged int32 [P, (ids)].
Split = Callable[[tf.Tensor], tf.RaggedTensor]


class GraphTokenizer(tf.Module):
    """Strings `[B]` -> ragged int32 `[B, (ids)]`, the ids that `Tokenizer.encode` gives.

    Raises `UsageError` for a kind of tokenizer, or for codes, that a graph cannot reproduce.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(name="tokenizer")
        self.split: Split
        if isinstance(tokenizer, WordPieceTokenizer):
            special = {token: tokenizer.required_id(token) for token in SPECIALS}
            self.split = WordPieceSplit(tokenizer)
        elif isinstance(tokenizer, BpeTokenizer):
            special = dict(tokenizer._whole)
            self.split = BpeSplit(tokenizer)
        else:
            raise UsageError(f"a {tokenizer.kind} tokenizer cannot be put inside a SavedModel")
        longest_first = sorted(special, key=len, reverse=True)
        self.pattern = "|".join(re.escape(token) for token in longest_first)
        self.special = _table(list(special), np.array([special[t] for t in special], np.int32), -1)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        # A special token becomes a piece of its own between two marks that no text has.
        marked = tf.strings.regex_replace(
            texts, f"({self.pattern})", "\xff\\1\xff".encode("latin-1")
        )
        pieces = tf.strings.split(marked, sep=b"\xff")
        flat = pieces.flat_values
        ids = self.special.lookup(flat)
        plain = self.split(tf.where(ids < 0, flat, ""))
        named = tf.RaggedTensor.from_row_lengths(
            tf.boolean_mask(ids, ids >= 0), tf.cast(ids >= 0, tf.int64)
        )
        return pieces.with_flat_values(tf.concat([named, plain], axis=1)).merge_dims(1, 2)


def _table(
    keys: list[str] | list[bytes], values: np.ndarray, default: int
) -> tf.lookup.StaticHashTable:
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values)), default
    )


def character_table(cased: bool) -> tuple[np.ndarray, list[str]]:
    """The result of BERT's normalizer and word splitter for every character.

    uint16 [0x110000]: 0 the character itself, 1 itself as a word of its own, from 2 an index
    (less 2) into the list of replacements. BERT treats one character at a time, so a table holds
    all of it; its entries come from the library.
    """
    pipeline = bert_pipeline({"[UNK]": 0}, cased)
    chars = [
        chr(code) for code in range(_CODES) if not 0xD800 <= code < 0xE000 and chr(code) != "|"
    ]
    normal: list[str] = []
    for begin in range(0, len(chars), _CHUNK):
        normal += pipeline.normalizer.normalize_str("|".join(chars[begin : begin + _CHUNK])).split(
            "|"
        )
    if len(normal) != len(chars):
        raise UsageError(
            "this version of `tokenizers` normalizes '|' differently: the tokenizer cannot be put "
            "inside a SavedModel"
        )
    normal.append("|")
    chars.append("|")
    # Letters, marks and unassigned characters, which are nearly all, never end a word.
    alphabet = [
        char
        for char in chars
        if char != " " and (ord(char) < _SURE or unicodedata.category(char)[0] in "PSZN")
    ]
    apart = {}
    for begin in range(0, len(alphabet), _CHUNK):
        some = alphabet[begin : begin + _CHUNK]
        words = pipeline.pre_tokenizer.pre_tokenize_str(" ".join(f"a{char}a" for char in some))
        # In "a?a" a punctuation mark makes three words, white space two, anything else one. Every
        # group is three characters and a space long.
        pieces = np.bincount([at // 4 for _, (at, _) in words], minlength=len(some))
        apart.update(
            {char: f" {char} " for char, count in zip(some, pieces, strict=True) if count == 3}
        )
        apart.update({char: " " for char, count in zip(some, pieces, strict=True) if count == 2})
    table = np.zeros(_CODES, np.uint16)
    replacements: dict[str, int] = {}
    for char, became in zip(chars, normal, strict=True):
        became = "".join(apart.get(c, c) for c in became)
        if became == char:
            continue
        alone = became.strip() == char and became.startswith(" ")
        table[ord(char)] = (
            _ALONE if alone else replacements.setdefault(became, _FIRST + len(replacements))
        )
    return table, list(replacements)


class WordPieceSplit(tf.Module):
    """BERT's normalizer and splitter by a table, then tensorflow-text's longest-match WordPiece."""

    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(name="wordpiece")
        import tensorflow_text

        table, replacements = character_table(tokenizer.cased)
        self.table = tf.constant(table)
        self.replacements = tf.constant(["", "", *replacements])
        self.unk_id = tokenizer.unk_id
        self.pieces = tensorflow_text.FastWordpieceTokenizer(
            vocab=tokenizer.tokens,
            max_bytes_per_word=4 * LONGEST_WORD,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            no_pretokenization=True,
            support_detokenization=False,
        )

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        codes = tf.strings.unicode_decode(texts, "UTF-8")
        flat = codes.flat_values
        kinds = tf.cast(tf.gather(self.table, flat), tf.int32)
        same = tf.strings.unicode_encode(flat[:, None], "UTF-8")
        became = tf.where(
            kinds == _SAME,
            same,
            tf.where(
                kinds == _ALONE,
                tf.strings.join([" ", same, " "]),
                tf.gather(self.replacements, kinds),
            ),
        )
        words = tf.strings.split(tf.strings.reduce_join(codes.with_flat_values(became), axis=-1))
        short = tf.strings.length(words.flat_values, unit="UTF8_CHAR") <= LONGEST_WORD
        pieces = self.pieces.tokenize(tf.where(short, words.flat_values, "[UNK]"))
        return words.with_flat_values(_unk_where(pieces, short, self.unk_id)).merge_dims(1, 2)


def _unk_where(pieces: tf.RaggedTensor, keep: tf.Tensor, unk_id: int) -> tf.RaggedTensor:
    """The pieces of the words to keep, and the unknown token for the others."""
    unknown = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.reduce_sum(tf.cast(~keep, tf.int32))], unk_id), tf.cast(~keep, tf.int64)
    )
    lengths = tf.where(keep, pieces.row_lengths(), 0)
    kept = tf.RaggedTensor.from_row_lengths(
        tf.ragged.boolean_mask(pieces, keep).flat_values, lengths
    )
    return tf.concat([kept, unknown], axis=1)


class BpeSplit(tf.Module):
    """fastBPE by lookups: merges the pair of lowest rank in a word, leftmost first, to the end."""

    def __init__(self, tokenizer: BpeTokenizer) -> None:
        super().__init__(name="bpe")
        codes = tokenizer._codes
        if odd := irregular_tokens(codes):
            raise UsageError(
                f"the codes make {sorted(odd)[0]!r} out of order (edited by hand?): they cannot be "
                "put inside a SavedModel"
            )
        self.cased = tokenizer.cased
        pairs = sorted(codes.ranks, key=codes.ranks.__getitem__)
        self.ranks = _table(
            [" ".join(pair) for pair in pairs], np.arange(len(pairs), dtype=np.int32), _NEVER
        )
        vocab, unk_id = set(tokenizer.tokens), tokenizer.unk_id
        units = {unit for pair in pairs for unit in (*pair, "".join(pair))}
        letters = {c for token in tokenizer.tokens for c in token} | {
            c for unit in units for c in unit.removesuffix(END)
        }
        units |= letters | {letter + END for letter in letters}
        listed = sorted(units)
        rows = [
            [
                i if (i := tokenizer.id_of(piece)) is not None else unk_id
                for piece in known_pieces(unit, unit.endswith(END), codes, vocab)
            ]
            for unit in listed
        ]
        self.units = _table(listed, np.arange(1, len(listed) + 1, dtype=np.int32), 0)
        self.rows = tf.ragged.constant([[unk_id], *rows], dtype=tf.int32)

    def __call__(self, texts: tf.Tensor) -> tf.RaggedTensor:
        words = tf.strings.split(tf.strings.regex_replace(texts, _WHITE, " "), sep=" ")
        words = tf.ragged.boolean_mask(words, words != "")
        flat = (
            words.flat_values
            if self.cased
            else tf.strings.lower(words.flat_values, encoding="utf-8")
        )
        units = self._merged(flat)
        ids = tf.gather(self.rows, self.units.lookup(units.flat_values))
        return words.with_flat_values(units.with_flat_values(ids).merge_dims(1, 2)).merge_dims(1, 2)

    def _merged(self, words: tf.Tensor) -> tf.RaggedTensor:
        """The units of words `[W]` after all merges: ragged strings `[W, (units)]`."""
        # An empty last column: a word of one character has a pair too.
        units = tf.strings.unicode_split(tf.strings.join([words, ""]), "UTF-8").to_tensor("")
        units = tf.pad(units, [[0, 0], [0, 2]], constant_values="")
        width = tf.shape(units)[1]
        empty = tf.equal(units, "")
        last = tf.logical_and(~empty[:, :-1], empty[:, 1:])
        units = tf.where(tf.pad(last, [[0, 0], [0, 1]]), tf.strings.join([units, END]), units)
        columns = tf.range(width)[None]

        def step(units: tf.Tensor, ranks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            at = tf.argmin(ranks, axis=1, output_type=tf.int32)[:, None]
            found = (tf.reduce_min(ranks, axis=1) < _NEVER)[:, None]
            following = tf.pad(units[:, 1:], [[0, 0], [0, 1]], constant_values="")
            joined = tf.where(
                columns == at,
                tf.strings.join([units, following]),
                tf.where(columns < at, units, following),
            )
            units = tf.where(found, joined, units)
            return units, self._ranks(units)

        units, _ = tf.while_loop(
            lambda units, ranks: tf.reduce_any(ranks < _NEVER),
            step,
            (units, self._ranks(units)),
            shape_invariants=(tf.TensorShape([None, None]), tf.TensorShape([None, None])),
        )
        return tf.RaggedTensor.from_tensor(units, padding="")

    def _ranks(self, units: tf.Tensor) -> tf.Tensor:
        """Rank of each unit with the one after it; the last column has none."""
        return tf.pad(
            self.ranks.lookup(tf.strings.join([units[:, :-1], units[:, 1:]], separator=" ")),
            [[0, 0], [0, 1]],
            constant_values=_NEVER,
        )
