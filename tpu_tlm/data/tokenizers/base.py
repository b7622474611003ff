"""Tokenizers: text -> subword ids and back, and the directory that holds one."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

DESCRIPTION = "tokenizer_info.json"
# The name of the first edition, which is also that of HuggingFace's file.
OLD_DESCRIPTION = "tokenizer.json"


@dataclass(frozen=True)
class Encoded:
    """Lines as ids: `ids` uint32 [n], `word_start` bool [n] (first piece of a word).

    Line i is ids[offsets[i]:offsets[i + 1]].
    """

    ids: npt.NDArray[np.uint32]
    word_start: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]


class Tokenizer(abc.ABC):
    """A subword vocabulary and the rule that splits text into it.

    Made by `make_tokenizer` or `load_tokenizer`.
    """

    kind: str
    tokens: list[str]  # id -> token
    pad_id: int
    unk_id: int
    special_ids: tuple[int, ...]  # never masked, never drawn as random words
    notes: tuple[str, ...] = ()  # what a user should know of the way it was made

    def __init__(
        self,
        tokens: list[str],
        cased: bool,
        contents: dict[str, bytes],
        extra_tokens: Sequence[str],
    ) -> None:
        self.tokens = tokens
        self.cased = cased
        self.extra_tokens = list(extra_tokens)
        self._contents = contents  # file name -> bytes, as `save` writes them
        # The first of equal tokens wins; only the four specials of a BPE vocabulary can meet a
        # second one.
        self._id_of = {token: index for index, token in reversed(list(enumerate(tokens)))}

    def id_of(self, token: str) -> int | None:
        """The id of a token, or None."""
        return self._id_of.get(token)

    def required_id(self, token: str) -> int:
        """The id of a token; `UsageError` when the vocabulary has none."""
        index = self._id_of.get(token)
        if index is None:
            raise UsageError(
                f"this {self.kind} vocabulary has no {token}: "
                "add it to the vocabulary or to --extra_tokens"
            )
        return index

    @property
    @abc.abstractmethod
    def cls_id(self) -> int:
        """The id of [CLS]; `UsageError` when there is none, as for the two below."""

    @property
    @abc.abstractmethod
    def sep_id(self) -> int:
        """The id that ends a text: [SEP], for BPE <EOS>."""

    @property
    @abc.abstractmethod
    def mask_id(self) -> int:
        """The id of [MASK]."""

    @abc.abstractmethod
    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        """Ids of UTF-8 lines, each by itself; nothing is added at either end."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of one text; special tokens written in it, such as [MASK], become their ids."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Readable text of ids: pieces joined to words, words by single spaces."""

    def description(self) -> dict[str, Any]:
        """What defines this tokenizer: kind, case, sizes, special ids, SHA-256 of its files."""
        special = {"pad": self.pad_id}
        if self.unk_id < len(self.tokens):  # byte-level vocabularies have none
            special["unk"] = self.unk_id
        for name in ("cls", "sep", "mask"):
            try:
                special[name] = getattr(self, f"{name}_id")
            except UsageError:
                continue
        return {
            "kind": self.kind,
            "cased": self.cased,
            "vocab_size": len(self.tokens),
            "special": special,
            "extra_tokens": self.extra_tokens,
            "files": {
                name: filesystem.sha256(data) for name, data in sorted(self._contents.items())
            },
        }

    def files(self) -> dict[str, bytes]:
        """The tokenizer's files by name, as `save` writes them beside its description."""
        return dict(self._contents)

    def fingerprint(self) -> str:
        """SHA-256 over the description: equal means the same tokenizer."""
        return filesystem.sha256(json.dumps(self.description(), sort_keys=True).encode())

    def description_file(self) -> bytes:
        """The description as the file `DESCRIPTION`."""
        text = json.dumps(self.description(), indent=1, ensure_ascii=False) + "\n"
        return text.encode()

    def save(self, directory: str) -> None:
        """Write the tokenizer's files, then its description, into a directory (local or gs://)."""
        filesystem.make_directory(directory)
        for name, data in self._contents.items():
            filesystem.write_bytes(f"{directory.rstrip('/')}/{name}", data)
        filesystem.write_bytes(f"{directory.rstrip('/')}/{DESCRIPTION}", self.description_file())
