"""Reading a HuggingFace tokenizer: as one of ours where it splits alike, else as files to carry."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers import bert_beside
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.hf_classes import splits_as_bert, usual_names
from tpu_tlm.data.tokenizers.hf_settings import listed_tokens
from tpu_tlm.data.tokenizers.wordpiece import (
    SPECIALS,
    WordPieceTokenizer,
    bert_pipeline,
    shows_case,
)
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.json_files import parse_object
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

PIPELINE, SETTINGS, VOCAB = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
ADDED = "added_tokens.json"
# Files of a tokenizer. No other name is read from, or written to, a model directory.
TOKENIZER_FILES = (
    *(PIPELINE, SETTINGS, VOCAB, ADDED),
    *("vocab.json", "merges.txt", "special_tokens_map.json"),
    *("spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
)
_SPECIALS = "special_tokens_map.json"
# Files from which a tokenizer without tokenizer.json and vocab.txt can be made.
_SLOW_FILES = {"vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"}
_PROBES = (
    "The quick brown fox, don't; 東京 naïve CAFÉ 12-3.",
    "a [MASK] b [SEP] c",
    "x\u3000y\u00a0z\tq\u200b-",
)


@dataclass(frozen=True)
class FoundTokenizer:
    """The tokenizer beside a model, as one of ours; or its files, when it is none.

    `frame`: ids before and after a text, None where this is not known.
    """

    tokenizer: Tokenizer | None = None
    carried: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    frame: tuple[int | None, int | None] | None = None


_UNFRAMED = "its tokenizer puts several tokens at an end of a text, which are not put there here"


class _Other(Exception):
    """Why a tokenizer is none of ours."""


def read_tokenizer(
    directory: str,
    hashes: dict[str, str],
    *,
    lower: bool | None = None,
    tokenizer_class: str = "",
) -> FoundTokenizer:
    """The tokenizer in a directory; the SHA-256 of its files are noted in `hashes`.

    `lower`: whether it lower-cases, where something else says so; `tokenizer_class`: that of
    config.json. The tokenizer is rebuilt and compared with the one that was read; where they
    differ its files are carried along unread, and a note says why. Raises `TlmError` naming a
    damaged file.
    """
    contents: dict[str, bytes] = {}
    present = set(filesystem.list_names(directory))
    for name in TOKENIZER_FILES:
        if name in present:
            contents[name] = filesystem.read_bytes(
                filesystem.check_inside(directory, name, directory)
            )
            hashes[name] = filesystem.sha256(contents[name])
    if not contents:
        return FoundTokenizer(notes=("there is no tokenizer beside the model",))

    def parsed(name: str) -> dict[str, Any]:
        return parse_object(contents.get(name, b"{}"), posixpath.join(directory, name))

    settings, described = parsed(SETTINGS), parsed(PIPELINE)
    settings.setdefault("tokenizer_class", tokenizer_class or None)
    where = posixpath.join(directory, PIPELINE)
    pipeline = _pipeline(contents[PIPELINE], where) if PIPELINE in contents else None
    try:
        _check_settings(settings)
        try:
            if pipeline is not None:
                tokenizer = _from_pipeline(pipeline, described, settings, lower, where)
                _check_added(described.get("added_tokens"), tokenizer)
                _compare(pipeline, tokenizer)
                frame = _frame(pipeline, settings)
            else:
                _check_bert_class(settings)
                tokenizer = _from_vocab(contents, settings, lower, directory)
                frame = (tokenizer.cls_id, tokenizer.sep_id)
                added = [{"content": k, "id": v} for k, v in parsed(ADDED).items()]
                _check_added(added, tokenizer)
            decoder = settings.get("added_tokens_decoder")
            if isinstance(decoder, dict):
                listed = [{**t, "id": i} for i, t in decoder.items() if isinstance(t, dict)]
                _check_added(listed, tokenizer)
            if other := listed_tokens(settings):
                raise _Other(f"it has added tokens ({other[0][:40]})")
        except (_Other, UsageError) as reason:
            return _general(pipeline, contents, settings, lower, directory, reason)
    except (_Other, UsageError) as reason:
        note = f"its tokenizer is carried along unread: {reason}"
        return FoundTokenizer(carried=contents, notes=(note,))
    return _found(tokenizer, frame)


def _found(tokenizer: Tokenizer, frame: tuple[int | None, int | None] | None) -> FoundTokenizer:
    return FoundTokenizer(tokenizer, frame=frame, notes=() if frame is not None else (_UNFRAMED,))


def _general(
    pipeline: Pipeline | None,
    contents: Mapping[str, bytes],
    settings: Mapping[str, Any],
    lower: bool | None,
    directory: str,
    reason: Exception,
) -> FoundTokenizer:
    """A tokenizer that the library `tokenizers` runs; raises `_Other` where it cannot.

    `reason`: why it is not BERT's, which stands in the error.
    """
    from tpu_tlm.data.tokenizers.hf import HfTokenizer
    from tpu_tlm.data.tokenizers.hf_files import read_hf_tokenizer
    from tpu_tlm.data.tokenizers.hf_settings import completed

    if pipeline is None and VOCAB in contents:
        _check_bert_class(settings)
        if contents.get(ADDED):
            raise _Other(str(reason))
        pipeline = _pipeline_of_vocab(contents[VOCAB], settings, lower, directory)
    if pipeline is None:
        if not set(contents) & _SLOW_FILES:
            raise _Other(str(reason))
        tokenizer = read_hf_tokenizer(directory)
        return FoundTokenizer(tokenizer, frame=None)
    known = {token.content for token in pipeline.get_added_tokens_decoder().values()}
    decoder = settings.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, dict) else ():
        if not isinstance(token, dict) or token.get("content") not in known:
            raise _Other(f"its settings have other added tokens than {PIPELINE}")
    files = {name: contents[name] for name in (SETTINGS, _SPECIALS) if name in contents}
    name = posixpath.join(directory, PIPELINE)
    files[PIPELINE] = completed(pipeline.to_str().encode(), directory.rstrip("/") + "/", name)
    if SETTINGS not in files and VOCAB in contents:
        named = {f"{name[1:-1].lower()}_token": name for name in SPECIALS}
        files[SETTINGS] = json.dumps({"tokenizer_class": "BertTokenizer", **named}).encode()
    return _found(HfTokenizer(files, name=name), _frame(pipeline, settings))


def _pipeline_of_vocab(
    vocab: bytes, settings: Mapping[str, Any], lower: bool | None, directory: str
) -> Pipeline:
    """BERT's pipeline of a vocab.txt that `WordPieceTokenizer` does not take ([PAD] anywhere)."""
    from tokenizers import processors

    cased = not _lower_of(vocab, settings, lower, directory)
    try:
        tokens = [line.rstrip("\r") for line in vocab.decode().rstrip("\n").split("\n")]
    except UnicodeDecodeError:
        raise _Other(f"{VOCAB} is not UTF-8") from None
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens) or not {"[UNK]", "[CLS]", "[SEP]"} <= set(ids):
        raise _Other(f"{VOCAB} is no vocabulary of BERT's")
    pipeline = bert_pipeline(ids, cased)
    pipeline.add_special_tokens([token for token in SPECIALS if token in ids])
    pipeline.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    return pipeline


def _pipeline(data: bytes, where: str) -> Pipeline:
    from tokenizers import Tokenizer as Pipeline

    try:
        pipeline = Pipeline.from_str(data.decode())
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())[:120]
        raise TlmError(
            f"{where}: is not a tokenizer that the library tokenizers reads ({reason}); restore "
            "the file, or take it away and give --tokenizer"
        ) from None
    # As transformers does: lengths are the caller's, whatever the file was saved with. Padded texts
    # would compare as split in another way, and their frame could not be seen.
    pipeline.no_truncation()
    pipeline.no_padding()
    return pipeline


def _class_of(settings: Mapping[str, Any]) -> str:
    name = settings.get("tokenizer_class") or ""
    return name if isinstance(name, str) else repr(name)


def _is_bert_class(settings: Mapping[str, Any]) -> bool:
    return splits_as_bert(_class_of(settings))


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise `_Other` for settings that no tokenizer.json describes: words split by a dictionary."""
    if not isinstance(settings.get("tokenizer_class"), str | None):
        raise _Other(f"tokenizer_class is {str(settings['tokenizer_class'])[:40]}")
    splitter = settings.get("word_tokenizer_type", "basic")
    if "Japanese" in _class_of(settings) or splitter not in ("basic", None):
        raise _Other(_class_of(settings)[:60] or f"its words are split by {str(splitter)[:40]}")
    if settings.get("do_basic_tokenize", True) is not True or settings.get("never_split"):
        raise _Other("it does not split words as BERT does")


def _check_bert_class(settings: Mapping[str, Any]) -> None:
    """Raise `_Other` where a vocab.txt alone does not say how it is used."""
    if not _is_bert_class(settings):
        raise _Other(_class_of(settings)[:60])
    if named := bert_beside.other_name(settings):
        raise _Other(f"it has {named}")


def _check_added(tokens: Any, tokenizer: Tokenizer) -> None:
    """Raise `_Other` for tokens that are matched before the text is split, but BERT's five."""
    for token in tokens if isinstance(tokens, list) else []:
        text = token.get("content") if isinstance(token, dict) else None
        same_id = text in SPECIALS and str(tokenizer.id_of(text)) == str(token.get("id"))
        flags = isinstance(token, dict) and any(
            token.get(flag) for flag in ("lstrip", "rstrip", "single_word")
        )
        if not same_id or flags:
            raise _Other(f"it has added tokens ({str(text)[:40]})")


def _cased(settings: Mapping[str, Any], normalizer: Mapping[str, Any]) -> bool:
    lower = bool(normalizer.get("lowercase"))
    accents = normalizer.get("strip_accents")
    if _is_bert_class(settings):
        # `transformers` puts these settings in the place of the normalizer's own.
        if isinstance(settings.get("do_lower_case"), bool):
            lower = settings["do_lower_case"]
        if settings.get("strip_accents") is not None:
            accents = settings["strip_accents"]
    if accents not in (None, lower):
        raise _Other("it keeps accents while it lower-cases, or the other way round")
    return not lower


def _from_pipeline(
    pipeline: Pipeline,
    described: Mapping[str, Any],
    settings: Mapping[str, Any],
    lower: bool | None,
    where: str,
) -> WordPieceTokenizer:
    """Our tokenizer of a tokenizer.json, not compared with it yet."""
    model, normalizer = described.get("model"), described.get("normalizer") or {}
    if not isinstance(model, dict) or not isinstance(normalizer, dict):
        raise TlmError(f"{where}: is not a tokenizer description")
    kind = type(pipeline.model).__name__
    if kind != "WordPiece":
        raise _Other(f"{kind} is not WordPiece")
    if normalizer.get("type") != "BertNormalizer":
        raise _Other("its normalizer is not BERT's")
    cased = _cased(settings, normalizer) if lower is None else not lower
    if cased == bool(normalizer.get("lowercase")) or settings.get("strip_accents") is not None:
        from tokenizers import normalizers

        pipeline.normalizer = normalizers.BertNormalizer(
            clean_text=bool(normalizer.get("clean_text")),
            handle_chinese_chars=bool(normalizer.get("handle_chinese_chars")),
            lowercase=not cased,
        )
    ids = pipeline.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[t] for t in tokens] != list(range(len(tokens))) or any("\n" in t for t in tokens):
        raise _Other("its ids are not the lines of a vocab.txt")
    vocab = "".join(f"{token}\n" for token in tokens).encode()
    return WordPieceTokenizer(vocab, cased=cased, name=where)


def _compare(pipeline: Pipeline, tokenizer: WordPieceTokenizer) -> None:
    """Raise `_Other` where a pipeline does not split as our tokenizer does."""
    rebuilt = bert_pipeline(tokenizer._id_of, tokenizer.cased)
    theirs, ours = (json.loads(p.to_str()) for p in (pipeline, rebuilt))
    for normalizer in (theirs["normalizer"], ours["normalizer"]):
        if normalizer["strip_accents"] is None:
            normalizer["strip_accents"] = normalizer["lowercase"]
    for part in ("normalizer", "pre_tokenizer"):
        if theirs[part] != ours[part]:
            raise _Other(f"its {part} is not BERT's")
    for key in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"):
        if theirs["model"][key] != ours["model"][key]:
            raise _Other(f"{key} is {theirs['model'][key]!r}, BERT's is {ours['model'][key]!r}")
    for text in _PROBES:
        if pipeline.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise _Other(f"it splits {text!r} in another way")


def _frame(pipeline: Pipeline, settings: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """Ids that are put before and after a text; None for more than one at an end.

    Where tokenizer.json has none, those of the class, which `transformers` 5 puts there.
    """
    found = _frame_in_file(pipeline)
    name = _class_of(settings)
    if found != (None, None) or not name:
        return found
    usual = usual_names(name)
    ends: list[int | None] = []
    for role in ("cls_token", "sep_token"):
        token = (settings.get(role) or usual[role]) if role in usual else None  # GPT-2 has none
        token = token.get("content") if isinstance(token, dict) else token
        ends.append(pipeline.token_to_id(token) if isinstance(token, str) else None)
    return found if None in ends else (ends[0], ends[1])


def _frame_in_file(pipeline: Pipeline) -> tuple[int | None, int | None] | None:
    inner = pipeline.encode("a", add_special_tokens=False).ids
    framed = pipeline.encode("a").ids
    for at in range(len(framed) - len(inner) + 1):
        if framed[at : at + len(inner)] == inner:
            before, after = framed[:at], framed[at + len(inner) :]
            if len(before) <= 1 and len(after) <= 1:
                return (before or [None])[0], (after or [None])[0]
    return None


def _from_vocab(
    contents: Mapping[str, bytes],
    settings: Mapping[str, Any],
    lower: bool | None,
    directory: str,
) -> WordPieceTokenizer:
    """Our tokenizer of a vocab.txt and its settings."""
    if VOCAB not in contents:
        raise _Other(f"there is neither {VOCAB} nor {PIPELINE}")
    if settings.get("tokenize_chinese_chars", True) is not True:
        raise _Other("it does not split Chinese characters")
    lower = _lower_of(contents[VOCAB], settings, lower, directory)
    name = posixpath.join(directory, VOCAB)
    return WordPieceTokenizer(contents[VOCAB], cased=not lower, name=name)


def _lower_of(
    vocab: bytes, settings: Mapping[str, Any], lower: bool | None, directory: str
) -> bool:
    """Whether a tokenizer of a vocab.txt lower-cases."""
    if lower is not None:
        return lower
    # BERT's own checkpoints do not say it; their vocabularies show it.
    lower = settings.get("do_lower_case", not shows_case(vocab))
    if not isinstance(lower, bool):
        raise TlmError(f"{posixpath.join(directory, SETTINGS)}: do_lower_case is {lower!r}")
    if settings.get("strip_accents") not in (None, lower):
        raise _Other("it keeps accents while it lower-cases, or the other way round")
    return lower


def framed(spec: ModelSpec, found: FoundTokenizer, bos: int | None, eos: int | None) -> ModelSpec:
    """The spec with the tokens around a text: the tokenizer's frame, or config.json's ids."""
    if spec.kind == "clm":
        eol = eos
        if found.tokenizer is not None:
            with contextlib.suppress(UsageError):  # it names no token that ends a text
                eol = found.tokenizer.sep_id
        prefix = None if found.frame is None else found.frame[0]
        return dataclasses.replace(spec, eol_id=eol, prefix_id=prefix)
    prefix, suffix = found.frame or (bos, eos)
    return dataclasses.replace(spec, prefix_id=prefix, suffix_id=suffix)
