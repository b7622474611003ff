"""Any `tokenizer.json`, split by the library `tokenizers` itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.data.tokenizers.chunks import chunker_of
from tpu_tlm.data.tokenizers.hf_classes import class_name, usual_names
from tpu_tlm.data.tokenizers.line_chunks import LineChunks
from tpu_tlm.data.tokenizers.text_files import json_of, text_of
from tpu_tlm.data.tokenizers.word_cache import Counts, Ids, LineTable
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

PIPELINE, SETTINGS, SPECIALS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
# Where no settings name them: the names that BERT, RoBERTa, XLM-R, ALBERT, T5 and GPT-2 give them.
_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}
# The role of each named token; of two names for a role the first wins.
_ROLES = {
    "pad": ("pad_token",),
    "unk": ("unk_token",),
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}
# Tokens of a byte that UTF-8 text never has, in SentencePiece's alphabet of bytes and in GPT-2's.
_NEVER_IN_TEXT = ("<0xFF>", "\u00ff")
_PADDING = "<pad>"
MOST_UNUSED = 1 << 20  # ids without a token
_WORD_MARKS = ("\u2581", "\u0120")


class HfTokenizer(Tokenizer):
    """A HuggingFace tokenizer: its own normalizer, pre-tokenizer, model and added tokens.

    Equal to `transformers` without the special tokens around a text. Special tokens written in a
    text become their ids, in corpus lines too, as in `transformers`. Words are what the
    pre-tokenizer divides the text into; where it divides nothing, a word begins with the mark of a
    space. A tokenizer without a padding token of its own pads with the token of a byte that UTF-8
    text never has (GPT-2), or gets one after its last id.
    """

    kind = "hf"

    def __init__(self, contents: dict[str, bytes], *, name: str = PIPELINE) -> None:
        model: dict[str, Any] = json_of(contents[PIPELINE], name).get("model") or {}
        pipeline = read_pipeline(contents[PIPELINE], name, model)
        if dropout := model.get("dropout"):
            self.notes += (
                f"{name}: its dropout of merges ({dropout}) is not used, so that the same text "
                "gives the same tokens",
            )
        named = named_tokens(contents, name)
        known = _known_class(contents, name)
        self._guessed = not named or not known  # roles that nothing names: by usual names
        for key, token in usual_names(known).items():
            if pipeline.token_to_id(token) is not None:
                named.setdefault(key, token)
        missing = [
            token for token in dict.fromkeys(named.values()) if pipeline.token_to_id(token) is None
        ]
        self._never = _never_in_text(pipeline)
        if not self._has_padding(pipeline, named):
            missing.append(_PADDING)
        if missing:  # as transformers does: after the last id
            pipeline.add_special_tokens(missing)
        ids = pipeline.get_vocab(with_added_tokens=True)
        highest = max(ids.values(), default=-1)
        if highest - len(ids) > MOST_UNUSED:
            raise UsageError(f"{name}: has the id {highest} and only {len(ids)} tokens")
        tokens = [f"<unused id {i}>" for i in range(highest + 1)]
        for token, index in sorted(ids.items(), reverse=True):
            tokens[index] = token
        if len(set(ids.values())) < len(ids):
            same = next(token for token, index in ids.items() if tokens[index] != token)
            self.notes += (
                f"{name}: {tokens[ids[same]][:60]!r} and {same[:60]!r} have the same id",
            )
        super().__init__(tokens, True, contents, ())
        self._pipeline = pipeline
        self._name = name
        self._role = {
            role: found
            for role in _ROLES
            if (found := self._find_role(role, named, model)) is not None
        }
        self.pad_id = self._padding()
        # Byte-level vocabularies have no unknown token: no id stands for one.
        self.unk_id = self._role.get("unk", len(tokens))
        added = pipeline.get_added_tokens_decoder()
        special = {index for index, token in added.items() if token.special}
        self.special_ids = tuple(sorted(special | {self.pad_id} | set(self._role.values())))
        self._marks: npt.NDArray[np.bool_] | None = None
        if not _divides(pipeline):
            self._marks = np.array([token.startswith(_WORD_MARKS) for token in tokens], bool)
        self._table: LineTable | None = None
        if (chunker := chunker_of(pipeline, list(added.values()))) is not None:
            self._table = LineTable(self._split_chunks, LineChunks(chunker))

    def pipeline_copy(self) -> Pipeline:
        """A copy of the pipeline, with the tokens that its settings name and it lacked."""
        return read_pipeline(self._pipeline.to_str().encode(), self._name)

    def _find_role(self, role: str, named: dict[str, str], model: dict[str, Any]) -> int | None:
        for key in _ROLES[role]:
            if key in named:
                return self._id_of[named[key]]
        if role == "unk":
            if isinstance(model.get("unk_token"), str):
                return self._id_of.get(model["unk_token"])
            if isinstance(model.get("unk_id"), int):
                return int(model["unk_id"])
        if not self._guessed:
            return None
        return next((self._id_of[t] for t in _USUAL[role] if t in self._id_of), None)

    def _has_padding(self, pipeline: Pipeline, named: dict[str, str]) -> bool:
        """Whether a token can pad: one that is named so, usual, or of a byte that no text has."""
        if any(pipeline.token_to_id(token) is not None for token in (*self._never, _PADDING)):
            return True
        if "pad_token" in named:
            return named["pad_token"] not in (named.get("sep_token"), named.get("eos_token"))
        return self._guessed and any(pipeline.token_to_id(t) is not None for t in _USUAL["pad"])

    def _padding(self) -> int:
        """The id that stands for no token: never that of a token that ends texts."""
        found = self._role.get("pad")
        if found is not None and found != self._role.get("sep"):
            return found
        return next(self._id_of[t] for t in (*self._never, _PADDING) if t in self._id_of)

    def _special_id(self, role: str) -> int:
        if role not in self._role:
            names = " or ".join(_ROLES[role])
            raise UsageError(f"{self._name}: has no {role} token: name one as {names}")
        return self._role[role]

    @property
    def named_pad(self) -> int | None:
        """The id of the token that its files name for padding, or the usual one; None for none."""
        return self._role.get("pad")

    @property
    def cls_id(self) -> int:
        return self._special_id("cls")

    @property
    def sep_id(self) -> int:
        return self._special_id("sep")

    @property
    def mask_id(self) -> int:
        return self._special_id("mask")

    def pair_frame(
        self, prefix: Sequence[int], suffix: Sequence[int]
    ) -> tuple[list[int], bool] | None:
        """What its own template puts between the texts of a pair, and whether the second text has
        a token type of its own; None where the template is not `prefix A between B suffix`."""
        inner = self._pipeline.encode("a", add_special_tokens=False).ids
        found = self._pipeline.encode("a", "a")
        ids, types = list(found.ids), list(found.type_ids)
        before, after = [*prefix, *inner], [*inner, *suffix]
        middle = ids[len(before) : len(ids) - len(after)]
        if not inner or ids != [*before, *middle, *after]:
            return None
        first, second = types[: len(before)], types[len(types) - len(after) :]
        return middle, {*first} == {0} and {*second} == {1}

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        if self._table is None:
            return self._encode_texts([line.decode() for line in lines])
        codes, begins, ends = self._table.lookup_lines(lines)
        return Encoded(codes >> 1, (codes & 1).astype(bool), begins[ends])

    def _split_chunks(self, chunks: list[bytes]) -> tuple[Ids, Counts]:
        """Twice the ids of chunks, plus one where a word begins."""
        encoded = self._encode_texts([chunk.decode() for chunk in chunks])
        return encoded.ids * np.uint32(2) + encoded.word_start, np.diff(encoded.offsets)

    def _encode_texts(self, texts: list[str]) -> Encoded:
        encodings = self._run(texts)
        found = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(ids) for ids in found], out=offsets[1:])
        count = int(offsets[-1])
        ids = np.fromiter(chain.from_iterable(found), np.uint32, count)
        words = _word_numbers([encoding.word_ids for encoding in encodings], count)
        word_start = np.ones(count, bool)
        word_start[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
        if self._marks is not None:
            word_start |= self._marks[ids]
        word_start[offsets[:-1][np.diff(offsets) > 0]] = True
        return Encoded(ids, word_start, offsets)

    def encode(self, text: str) -> list[int]:
        text = text.encode("utf-8", "replace").decode()
        return list(self._run([text])[0].ids)

    def _run(self, texts: list[str]) -> list[Any]:
        try:
            return list(self._pipeline.encode_batch(texts, add_special_tokens=False))
        except BaseException as error:
            raise library_error(error, f"{self._name}: cannot split a text") from None

    def decode(self, ids: Iterable[int]) -> str:
        text: str = self._pipeline.decode(list(ids), skip_special_tokens=False)
        return text


def _word_numbers(found: list[list[int | None]], count: int) -> npt.NDArray[np.int64]:
    """The number of each token's word in its line, int64 [count]; -1 for added tokens."""
    try:
        return np.fromiter(chain.from_iterable(found), np.int64, count)
    except TypeError:
        numbers = (-1 if word is None else word for word in chain.from_iterable(found))
        return np.fromiter(numbers, np.int64, count)


def read_pipeline(data: bytes, name: str, model: dict[str, Any] | None = None) -> Pipeline:
    """The pipeline of a tokenizer.json, which neither cuts nor pads nor draws.

    model: its part of that name, where it is parsed already. Raises `UsageError` naming the file.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models

    if model is None:
        model = json_of(data, name).get("model") or {}
    try:
        pipeline = Pipeline.from_str(text_of(data, name))
        if isinstance(pipeline.model, models.Unigram):
            # The library's own reader rounds scores otherwise, which decides between equal splits.
            vocab = [(str(piece), float(score)) for piece, score in model["vocab"]]
            byte_fallback = bool(model.get("byte_fallback"))
            pipeline.model = models.Unigram(vocab, model.get("unk_id"), byte_fallback)
        if getattr(pipeline.model, "dropout", None):
            pipeline.model.dropout = None
    except BaseException as error:
        raise library_error(error, f"{name}: is no tokenizer of the library tokenizers") from None
    pipeline.no_truncation()
    pipeline.no_padding()
    return pipeline


def library_error(error: BaseException, what: str) -> BaseException:
    """An error of the library as one of a user; it reports some as panics, no `Exception`."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        return error
    return UsageError(f"{what}: {' '.join(str(error).split())}")


def _never_in_text(pipeline: Pipeline) -> tuple[str, ...]:
    """The tokens of a byte that no text has: a letter in GPT-2's alphabet is one elsewhere."""
    steps = f"{pipeline.normalizer} {pipeline.pre_tokenizer}"
    return _NEVER_IN_TEXT if "ByteLevel" in steps else _NEVER_IN_TEXT[:1]


def _divides(pipeline: Pipeline) -> bool:
    """Whether the pre-tokenizer divides a text into words."""
    splitter = pipeline.pre_tokenizer
    return splitter is not None and len(splitter.pre_tokenize_str("a b")) > 1


def _known_class(contents: dict[str, bytes], name: str) -> str:
    if SETTINGS not in contents:
        return ""
    return class_name(json_of(contents[SETTINGS], f"{name.rpartition('/')[0]}/{SETTINGS}"))


def named_tokens(contents: dict[str, bytes], name: str) -> dict[str, str]:
    """Special tokens by the name that the settings beside a tokenizer.json give them."""
    directory = name.rpartition("/")[0]
    found: dict[str, str] = {}
    for file in (SPECIALS, SETTINGS):
        if file not in contents:
            continue
        settings: dict[str, Any] = json_of(contents[file], f"{directory}/{file}".lstrip("/"))
        for key in chain.from_iterable(_ROLES.values()):
            value = settings.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found[key] = value
    return found
