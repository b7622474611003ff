"""WordPiece from a BERT vocab.txt: BERT's basic tokenizer, then the longest pieces from the left."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers import Encoded, Tokenizer
from tpu_tlm.data.word_table import WordTable
from tpu_tlm.errors import UsageError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100
# ASCII control characters but tab, line feed, carriage return: BERT drops them, `split` would take some for white space.
_CONTROLS = bytes({*range(32), 127} - {9, 10, 13})


def parse_vocab(data: bytes, name: str) -> list[str]:
    """The tokens of a vocab.txt, one a line; `UsageError` naming file and line."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}:{data[: error.start].count(10) + 1}: is not UTF-8") from None
    if lines[-1] == "":
        lines.pop()
    tokens: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        token = line.rstrip("\r")
        if not token or token in tokens:
            what = f"token {token!r} a second time" if token else "an empty line"
            raise UsageError(f"{name}:{number}: {what}: it is no BERT vocab.txt")
        tokens[token] = number
    for special in SPECIALS:
        if special not in tokens:
            raise UsageError(f"{name}: has no {special}: it is no BERT vocab.txt")
    if tokens["[PAD]"] != 1:
        raise UsageError(f"{name}:{tokens['[PAD]']}: [PAD] must stand in the first line")
    return list(tokens)


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer; ids are the line numbers of vocab.txt. Equal to the `tokenizers` back end of transformers' BertTokenizer.

    In corpus lines `[MASK]` and the like are plain text, as BERT's own pre-training tool has them; `encode` turns them into
    their ids. A punctuation mark or a Chinese character is a word of its own.
    """

    kind = "wordpiece"
    pad_id = 0

    def __init__(self, vocab: bytes, *, cased: bool = True, name: str = "vocab.txt") -> None:
        tokens = parse_vocab(vocab, name)
        super().__init__(tokens, cased, {"vocab.txt": vocab}, ())
        self.unk_id = self._id_of["[UNK]"]
        self.special_ids = tuple(sorted(self._id_of[token] for token in SPECIALS))
        self._special_pattern = re.compile("(" + "|".join(re.escape(token) for token in SPECIALS) + ")")
        self._starts: npt.NDArray[np.bool_] = np.array([not token.startswith("##") for token in tokens])
        self._engine = _engine(self._id_of, cased)
        self._table: WordTable[bytes] = WordTable(self._split)

    @property
    def cls_id(self) -> int:
        return self.required_id("[CLS]")

    @property
    def sep_id(self) -> int:
        return self.required_id("[SEP]")

    @property
    def mask_id(self) -> int:
        return self.required_id("[MASK]")

    def _split(self, chunks: list[bytes]) -> list[Sequence[int]]:
        encoded = self._engine.encode_batch_fast([chunk.decode() for chunk in chunks], add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        words: list[bytes] = []
        counts = np.zeros(len(lines), np.int64)
        for index, line in enumerate(lines):
            found = line.translate(None, _CONTROLS).split()
            words += found
            counts[index] = len(found)
        ids, ends = self._table.lookup(words)
        begins = np.zeros(len(words) + 1, np.int64)
        begins[1:] = ends
        offsets = np.zeros(len(lines) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return Encoded(ids, self._starts[ids], begins[offsets])

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


def _engine(id_of: dict[str, int], cased: bool):  # type: ignore[no-untyped-def]
    """The `tokenizers` pipeline that transformers' BertTokenizer is made of, without special tokens."""
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models, normalizers, pre_tokenizers

    pipeline = Pipeline(models.WordPiece(dict(id_of), unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD))
    pipeline.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=not cased)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return pipeline
