"""WordPiece from a BERT vocab.txt: BERT's basic tokenizer, then greedy longest match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.data.tokenizers.line_words import WhiteSpace
from tpu_tlm.data.tokenizers.text_files import lines_of
from tpu_tlm.data.tokenizers.word_cache import Counts, Ids, LineTable, WordTable
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100
# ASCII control characters but tab, line feed, carriage return: BERT drops them, and `split` would
# take some for white space.
_CONTROLS = bytes({*range(32), 127} - {9, 10, 13})
_SPACES = " \t\n\r"
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_ASCII_WORDS = re.compile(rb"[A-Za-z0-9]+|[^A-Za-z0-9\n]")


def parse_vocab(data: bytes, name: str) -> list[str]:
    """The tokens of a vocab.txt, one a line; `UsageError` naming file and line."""
    lines = lines_of(data, name)
    tokens: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        token = line.rstrip("\r")
        if not token or token in tokens:
            what = f"token {token!r} a second time" if token else "an empty line"
            raise UsageError(f"{name}:{number}: {what}: it is no BERT vocab.txt")
        tokens[token] = number
    for special in SPECIALS:
        if special not in tokens:
            _check_columns(lines, special, name)
            raise UsageError(f"{name}: has no {special}: it is no BERT vocab.txt")
    if tokens["[PAD]"] != 1:
        raise UsageError(f"{name}:{tokens['[PAD]']}: [PAD] must stand in the first line")
    return list(tokens)


def shows_case(vocab: bytes) -> bool:
    """Whether the tokens of a vocab.txt have capital letters (BERT's own files say no case)."""
    return any(
        line.lower() != line
        for line in vocab.decode("utf-8", "replace").split("\n")
        if not line.startswith("[")
    )


def _check_columns(lines: Sequence[str], special: str, name: str) -> None:
    """Refuse a vocab.txt with something behind its tokens, which would match no text."""
    for number, line in enumerate(lines, 1):
        if line.split()[:1] == [special]:
            raise UsageError(
                f"{name}:{number}: {line!r}: white space or a count stands before or behind the"
                f" token {special}: a line holds a token and nothing else (awk '{{print $1}}')"
            )


def bert_white_space() -> WhiteSpace:
    """What divides lines before BERT's words are looked for.

    The ASCII control characters that BERT drops are taken out.
    """
    return WhiteSpace(_SPACES, _CONTROLS)


def ascii_words(chunk: bytes, cased: bool) -> list[bytes]:
    """BERT's words in ASCII without white space and control characters.

    They are runs of letters and digits, and single punctuation marks.
    """
    return _ASCII_WORDS.findall(chunk if cased else chunk.lower())


def bert_pipeline(id_of: dict[str, int], cased: bool) -> Pipeline:
    """What transformers' BertTokenizer is made of, without special tokens."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, normalizers, pre_tokenizers

    pipeline = Pipeline(
        models.WordPiece(dict(id_of), unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    )
    pipeline.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, lowercase=not cased
    )
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return pipeline


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer; an id is a line number of vocab.txt from 0.

    Equal to transformers' BertTokenizer, whose library does the splitting. Both differ from BERT's
    first code for a capital sigma at the end of a word, for private-use characters, and for marks
    and punctuation younger than the library's Unicode tables. In corpus lines `[MASK]` and the like
    are plain text, as in BERT's own pre-training tool; `encode` turns them into their ids. A
    punctuation mark or a Chinese character is a word of its own.
    """

    kind = "wordpiece"
    pad_id = 0

    def __init__(self, vocab: bytes, *, cased: bool = True, name: str = "vocab.txt") -> None:
        tokens = parse_vocab(vocab, name)
        super().__init__(tokens, cased, {"vocab.txt": vocab}, ())
        self.unk_id = self._id_of["[UNK]"]
        self.special_ids = tuple(sorted(self._id_of[token] for token in SPECIALS))
        self._special_pattern = re.compile(
            "(" + "|".join(re.escape(token) for token in SPECIALS) + ")"
        )
        self._starts: npt.NDArray[np.bool_] = np.array(
            [not token.startswith("##") for token in tokens]
        )
        self._whole = {
            token.encode(): i
            for i, token in enumerate(tokens)
            if _ASCII_WORD.fullmatch(token) and len(token) <= LONGEST_WORD
        }
        self._pipeline = bert_pipeline(self._id_of, cased)
        # Chunks between white space over BERT's words: "word" and "(word," look up the same word.
        self._words = WordTable(self._split_words)
        self._chunks = LineTable(self._split_chunks, bert_white_space())

    @property
    def cls_id(self) -> int:
        return self.required_id("[CLS]")

    @property
    def sep_id(self) -> int:
        return self.required_id("[SEP]")

    @property
    def mask_id(self) -> int:
        return self.required_id("[MASK]")

    def _split_chunks(self, chunks: list[bytes]) -> tuple[Ids, Counts]:
        """Ids of chunks without ASCII white space or control characters."""
        words: list[bytes] = []
        ends: list[int] = []
        for chunk in chunks:
            # The rest of Unicode is left to the library.
            words += ascii_words(chunk, self.cased) if chunk.isascii() else (chunk,)
            ends.append(len(words))
        ids, begins = self._words.lookup(words)
        return ids, np.diff(begins[np.array([0, *ends])])

    def _split_words(self, words: list[bytes]) -> tuple[Ids, Counts]:
        """Ids of words that are ASCII as BERT has them, or any text that is not ASCII."""
        get = self._whole.get
        found = np.array([get(word, -1) for word in words], np.int64)
        others = np.flatnonzero(found < 0)
        lengths = np.ones(len(words), np.int64)
        if len(others):
            # One call for all: a call costs as much as several words. The offsets, in characters,
            # give the word of each piece.
            rest = [words[index].decode() for index in others]
            encoding = self._pipeline.encode(" ".join(rest), add_special_tokens=False)
            begins = np.cumsum([0, *(len(text) + 1 for text in rest)])
            owners = (
                np.searchsorted(
                    begins, np.array([begin for begin, _ in encoding.offsets], np.int64), "right"
                )
                - 1
            )
            lengths[others] = np.bincount(owners, minlength=len(rest))
            found = np.repeat(found, lengths)
            found[found < 0] = encoding.ids
        return found.astype(np.uint32), lengths

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        ids, begins, ends = self._chunks.lookup_lines(lines)
        return Encoded(ids, self._starts[ids], begins[ends])

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._special_pattern.split(text):
            if piece in SPECIALS:
                ids.append(self._id_of[piece])
            elif piece:
                ids += self.encode_lines([piece.encode("utf-8", "replace")]).ids.tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.tokens[i] for i in ids).replace(" ##", "")
