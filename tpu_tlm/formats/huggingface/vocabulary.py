"""Files that let `transformers` read a learned vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpu_tlm.config import ModelConfig
from tpu_tlm.formats.huggingface.tokenizer_write import tokenizer_files
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    from tpu_tlm.data.tokenizers.base import Tokenizer


def vocabulary_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Name -> bytes of the files of a tokenizer directory, besides the tokenizer's own.

    Framing is that of BERT for WordPiece, none for fastBPE. Where `transformers` splits a text
    otherwise, a line of the tokenizer's `notes` says it.
    """
    if tokenizer.kind == "hf":
        return {}
    bert = tokenizer.kind == "wordpiece"
    frame = ModelSpec(
        ModelConfig(),
        len(tokenizer.tokens),
        seq_length=512,
        prefix_id=tokenizer.cls_id if bert else None,
        suffix_id=tokenizer.sep_id if bert else None,
    )
    files, notes = tokenizer_files(tokenizer, frame)
    tokenizer.notes = (*tokenizer.notes, *notes)
    return {name: data for name, data in files.items() if name not in tokenizer.files()}
