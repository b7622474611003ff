"""HuggingFace's tokenizer files: WordPiece both ways, fastBPE written where the other program splits alike, the rest carried along."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.bpe import CONTINUES, BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import END, irregular_tokens
from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer, bert_pipeline
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

PIPELINE, SETTINGS, VOCAB = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
_ALL = (
    PIPELINE,
    SETTINGS,
    VOCAB,
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)
# What Python's str.split() takes for white space.
_WHITE = r"[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"


@dataclass(frozen=True)
class FoundTokenizer:
    """The tokenizer beside a model, as one of ours; or its files, when it is none."""

    tokenizer: Tokenizer | None = None
    carried: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _json(data: bytes, path: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise TlmError(f"{path}: is not JSON ({error})") from None
    return value if isinstance(value, dict) else {}


def read_tokenizer(
    directory: str, hashes: dict[str, str], lower: bool | None = None
) -> FoundTokenizer:
    """The tokenizer in a directory; the SHA-256 of its files are noted in `hashes`. `lower`: it lower-cases, where this is known."""
    contents: dict[str, bytes] = {}
    for name in _ALL:
        path = posixpath.join(directory, name)
        if filesystem.exists(path):
            contents[name] = filesystem.read_bytes(path)
            hashes[name] = filesystem.sha256(contents[name])
    if not contents:
        return FoundTokenizer(notes=("no tokenizer lies beside it",))
    settings = _json(contents.get(SETTINGS, b"{}"), posixpath.join(directory, SETTINGS))
    pipeline = _json(contents.get(PIPELINE, b"{}"), posixpath.join(directory, PIPELINE))
    try:
        cased = _case(settings, pipeline, contents.get(VOCAB, b"")) if lower is None else not lower
        vocab = contents[VOCAB] if VOCAB in contents else _vocab_of(pipeline)
        return FoundTokenizer(
            WordPieceTokenizer(vocab, cased=cased, name=posixpath.join(directory, VOCAB))
        )
    except (_Other, UsageError) as reason:
        return FoundTokenizer(
            carried=contents, notes=(f"its tokenizer is carried along unread: {reason}",)
        )


class _Other(Exception):
    """Why a tokenizer is none of ours."""


def _case(settings: Mapping[str, Any], pipeline: Mapping[str, Any], vocab: bytes) -> bool:
    """Whether the WordPiece tokenizer keeps capital letters. Raises `_Other` for one that is not BERT's."""
    model, normalizer, splitter = (
        pipeline.get(key) or {} for key in ("model", "normalizer", "pre_tokenizer")
    )
    if pipeline:
        if (
            model.get("type", "WordPiece" if "max_input_chars_per_word" in model else None)
            != "WordPiece"
        ):
            raise _Other(f"{model.get('type')} is not WordPiece")
        parts = (
            model.get("continuing_subword_prefix"),
            model.get("unk_token"),
            splitter.get("type"),
        )
        if parts != ("##", "[UNK]", "BertPreTokenizer"):
            raise _Other("it is not BERT's WordPiece")
        lower = normalizer.get("lowercase")
        if (
            normalizer.get("type") != "BertNormalizer"
            or not normalizer.get("clean_text")
            or not normalizer.get("handle_chinese_chars")
        ):
            raise _Other("its normalizer is not BERT's")
        if normalizer.get("strip_accents") not in (None, lower):
            raise _Other("it keeps accents while it lower-cases, or the other way round")
        return not lower
    if not vocab:
        raise _Other(f"there is neither {VOCAB} nor {PIPELINE}")
    if (
        settings.get("strip_accents") is not None
        or settings.get("tokenize_chinese_chars", True) is not True
    ):
        raise _Other("it has settings that BERT's has not")
    # BERT's own checkpoints do not say it; their vocabularies show it.
    shown = any(
        line.lower() != line
        for line in vocab.decode("utf-8", "replace").split("\n")
        if not line.startswith("[")
    )
    return not settings.get("do_lower_case", not shown)


def _vocab_of(pipeline: Mapping[str, Any]) -> bytes:
    vocab = dict(pipeline["model"]["vocab"])
    vocab.update({token["content"]: token["id"] for token in pipeline.get("added_tokens") or ()})
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[t] for t in tokens] != list(range(len(tokens))) or any("\n" in t for t in tokens):
        raise _Other("its ids are not the lines of a vocab.txt")
    return "".join(f"{token}\n" for token in tokens).encode()


def framed(spec: ModelSpec, tokenizer: Tokenizer | None, config: Mapping[str, Any]) -> ModelSpec:
    """The spec with the tokens that stand around a text: [CLS] and [SEP], or what config.json names."""
    if tokenizer is not None:
        return dataclasses.replace(spec, prefix_id=tokenizer.cls_id, suffix_id=tokenizer.sep_id)
    if spec.kind == "clm":
        return dataclasses.replace(spec, eol_id=config.get("eos_token_id"))
    return dataclasses.replace(
        spec, prefix_id=config.get("bos_token_id"), suffix_id=config.get("eos_token_id")
    )


def tokenizer_files(tokenizer: Tokenizer, spec: ModelSpec) -> tuple[dict[str, bytes], list[str]]:
    """Files by name with which `transformers` frames and splits a text as `predict` does, and notes for the user."""
    notes: list[str] = []
    pipeline: Pipeline | None
    if isinstance(tokenizer, BpeTokenizer):
        pipeline = bpe_pipeline(tokenizer)
        if pipeline is None:
            return {}, [
                "no tokenizer.json: the vocab lacks pieces that the codes make, which fastBPE then takes apart and others cannot"
            ]
    else:
        pipeline = bert_pipeline(tokenizer._id_of, tokenizer.cased)
    before, after = [
        [i for i in ids if i is not None]
        for ids in ((spec.prefix_id,), (spec.eol_id, spec.suffix_id))
    ]
    template = " ".join(
        [*(tokenizer.tokens[i] for i in before), "$A", *(tokenizer.tokens[i] for i in after)]
    )
    names = {
        "pad_token": tokenizer.pad_id,
        "unk_token": tokenizer.unk_id,
        "cls_token": spec.prefix_id,
        "sep_token": tokenizer.sep_id,
    }
    if (mask := tokenizer.id_of("[MASK]")) is not None:
        names["mask_token"] = mask
    _finish(pipeline, tokenizer, template, {*before, *after})
    bert = isinstance(tokenizer, WordPieceTokenizer) and template == "[CLS] $A [SEP]"
    settings: dict[str, Any] = {
        "tokenizer_class": "BertTokenizer" if bert else "PreTrainedTokenizerFast",
        "model_max_length": spec.seq_length,
        "clean_up_tokenization_spaces": False,
        **{name: tokenizer.tokens[i] for name, i in names.items() if i is not None},
    }
    if isinstance(tokenizer, WordPieceTokenizer):
        settings.update(
            do_lower_case=not tokenizer.cased, tokenize_chinese_chars=True, strip_accents=None
        )
    found = {
        PIPELINE: pipeline.to_str(pretty=False).encode(),
        SETTINGS: json.dumps(settings, indent=1).encode(),
    }
    if isinstance(tokenizer, WordPieceTokenizer):
        found[VOCAB] = vocab_file(tokenizer)
    return found, notes


def vocab_file(tokenizer: Tokenizer) -> bytes:
    """The bytes of a WordPiece tokenizer's vocab.txt."""
    return "".join(f"{token}\n" for token in tokenizer.tokens).encode()


def _finish(pipeline: Pipeline, tokenizer: Tokenizer, template: str, framing: set[int]) -> None:
    """Give a pipeline the special tokens, the frame around a text and the way back to text."""
    from tokenizers import AddedToken, decoders, processors

    special = sorted({*tokenizer.special_ids, *framing})
    pipeline.add_special_tokens(
        [AddedToken(tokenizer.tokens[i], special=True, normalized=False) for i in special]
    )
    named = [(tokenizer.tokens[i], i) for i in special]
    # The second text of a pair has its own end, but no second [CLS].
    second = template.replace("$A", "$B").split(" ")
    second = second[second.index("$B") :]
    pair = " ".join([template, *(f"{part}:1" for part in second)])
    pipeline.post_processor = processors.TemplateProcessing(
        single=template, pair=pair, special_tokens=named
    )
    if isinstance(tokenizer, BpeTokenizer):
        pipeline.decoder = decoders.BPEDecoder(suffix=END)
    else:
        pipeline.decoder = decoders.WordPiece()


def bpe_pipeline(tokenizer: BpeTokenizer) -> Pipeline | None:
    """The `tokenizers` pipeline that splits as a fastBPE tokenizer does; None when no pipeline does.

    fastBPE takes a piece that its vocab lacks apart again; here every piece that a merge makes must have an id of its own.
    """
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Pipeline

    codes = tokenizer._codes
    special = {tokenizer.tokens[i] for i in tokenizer.special_ids}
    ids: dict[str, int] = {}
    for index, token in enumerate(tokenizer.tokens):
        unit = (
            token
            if token in special
            else token[: -len(CONTINUES)]
            if token.endswith(CONTINUES)
            else token + END
        )
        if unit in ids:
            return None
        ids[unit] = index
    units = {unit for left, right in codes.ranks for unit in (left, right, left + right)}
    if units - set(ids) or irregular_tokens(codes):
        return None
    unknown = tokenizer.tokens[tokenizer.unk_id]
    merges = sorted(codes.ranks, key=codes.ranks.__getitem__)
    pipeline = Pipeline(
        models.BPE(ids, merges, unk_token=unknown, end_of_word_suffix=END, fuse_unk=False)
    )
    if not tokenizer.cased:
        pipeline.normalizer = normalizers.Lowercase()
    pipeline.pre_tokenizer = pre_tokenizers.Split(Regex(_WHITE), "removed")
    return pipeline
