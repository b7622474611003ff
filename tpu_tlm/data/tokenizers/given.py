"""The tokenizer at a path that a user gives beside a model, of whatever kind its files are."""

from __future__ import annotations

import os
import posixpath

from tpu_tlm import filesystem
from tpu_tlm.config import TokenizerConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import (
    case_beside,
    description,
    load_tokenizer,
    make_tokenizer,
)
from tpu_tlm.errors import UsageError

_VOCAB = "vocab.txt"


def given_tokenizer(path: str, codes: str | None = None) -> Tokenizer:
    """The tokenizer at a path; codes: fastBPE's merges, where the path is its vocab file.

    path: a directory that `Tokenizer.save` wrote, one of HuggingFace's, one with fastBPE's files
    (`codes*` and `vocab*`), or a vocab.txt, tokenizer.json or SentencePiece model by itself. Where
    nothing says whether a vocabulary is cased, its tokens do, and a note says so.
    Raises `UsageError` where there is no tokenizer, or it is not read.
    """
    if filesystem.is_directory(path):
        if description(path) is not None:
            if codes is not None:
                raise UsageError(f"--codes {codes}: the tokenizer in {path} has its own; leave out")
            return load_tokenizer(path)
        return _of_directory(path.rstrip("/") or "/", codes)
    if not filesystem.exists(path):
        raise UsageError(f"{path}: no such file or directory; give a tokenizer that exists")
    return _of_files(path, codes or _codes_beside(path))


def _of_directory(directory: str, codes: str | None) -> Tokenizer:
    names = filesystem.list_names(directory)
    merges = [name for name in names if name.startswith("codes")]
    vocabularies = [
        name for name in names if name.startswith("vocab") and not name.endswith((".txt", ".json"))
    ]
    if len(vocabularies) == 1 and (codes is not None or len(merges) == 1):
        found = codes or posixpath.join(directory, merges[0])
        return _of_files(posixpath.join(directory, vocabularies[0]), found)
    if codes is not None:
        raise UsageError(f"--codes {codes}: {directory} has no fastBPE vocab file beside it")
    alone = _VOCAB in names and not any(n in names for n in ("tokenizer.json", "config.json"))
    return _of_files(posixpath.join(directory, _VOCAB), None) if alone else _made(vocab=directory)


def _codes_beside(vocab: str) -> str | None:
    """The merges of a fastBPE vocab file: `codes.30k` beside `vocab.30k`."""
    directory, name = os.path.split(vocab)
    if not name.startswith("vocab") or name.endswith((".txt", ".json")):
        return None
    codes = posixpath.join(directory, name.replace("vocab", "codes", 1))
    return codes if filesystem.exists(codes) else None


def _of_files(vocab: str, codes: str | None) -> Tokenizer:
    """The tokenizer of a vocabulary in a file."""
    if vocab.endswith((".json", ".model")) and codes is None:
        return _made(vocab=vocab)
    if case_beside(vocab) is not None:
        return _named(vocab, codes, None)
    cased = _shows_case(filesystem.read_bytes(vocab))
    found = _named(vocab, codes, cased)
    if not cased:
        found.notes += (f"{vocab}: no token has a capital letter, so texts are lower-cased",)
    return found


def _named(vocab: str, codes: str | None, cased: bool | None) -> Tokenizer:
    head = filesystem.read_bytes(vocab)[:4096].decode("utf-8", "replace")
    if codes is None and os.path.basename(vocab) != _VOCAB and "[PAD]" not in head.split("\n"):
        raise UsageError(
            f"{vocab}: is no vocab.txt (its first tokens have no [PAD]); of fastBPE's vocab file "
            "give the merges too: --codes FILE"
        )
    kind = "bpe" if codes is not None else "wordpiece"
    return _made(vocab=vocab, codes=codes, cased=cased, subword_type=kind)


def _made(**options: object) -> Tokenizer:
    return make_tokenizer(TokenizerConfig(**options))  # type: ignore[arg-type]


def _shows_case(vocab: bytes) -> bool:
    """Whether a token has a capital letter, special ones such as [CLS] and <EOS> left out."""
    tokens = (line.split(" ")[0] for line in vocab.decode("utf-8", "replace").splitlines())
    return any(token.lower() != token for token in tokens if token[:1] not in ("[", "<"))
