"""Tokenizer, case and framing of a model, run, dataset or vocabulary (preprocess --tokenizer)."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import PreprocessConfig, TokenizerConfig
from tpu_tlm.data.dataset.dataset import TOKENIZER
from tpu_tlm.data.dataset.metadata import read_metadata
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.run_directory import CHECKPOINTS

_FLAG = "--tokenizer"
_FRAME = ("prefix", "suffix", "eol_token")


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer is, and the tokens around a text by option; empty where not known."""

    directory: str
    frame: dict[str, str | None]


def with_tokenizer_of(
    tokens: TokenizerConfig, config: PreprocessConfig
) -> tuple[TokenizerConfig, PreprocessConfig, str]:
    """Options with the tokenizer, case and framing of --tokenizer, and a line that says them.

    Unchanged, with an empty line, where it is not given. Raises `UsageError` where the path has no
    tokenizer, and naming every given option that differs.
    """
    if config.tokenizer is None:
        return tokens, config, ""
    source = _source_of(config.tokenizer.rstrip("/") or "/")
    tokens = replace(tokens, **_defaults(TokenizerConfig(), tokens.by_preset))
    base = TokenizerConfig(
        vocab=source.directory, add_tokens=tokens.add_tokens, extra_tokens=tokens.extra_tokens
    )
    there = make_tokenizer(base)
    # An option at its default was not given; what a preset says gives way.
    default = PreprocessConfig(output=config.output)
    here = {
        "subword_type": (tokens.subword_type, there.kind),
        "cased": (tokens.cased, there.cased),
        **{
            name: (getattr(config, name), source.frame[name])
            for name in _FRAME
            if name in source.frame
            and name not in config.by_preset
            and getattr(config, name) != getattr(default, name)
        },
    }
    wrong = [
        f"{name}: {_shown(theirs)} there, {_shown(ours)} here"
        for name, (ours, theirs) in here.items()
        if ours is not None and not _same(name, ours, theirs, there)
    ]
    for name in ("vocab", "codes"):
        if (value := getattr(tokens, name)) is not None:
            wrong.append(f"{name}: {source.directory} there, {value} here")
    if wrong:
        raise UsageError(f"{_FLAG} {config.tokenizer}: {'; '.join(wrong)}: leave these options out")
    taken: dict[str, Any] = dict(source.frame)
    config = replace(config, **taken)
    said = [f"{name} {_shown(getattr(config, name))}" for name in _FRAME]
    cased = [] if there.kind == "hf" else [f"cased {_shown(there.cased)}"]
    line = f"{_FLAG} {config.tokenizer}: {', '.join([there.kind, *cased, *said])}"
    return base, config, line


def _defaults(default: TokenizerConfig, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(default, name) for name in names}


def _same(name: str, ours: Any, theirs: Any, tokenizer: Tokenizer) -> bool:
    if name == "cased" and tokenizer.kind == "hf":
        return False  # make_tokenizer refuses it, too: the files decide
    if name == "eol_token" and ours == "<EOS>" and tokenizer.kind != "bpe":
        ours = tokenizer.tokens[tokenizer.sep_id]
    return bool(ours == theirs)


def _shown(value: Any) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _source_of(path: str) -> TokenizerSource:
    if not filesystem.is_directory(path):
        raise UsageError(f"{_FLAG} {path}: is no directory of a model, run, dataset or vocabulary")
    names = set(filesystem.list_names(path))
    metadata = read_metadata(path)
    if metadata is not None:
        if metadata.get("tokenizer") is None:
            raise UsageError(f"{_FLAG} {path}: this dataset does not name its tokenizer")
        eol = metadata.get("tok_on_eol")
        frame = {"prefix": metadata.get("prefix"), "suffix": metadata.get("suffix")}
        return TokenizerSource(f"{path}/{TOKENIZER}", {**frame, "eol_token": eol})
    if CHECKPOINTS in names or ("config.yaml" in names and TOKENIZER in names):
        return _of_run(path)
    if "train" in names and read_metadata(f"{path}/train") is not None:
        return _source_of(f"{path}/train")
    return TokenizerSource(path, _frame_of_files(path))


def _of_run(path: str) -> TokenizerSource:
    """The tokenizer of a run, framed as the examples that it trains on."""
    from tpu_tlm.checkpoints.manager import Checkpoints
    from tpu_tlm.data.tokenizers.factory import load_tokenizer
    from tpu_tlm.models.spec import ModelSpec

    directory = posixpath.join(path, TOKENIZER)
    found = Checkpoints(posixpath.join(path, CHECKPOINTS)).newest()
    if found is None:
        return TokenizerSource(directory, {})
    spec = ModelSpec.from_json(json.dumps(found.state["spec"]), found.path)
    listed = load_tokenizer(directory).tokens
    ids = {"prefix": spec.prefix_id, "suffix": spec.suffix_id, "eol_token": spec.eol_id}
    return TokenizerSource(
        directory, {name: None if i is None else listed[i] for name, i in ids.items()}
    )


def _frame_of_files(directory: str) -> dict[str, str | None]:
    """What a directory with tokenizer files puts around a text: by its tokenizer.json."""
    from tpu_tlm.formats.huggingface.tokenizer_read import read_tokenizer

    try:
        found = read_tokenizer(directory, {})
    except TlmError as error:
        raise UsageError(f"{_FLAG} {directory}: {error}") from None
    if found.frame is None or found.tokenizer is None:
        return {}
    prefix, suffix = (
        None if index is None else found.tokenizer.tokens[index] for index in found.frame
    )
    if prefix is None and suffix is None:
        return {}  # a causal model: every line ends with its end token, which is the default
    return {"prefix": prefix, "suffix": suffix, "eol_token": None}
