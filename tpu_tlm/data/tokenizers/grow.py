"""Growing a vocabulary: words that a tokenizer splits become tokens of their own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.hf import PIPELINE, SETTINGS, HfTokenizer
from tpu_tlm.data.tokenizers.hf_files import settings_json
from tpu_tlm.data.tokenizers.text_files import lines_of
from tpu_tlm.data.tokenizers.word_counts import UNSEGMENTED
from tpu_tlm.data.tokenizers.wordpiece import WordPieceTokenizer, bert_pipeline
from tpu_tlm.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Pipeline

_FLAG = "--add_tokens"
_BERT_NAMES = ("pad", "unk", "cls", "sep", "mask")
# A token that begins and ends as a word does is matched as a whole word only: `art` is not found
# in `start`.
_WORD = re.compile(r"\w(.*\w)?", re.DOTALL)


def read_tokens(path: str) -> list[str]:
    """The tokens in a file, one a line; blank lines are left out.

    Raises `UsageError` naming file and line for a token that stands there twice or has white space
    at an end.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(lines_of(filesystem.read_bytes(path), path), 1):
        token = line.removesuffix("\r")
        if not token.strip():
            continue
        if token != token.strip():
            raise UsageError(f"{_FLAG} {path}:{number}: {token!r} has white space at an end")
        if token in found:
            raise UsageError(
                f"{_FLAG} {path}:{number}: {token!r} stands in line {found[token]} too"
            )
        found[token] = number
    if not found:
        raise UsageError(f"{_FLAG} {path}: holds no token: write one token a line")
    return list(found)


def grow(tokenizer: Tokenizer, tokens: list[str], path: str) -> HfTokenizer:
    """The tokenizer with further tokens after its last id; those that it has are in its notes.

    The new ones are found in a text before it is split, as `add_tokens` of `transformers` does it.
    Tokens of letters and digits are matched as whole words, except in scripts without spaces
    between words. path: of the file with the tokens. Raises `UsageError` where no token is new, for
    one that would not be found in a text, and for tokenizers whose files hold none (fastBPE,
    a SentencePiece model without a tokenizer.json).
    """
    from tokenizers import AddedToken

    if type(tokenizer) is HfTokenizer:
        pipeline, contents = tokenizer.pipeline_copy(), tokenizer.files()
    elif isinstance(tokenizer, WordPieceTokenizer):
        pipeline, contents = _bert_parts(tokenizer)
    else:
        raise UsageError(
            f"{_FLAG} {path}: the files of this tokenizer cannot hold further tokens: convert the "
            "model with `python -m tpu_tlm.convert MODEL DIR --to hf`, and give DIR as --vocab and "
            "--init_from"
        )
    if piece := next((token for token in tokens if _is_piece(token, tokenizer)), None):
        raise UsageError(
            f"{_FLAG} {path}: {piece!r} is a piece: write words as they stand in the text"
        )
    known = [token for token in tokens if tokenizer.id_of(token) is not None]
    new = [token for token in tokens if tokenizer.id_of(token) is None]
    if not new:
        raise UsageError(f"{_FLAG} {path}: all {len(known)} tokens are in the vocabulary already")
    pipeline.add_tokens(
        [AddedToken(token, single_word=_is_word(token), special=False) for token in new]
    )
    first = len(tokenizer.tokens)
    if [pipeline.token_to_id(token) for token in new] != list(range(first, first + len(new))):
        raise UsageError(f"{_FLAG} {path}: this tokenizer.json has ids without tokens")
    contents[PIPELINE] = str(pipeline.to_str(pretty=False)).encode()
    grown = HfTokenizer({**contents, **_without_old_tokens(contents)}, name=path)
    for index, token in enumerate(new, first):
        if index not in grown.encode(token):
            raise UsageError(
                f"{_FLAG} {path}: {token!r} is not found in a text: another token that is equal to "
                "it after normalization, or a part of it, is found first: remove one of them"
            )
    if known:
        grown.notes = (
            f"{_FLAG} {path}: {len(known):,} of {len(tokens):,} tokens are in the vocabulary "
            f"already and were left out (the first: {known[0]!r})",
        )
    return grown


def _is_piece(token: str, tokenizer: Tokenizer) -> bool:
    """Whether a token is written with the mark that pieces of this vocabulary have."""
    return any(
        len(token) > len(mark)
        and token.startswith(mark)
        and any(other.startswith(mark) and other != mark for other in tokenizer.tokens)
        for mark in ("##", "\u2581", "\u0120")
    )


def _is_word(token: str) -> bool:
    return _WORD.fullmatch(token) is not None and not UNSEGMENTED.search(token)


def _without_old_tokens(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The settings without their own list of added tokens, which tokenizer.json holds."""
    settings: dict[str, Any] = json.loads(contents.get(SETTINGS, b"{}").decode("utf-8-sig"))
    if "added_tokens_decoder" not in settings:
        return {}
    del settings["added_tokens_decoder"]
    return {SETTINGS: (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()}


def _bert_parts(tokenizer: WordPieceTokenizer) -> tuple[Pipeline, dict[str, bytes]]:
    """BERT's pipeline and settings."""
    from tokenizers import AddedToken, decoders, processors

    pipeline = bert_pipeline(
        {token: i for i, token in enumerate(tokenizer.tokens)}, tokenizer.cased
    )
    roles = {f"{name}_token": f"[{name.upper()}]" for name in _BERT_NAMES}
    pipeline.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in roles.values()]
    )
    pipeline.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls_id), ("[SEP]", tokenizer.sep_id)],
    )
    pipeline.decoder = decoders.WordPiece()
    settings = settings_json(
        "BertTokenizer",
        roles,
        do_lower_case=not tokenizer.cased,
        tokenize_chinese_chars=True,
        strip_accents=None,
        clean_up_tokenization_spaces=False,
    )
    return pipeline, {SETTINGS: settings}
