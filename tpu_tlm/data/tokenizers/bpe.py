"""Byte-pair encoding from fastBPE's codes and vocab files, with MEAD's ids."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.data.tokenizers.bpe_backends import (
    Codes,
    Engine,
    fastbpe_codes,
    fastbpe_engine,
    fastbpe_file,
    parse_codes,
    tokenizers_engine,
)
from tpu_tlm.data.tokenizers.line_words import UNICODE_SPACES, WhiteSpace
from tpu_tlm.data.tokenizers.text_files import lines_of
from tpu_tlm.data.tokenizers.word_cache import Counts, Ids, LineTable
from tpu_tlm.errors import UsageError

SPECIALS = ("<PAD>", "<GO>", "<EOS>", "<UNK>")
_SPOKEN = {"<unk>": "<UNK>", "<eos>": "<EOS>"}
# Words that are never split, and so never learned from.
BPE_WORDS = frozenset({*SPECIALS, *_SPOKEN, *TokenizerConfig().extra_tokens})
CONTINUES = "@@"
# fastBPE reads counts with stoi and dies of a larger one.
LARGEST_COUNT = 2**31 - 1
LONG_WORD = 100


def parse_vocab(data: bytes, name: str) -> list[str]:
    """The tokens of a fastBPE vocab file (`token count`); `UsageError` naming file and line."""
    tokens: dict[str, int] = {}
    for number, line in enumerate(lines_of(data, name), 1):
        columns = line.split(" ")
        if (
            len(columns) != 2
            or not columns[0]
            or not columns[1].isdecimal()
            or int(columns[1]) > LARGEST_COUNT
        ):
            raise UsageError(
                f"{name}:{number}: is not 'token count' as fastBPE writes it: {line[:60]!r}"
            )
        if columns[0] in tokens:
            raise UsageError(
                f"{name}:{number}: token {columns[0]!r} stands in line {tokens[columns[0]]} too: "
                "learn the vocab again"
            )
        tokens[columns[0]] = number
    if not tokens:
        raise UsageError(f"{name}: is empty: learn a vocabulary with python -m tpu_tlm.vocab")
    return list(tokens)


class BpeTokenizer(Tokenizer):
    """fastBPE's splitting with MEAD's ids.

    The ids are <PAD> 0, <GO> 1, <EOS> 2, <UNK> 3, extra tokens that the file lacks, the file's
    lines. Words are runs without white space. A word that is a special or extra token (or <unk>,
    <eos>) stays whole, as in MEAD; every other word is lower-cased unless `cased`, then split.
    `engine` is "fastbpe", "tokenizers" or "auto" (the first that is installed); both give the same
    pieces. Codes of subword-nmt (version 0.2) are read, too.
    """

    kind = "bpe"
    pad_id = 0
    unk_id = 3

    def __init__(
        self,
        codes: bytes,
        vocab: bytes,
        *,
        cased: bool = True,
        extra_tokens: Sequence[str] = ("[CLS]", "[MASK]"),
        names: tuple[str, str] = ("codes", "vocab"),
        engine: str = "auto",
    ) -> None:
        listed = parse_vocab(vocab, names[1])
        added = [
            token
            for token in dict.fromkeys(extra_tokens)
            if token not in set(listed) and token not in SPECIALS
        ]
        super().__init__(
            [*SPECIALS, *added, *listed], cased, {"codes": codes, "vocab": vocab}, extra_tokens
        )
        self._codes = parse_codes(lines_of(codes, names[0]), names[0])
        extra_ids = {self._id_of[token] for token in extra_tokens}
        self.special_ids = tuple(sorted({0, 1, 2, 3} | extra_ids))
        self._whole = {token: self._id_of[token] for token in (*SPECIALS, *extra_tokens)}
        self._whole.update({word: self._id_of[token] for word, token in _SPOKEN.items()})
        self._special_pattern = re.compile(
            "("
            + "|".join(re.escape(token) for token in sorted(self._whole, key=len, reverse=True))
            + ")"
        )
        self._engine = _make_engine(engine, self._codes, codes, vocab, listed)
        self._table = LineTable(self._split, WhiteSpace(UNICODE_SPACES))

    @property
    def cls_id(self) -> int:
        return self.required_id("[CLS]")

    @property
    def sep_id(self) -> int:
        return 2

    @property
    def mask_id(self) -> int:
        return self.required_id("[MASK]")

    def pieces(self, words: list[str]) -> list[str]:
        """fastBPE's pieces of each word, joined by spaces; `@@` ends all but a word's last."""
        return self._engine(words)

    def _split(self, encoded: list[bytes]) -> tuple[Ids, Counts]:
        words = [word.decode() for word in encoded]
        whole = self._whole
        plain = [word for word in words if word not in whole]
        joined = self._engine(plain if self.cased else [word.lower() for word in plain])
        if len(plain) < len(words):
            spelled = iter(joined)
            joined = [
                self.tokens[whole[word]] if word in whole else next(spelled) for word in words
            ]
        get, unk = self._id_of.get, self.unk_id
        ids = np.array([get(piece, unk) for piece in " ".join(joined).split(" ")], np.uint32)
        return ids, np.array([pieces.count(" ") + 1 for pieces in joined], np.int64)

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        ids, begins, ends = self._table.lookup_lines(lines)
        word_start = np.zeros(len(ids), np.bool_)
        word_start[begins[:-1]] = True  # every word has at least one piece
        return Encoded(ids, word_start, begins[ends])

    def encode(self, text: str) -> list[int]:
        words: list[str] = []
        for piece in self._special_pattern.split(text.encode("utf-8", "replace").decode()):
            words += [piece] if piece in self._whole else piece.split()
        return self._table.lookup([word.encode() for word in words])[0].tolist()

    def decode(self, ids: Iterable[int]) -> str:
        text = " ".join(self.tokens[i] for i in ids) + " "
        return text.replace(CONTINUES + " ", "").strip()


def _make_engine(
    engine: str, codes: Codes, codes_file: bytes, vocab_file: bytes, listed: list[str]
) -> Engine:
    if engine == "tokenizers":
        return tokenizers_engine(codes, set(listed))
    try:
        quick = fastbpe_engine(fastbpe_codes(codes_file, codes), fastbpe_file(vocab_file))
    except ImportError:
        if engine == "fastbpe":
            raise UsageError(
                "fastBPE is not installed: pip install --no-build-isolation fastBPE==0.1.0"
            ) from None
        return tokenizers_engine(codes, set(listed))

    @functools.cache
    def linear() -> Engine:
        return tokenizers_engine(codes, set(listed))  # only made for a text that needs it

    def split(words: list[str]) -> list[str]:
        # fastBPE's time grows with the square of a word's length.
        long = [word for word in words if len(word) > LONG_WORD]
        if not long:
            return quick(words)
        spelled = dict(zip(long, linear()(long), strict=True))
        short = iter(quick([word for word in words if word not in spelled]))
        return [spelled[word] if word in spelled else next(short) for word in words]

    return split
