"""Writing tokenizer files with which `transformers` splits and frames a text as this package."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.bpe import CONTINUES, BpeTokenizer
from tpu_tlm.data.tokenizers.bpe_backends import END, irregular_tokens
from tpu_tlm.data.tokenizers.hf import HfTokenizer
from tpu_tlm.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer, bert_pipeline
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.huggingface.tokenizer_read import PIPELINE, SETTINGS, VOCAB
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

# What Python's str.split() takes for white space.
_WHITE = r"[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
# A class that `transformers` does not have: loading the directory's tokenizer then fails,
# where without settings an empty GPT-2 tokenizer would be made silently.
_NO_PIPELINE = "NoTokenizerFilesSeeConversionJson"


def tokenizer_files(tokenizer: Tokenizer, spec: ModelSpec) -> tuple[dict[str, bytes], list[str]]:
    """Files by name with which `transformers` splits and frames a text, and notes for the user.

    The frame of a causal model is that of a prompt: no end token follows the text.
    """
    pipeline: Pipeline | None
    if isinstance(tokenizer, BpeTokenizer):
        pipeline = bpe_pipeline(tokenizer)
        if pipeline is None:
            return {SETTINGS: json.dumps({"tokenizer_class": _NO_PIPELINE}).encode()}, [
                "no tokenizer.json: the vocabulary lacks pieces that the merges make. fastBPE "
                "splits these pieces again, which transformers' tokenizers cannot do"
            ]
    elif isinstance(tokenizer, HfTokenizer):
        return _own_files(tokenizer, spec), _conversion_notes(tokenizer)
    else:
        pipeline = bert_pipeline(tokenizer._id_of, tokenizer.cased)
    causal = spec.kind == "clm"
    ends = () if causal else (spec.eol_id, spec.suffix_id)
    before, after = ([i for i in ids if i is not None] for ids in ((spec.prefix_id,), ends))
    template = " ".join(
        [*(tokenizer.tokens[i] for i in before), "$A", *(tokenizer.tokens[i] for i in after)]
    )
    names = {
        "pad_token": tokenizer.pad_id,
        "unk_token": tokenizer.unk_id,
        "cls_token": spec.prefix_id,
        "sep_token": tokenizer.sep_id,
        "mask_token": tokenizer.id_of("[MASK]"),
    }
    if causal:
        names["eos_token"] = spec.eol_id if spec.eol_id is not None else spec.suffix_id
        names["bos_token"] = spec.prefix_id
    # A causal model's text has no end, but one stands between the texts of a pair.
    last = spec.suffix_id if spec.suffix_id is not None else spec.eol_id
    between = [last] if causal and last is not None else []
    _finish(pipeline, tokenizer, template, {*before, *after}, between)
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
    notes = []
    if isinstance(tokenizer, BpeTokenizer) and not tokenizer.cased and _has_sigma(tokenizer):
        notes.append(
            "a capital sigma at the end of a word becomes \u03c2 here, as in Python, and \u03c3 in "
            "transformers' tokenizers: lower-case Greek text before it is given to them"
        )
    found = {
        PIPELINE: pipeline.to_str(pretty=False).encode(),
        SETTINGS: json.dumps(settings, indent=1).encode(),
    }
    if isinstance(tokenizer, WordPieceTokenizer):
        found[VOCAB] = vocab_file(tokenizer)
    return found, notes


def _has_sigma(tokenizer: Tokenizer) -> bool:
    return any("\u03c2" in token or "\u03c3" in token for token in tokenizer.tokens)


def _conversion_notes(tokenizer: HfTokenizer) -> list[str]:
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return []
    return [
        "tokenizer.json is made from a SentencePiece model: the libraries differ where characters "
        "join (zero-width joiners, marks), in long runs of one character, and for control symbols "
        "such as </s> written in a text"
    ]


def _own_files(tokenizer: HfTokenizer, spec: ModelSpec) -> dict[str, bytes]:
    """The files of a tokenizer of HuggingFace's; its frame is replaced where the spec has another.

    Files that already frame a text as the spec says are written as they were read.
    """
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import processors

    found = dict(tokenizer.files())
    pipeline = Pipeline.from_str(found[PIPELINE].decode())
    ends = () if spec.kind == "clm" else (spec.eol_id, spec.suffix_id)
    before = [i for i in (spec.prefix_id,) if i is not None]
    after = [i for i in ends if i is not None]
    inner = pipeline.encode("a", add_special_tokens=False).ids
    if pipeline.encode("a").ids != [*before, *inner, *after]:
        names = {i: tokenizer.tokens[i] for i in (*before, *after)}
        parts = [*(names[i] for i in before), "$A", *(names[i] for i in after)]
        second = ["$B:1", *(f"{names[i]}:1" for i in after)]
        pipeline.post_processor = processors.TemplateProcessing(
            single=" ".join(parts),
            pair=" ".join([*parts, *second]),
            special_tokens=[(name, i) for i, name in names.items()],
        )
        found[PIPELINE] = pipeline.to_str().encode()
    if SETTINGS not in found:
        named = {"pad_token": tokenizer.pad_id, "unk_token": tokenizer.unk_id}
        for role in ("cls", "sep", "mask"):
            with contextlib.suppress(UsageError):
                named[f"{role}_token"] = getattr(tokenizer, f"{role}_id")
        settings = {k: tokenizer.tokens[i] for k, i in named.items() if i < len(tokenizer.tokens)}
        if spec.kind == "clm" and "sep_token" in settings:
            settings["eos_token"] = settings["sep_token"]
        found[SETTINGS] = json.dumps(
            {"tokenizer_class": "PreTrainedTokenizerFast", **settings}, indent=1
        ).encode()
    return found


def vocab_file(tokenizer: Tokenizer) -> bytes:
    """The bytes of a WordPiece tokenizer's vocab.txt."""
    return "".join(f"{token}\n" for token in tokenizer.tokens).encode()


def _finish(
    pipeline: Pipeline,
    tokenizer: Tokenizer,
    template: str,
    framing: set[int],
    between: Sequence[int],
) -> None:
    """Give a pipeline the special tokens, the frame around a text and the way back to text.

    between: what stands between the texts of a pair beside their frames.
    """
    from tokenizers import AddedToken, decoders, processors

    special = sorted({*tokenizer.special_ids, *framing, *between})
    pipeline.add_special_tokens(
        [AddedToken(tokenizer.tokens[i], special=True, normalized=False) for i in special]
    )
    named = [(tokenizer.tokens[i], i) for i in special]
    # The second text of a pair has its own end, but no second [CLS].
    second = template.replace("$A", "$B").split(" ")
    second = second[second.index("$B") :]
    middle = [tokenizer.tokens[i] for i in between]
    pair = " ".join([template, *middle, *(f"{part}:1" for part in second)])
    pipeline.post_processor = processors.TemplateProcessing(
        single=template, pair=pair, special_tokens=named
    )
    if isinstance(tokenizer, BpeTokenizer):
        pipeline.decoder = decoders.BPEDecoder(suffix=END)
    else:
        pipeline.decoder = decoders.WordPiece()


def bpe_pipeline(tokenizer: BpeTokenizer) -> Pipeline | None:
    """The `tokenizers` pipeline that splits as a fastBPE tokenizer does; None when none does.

    fastBPE splits a piece that is not in its vocabulary again; in a pipeline every piece that a
    merge makes must have an id.
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
