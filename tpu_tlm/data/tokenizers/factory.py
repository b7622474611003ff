"""Tokenizers from options, or from the directory that holds one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import SUBWORDS, TokenizerConfig
from tpu_tlm.data.tokenizers import bert_beside
from tpu_tlm.data.tokenizers.base import DESCRIPTION, OLD_DESCRIPTION, Tokenizer
from tpu_tlm.data.tokenizers.text_files import BOM, json_at, json_of
from tpu_tlm.data.tokenizers.wordpiece import shows_case
from tpu_tlm.errors import TlmError, UsageError

FILES = {"bpe": ("codes", "vocab"), "wordpiece": ("vocab.txt",)}
_SETTINGS, _PIPELINE = "tokenizer_config.json", "tokenizer.json"
_NEEDED = {
    "bpe": "fastBPE vocab file",
    "wordpiece": "BERT vocab.txt",
    "hf": "tokenizer.json, spiece.model or HuggingFace model directory",
}


def make_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the options describe, with the tokens of --add_tokens.

    What a preset says (`config.by_preset`) counts where the files leave it open; where they do not,
    `notes` says what gave way. Raises `UsageError` naming a missing option, an option that this
    kind of tokenizer does not use, a file or a line, or a flag that contradicts the files beside
    the vocabulary.
    """
    if config.vocab is None:
        raise UsageError(f"--vocab is required: {_NEEDED[config.subword_type or 'bpe']}")
    default = TokenizerConfig()
    usual = {name: getattr(config, name) for name in config.by_preset}
    config = replace(config, **{name: getattr(default, name) for name in usual})
    found = _of_files(config, usual)
    found.notes += _gave_way(usual, found, config.vocab)
    if config.add_tokens is None:
        return found
    from tpu_tlm.data.tokenizers.grow import grow, read_tokens

    return grow(found, read_tokens(config.add_tokens), config.add_tokens)


def _gave_way(usual: Mapping[str, Any], found: Tokenizer, vocab: str | None) -> tuple[str, ...]:
    """A line for every value of a preset that the files contradict."""
    here = {"subword_type": found.kind} | ({} if found.kind == "hf" else {"cased": found.cased})
    return tuple(
        f"{vocab}: {name} {_word(value)}, as its files say; the preset's is {_word(usual[name])}"
        for name, value in here.items()
        if usual.get(name, value) != value
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_files(config: TokenizerConfig, usual: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer at --vocab; usual: values for what neither `config` nor the files say."""
    assert config.vocab is not None
    if filesystem.is_directory(config.vocab):
        return _from_directory(config, config.vocab.rstrip("/") or "/", usual)
    kind = config.subword_type or _kind_of(config, usual.get("subword_type"))
    _refuse_unused(config, kind)
    if kind == "hf":
        return _hf_tokenizer(config.vocab)
    vocab = filesystem.read_bytes(config.vocab).removeprefix(BOM)
    cased = _case(config, kind, usual.get("cased"))
    if kind == "wordpiece":
        from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer

        if other := bert_beside.other_words(os.path.dirname(config.vocab), cased):
            raise UsageError(bert_beside.refusal(os.path.dirname(config.vocab), other))
        return WordPieceTokenizer(vocab, cased=cased, name=config.vocab)
    if config.codes is None:
        raise UsageError("--codes is required with --subword_type bpe: fastBPE codes file")
    from tpu_tlm.data.tokenizers.bpe import BpeTokenizer

    return BpeTokenizer(
        filesystem.read_bytes(config.codes).removeprefix(BOM),
        vocab,
        cased=cased,
        extra_tokens=usual.get("extra_tokens", config.extra_tokens),
        names=(config.codes, config.vocab),
    )


def _kind_of(config: TokenizerConfig, usual: str | None) -> str:
    """The kind of tokenizer that a file given as --vocab belongs to; usual: of an unclear one."""
    assert config.vocab is not None
    if config.codes is not None:
        return "bpe"
    if config.vocab.endswith((".json", ".model")):
        return "hf"
    head = filesystem.read_bytes(config.vocab).removeprefix(BOM)
    if head.startswith((b"[PAD]\n", b"[PAD]\r\n")):
        return "wordpiece"
    return usual or "bpe"


def _refuse_unused(config: TokenizerConfig, kind: str) -> None:
    """Raise `UsageError` for options that this kind of tokenizer does not use."""
    unused = {
        "codes": kind != "bpe" and config.codes is not None,
        "extra_tokens": kind != "bpe" and config.extra_tokens != TokenizerConfig().extra_tokens,
        "cased": kind == "hf" and config.cased is not None,
    }
    for name, refused in unused.items():
        if refused:
            raise UsageError(f"--{name}: a {kind} tokenizer does not use it: leave it out")


def _from_directory(config: TokenizerConfig, directory: str, usual: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer in a directory that `save` wrote, or that HuggingFace's programs write."""
    if description(directory) is not None:
        found = load_tokenizer(directory)
    else:
        found = None
        if config.subword_type in (None, "wordpiece"):
            found = _bert_tokenizer(
                directory, _cased_without_files(config.cased, usual.get("cased"))
            )
        if found is None and config.subword_type != "wordpiece":
            found = _hf_tokenizer(directory)
    if found is None:
        # Not WordPiece: whatever it is, or that there is none, is the reader's to say.
        found = _hf_tokenizer(directory)
    if config.subword_type not in (None, found.kind):
        raise UsageError(
            f"--subword_type {config.subword_type}: the tokenizer in {directory} is of the kind"
            f" {found.kind}; give --subword_type {found.kind}, or leave it out"
        )
    _refuse_unused(config, found.kind)
    given = config.extra_tokens if config.extra_tokens != TokenizerConfig().extra_tokens else []
    if [token for token in found.extra_tokens if token in given] != given:
        raise UsageError(
            f"--extra_tokens {' '.join(given)}: the tokenizer in {directory} has "
            f"{' '.join(found.extra_tokens) or 'none'}: leave the option out, learn the vocabulary "
            "with --special_tokens, or give its files: "
            f"--codes {directory}/codes --vocab {directory}/vocab"
        )
    if config.cased not in (None, found.cased):
        raise UsageError(
            f"--cased {str(config.cased).lower()}: contradicts the tokenizer in {directory}"
        )
    return found


def _hf_tokenizer(path: str) -> Tokenizer:
    from tpu_tlm.data.tokenizers.hf_files import read_hf_tokenizer

    return read_hf_tokenizer(path)


def _bert_tokenizer(directory: str, otherwise: bool) -> Tokenizer | None:
    """BERT's tokenizer, where the files of a directory are those of one, else None.

    otherwise: whether it is cased where no file says so, as for a vocab.txt alone.
    """
    from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer

    vocab = f"{directory}/vocab.txt"
    pipeline = json_at(f"{directory}/{_PIPELINE}")
    if not filesystem.exists(vocab) or (pipeline and not bert_beside.is_bert(pipeline)):
        return None
    found = case_beside(vocab)
    if found is not None:
        otherwise = found[0]
    elif pipeline:
        otherwise = not pipeline["normalizer"].get("lowercase")
    other = bert_beside.other_words(directory, otherwise) or bert_beside.added(directory)
    if other and pipeline:
        return None
    if other:
        raise UsageError(bert_beside.refusal(directory, other))
    data = filesystem.read_bytes(vocab).removeprefix(BOM)
    made = WordPieceTokenizer(data, cased=otherwise, name=vocab)
    ids = {token: index for index, token in enumerate(made.tokens)}
    return None if pipeline and pipeline["model"].get("vocab", ids) != ids else made


def _cased_without_files(cased: bool | None, usual: bool | None) -> bool:
    """Whether a tokenizer is cased where its files do not say it."""
    return cased if cased is not None else usual is not False


def _case(config: TokenizerConfig, kind: str, usual: bool | None) -> bool:
    """--cased, or what the files beside --vocab say; `UsageError` where they contradict."""
    assert config.vocab is not None
    found = case_beside(config.vocab)
    if found is None:
        return _cased_without_files(config.cased, usual)
    cased, path = found
    saved = path.endswith(OLD_DESCRIPTION) and "files" in json_at(path)
    if config.cased is not None and saved:
        return config.cased  # a directory of the first edition, which did not compare them
    if config.cased not in (None, cased):
        flag = str(config.cased).lower()
        raise UsageError(
            f"--cased {flag}: contradicts {path}, which says that this {kind} vocabulary is "
            f"{'cased' if cased else 'lower-case'}: leave --cased out or use another --vocab"
        )
    return cased


def case_beside(vocab: str) -> tuple[bool, str] | None:
    """Whether the vocabulary is cased by the files beside it, and the file that says so."""
    directory = os.path.dirname(vocab)
    base = f"{directory}/" if directory else ""
    for name in (DESCRIPTION, OLD_DESCRIPTION, _SETTINGS):
        found = json_at(base + name)
        if isinstance(found.get("cased"), bool) and found.get("kind") in SUBWORDS:
            return found["cased"], base + name
        if isinstance(found.get("do_lower_case"), bool):  # overrules tokenizer.json's normalizer
            return not found["do_lower_case"], base + name
    normalizer = json_at(base + _PIPELINE).get("normalizer")
    if isinstance(normalizer, dict) and isinstance(normalizer.get("lowercase"), bool):
        return not normalizer["lowercase"], base + _PIPELINE
    if os.path.basename(vocab) == "vocab.txt" and filesystem.exists(base + "config.json"):
        # As `train --init_from` reads the model: its class lower-cases, a cased one shows it.
        return shows_case(filesystem.read_bytes(vocab)), vocab
    return None


def description(directory: str) -> tuple[dict[str, Any], str] | None:
    """The description of a saved tokenizer and its path; None when the directory holds none."""
    base = directory.rstrip("/")
    for name in (DESCRIPTION, OLD_DESCRIPTION):
        path = f"{base}/{name}"
        if filesystem.exists(path):
            found = json_of(filesystem.read_bytes(path), path)
            if name == DESCRIPTION or "kind" in found:
                return found, path
    return None


def _characters(saved: dict[str, Any], path: str) -> Tokenizer:
    from tpu_tlm.data.tokenizers.characters import CharacterTokenizer

    width = saved.get("width")
    if isinstance(width, bool) or not isinstance(width, int) or not 3 <= width <= 1024:
        raise TlmError(f"{path}: width is {str(width)[:40]}, a number from 3 to 1024 is needed")
    return CharacterTokenizer(width)


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer that `save` wrote into a directory.

    Raises `UsageError` when there is none, `TlmError` when a file is not the one that was saved.
    """
    base = directory.rstrip("/")
    try:
        found = description(directory)
    except UsageError as error:
        raise TlmError(f"{error}: make the tokenizer directory again") from None
    if found is None:
        raise UsageError(f"{directory}: holds no tokenizer (no {DESCRIPTION})")
    saved, path = found
    try:
        kind, cased, extra = saved["kind"], saved["cased"], list(saved["extra_tokens"])
        hashes = {str(name): str(value) for name, value in dict(saved["files"]).items()}
    except (ValueError, KeyError, TypeError):
        raise TlmError(
            f"{path}: is not a tokenizer description: make the tokenizer directory again"
        ) from None
    if kind == "elmo":
        return _characters(saved, path)
    if kind not in SUBWORDS:
        raise TlmError(f"{path}: unknown kind {kind!r}: written by a newer version")
    names = FILES.get(kind) or tuple(hashes)
    contents = {}
    for name in names:
        if os.path.basename(name) != name:
            raise TlmError(f"{path}: names a file outside of its directory: {name!r}")
        contents[name] = filesystem.read_bytes(f"{base}/{name}")
        if filesystem.sha256(contents[name]) != hashes.get(name):
            raise TlmError(
                f"{base}/{name}: is not the file that was saved (its SHA-256 differs): "
                "restore it or preprocess again"
            )
    if kind == "hf":
        from tpu_tlm.data.tokenizers.hf import HfTokenizer
        from tpu_tlm.data.tokenizers.sentencepiece_tokenizer import SPIECE, SentencePieceTokenizer

        if SPIECE in contents:
            return SentencePieceTokenizer(contents, name=f"{base}/{SPIECE}")
        return HfTokenizer(contents, name=f"{base}/{_PIPELINE}")
    if kind == "bpe":
        from tpu_tlm.data.tokenizers.bpe import BpeTokenizer

        paths = (f"{base}/codes", f"{base}/vocab")
        return BpeTokenizer(
            contents["codes"], contents["vocab"], cased=cased, extra_tokens=extra, names=paths
        )
    from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer

    return WordPieceTokenizer(contents["vocab.txt"], cased=cased, name=f"{base}/vocab.txt")
