"""Tokenizers from options, or from the directory that holds one."""

from __future__ import annotations

import json

from tpu_tlm import filesystem
from tpu_tlm.config import SUBWORDS, TokenizerConfig
from tpu_tlm.data.tokenizers.base import DESCRIPTION, Tokenizer
from tpu_tlm.errors import TlmError, UsageError


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the options describe; `UsageError` naming a missing option, file or line."""
    if config.vocab is None:
        raise UsageError(
            f"--vocab is required: {'fastBPE vocab file' if config.subword_type == 'bpe' else 'BERT vocab.txt'}"
        )
    vocab = filesystem.read_bytes(config.vocab)
    if config.subword_type == "wordpiece":
        from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer

        return WordPieceTokenizer(vocab, cased=config.cased, name=config.vocab)
    if config.codes is None:
        raise UsageError("--codes is required with --subword_type bpe: fastBPE codes file")
    from tpu_tlm.data.tokenizers.bpe import BpeTokenizer

    codes = filesystem.read_bytes(config.codes)
    return BpeTokenizer(
        codes,
        vocab,
        cased=config.cased,
        extra_tokens=config.extra_tokens,
        names=(config.codes, config.vocab),
    )


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer that `save` wrote into a directory.

    Raises `UsageError` when there is none, `TlmError` when a file is not the one that was saved.
    """
    base = directory.rstrip("/")
    path = f"{base}/{DESCRIPTION}"
    try:
        saved = json.loads(filesystem.read_bytes(path))
        kind, cased, extra, hashes = (
            saved["kind"],
            saved["cased"],
            saved["extra_tokens"],
            dict(saved["files"]),
        )
    except UsageError:
        raise UsageError(f"{directory}: holds no tokenizer (no {DESCRIPTION})") from None
    except (ValueError, KeyError, TypeError):
        raise TlmError(
            f"{path}: is not a tokenizer description: make the tokenizer directory again"
        ) from None
    if kind not in SUBWORDS:
        raise TlmError(f"{path}: unknown kind {kind!r}: written by a newer version")
    contents = {}
    for name in ("codes", "vocab") if kind == "bpe" else ("vocab.txt",):
        contents[name] = filesystem.read_bytes(f"{base}/{name}")
        if filesystem.sha256(contents[name]) != hashes.get(name):
            raise TlmError(
                f"{base}/{name}: is not the file that was saved (its SHA-256 differs): restore it or preprocess again"
            )
    if kind == "bpe":
        from tpu_tlm.data.tokenizers.bpe import BpeTokenizer

        names = (f"{base}/codes", f"{base}/vocab")
        return BpeTokenizer(
            contents["codes"], contents["vocab"], cased=cased, extra_tokens=extra, names=names
        )
    from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer

    return WordPieceTokenizer(contents["vocab.txt"], cased=cased, name=f"{base}/vocab.txt")
