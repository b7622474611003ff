"""`python -m tpu_tlm.vocab`: learn a subword vocabulary from text."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tpu_tlm.config import CorpusConfig, VocabConfig
from tpu_tlm.config.cli import parse
from tpu_tlm.errors import run_command

if TYPE_CHECKING:
    from tpu_tlm.data.tokenizers.base import Tokenizer

DESCRIPTION = """Learn a subword vocabulary from text.

bpe: `codes` (left right count) and `vocab` (piece count) as fastBPE reads them. wordpiece: a BERT
`vocab.txt`. byte-bpe and unigram: a `tokenizer.json`. The output directory is a tokenizer directory
that `transformers` reads, too. The same text and options give the same bytes, whatever the number
of workers."""


def main(argv: list[str] | None = None) -> int:
    """Learn, write the files, print a summary."""
    corpus, config = parse("tpu_tlm.vocab", DESCRIPTION, (CorpusConfig, VocabConfig), argv)
    from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary

    for line in learn_vocabulary(corpus, config, _huggingface_files).lines:
        print(line)
    return 0


def _huggingface_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Files that `transformers` reads, where the tokenizer's own are others."""
    if tokenizer.kind == "hf":
        return {}
    from tpu_tlm.formats.huggingface.tokenizer import tokenizer_files

    bert = tokenizer.kind == "wordpiece"
    frame: Any = SimpleNamespace(
        prefix_id=tokenizer.cls_id if bert else None,
        suffix_id=tokenizer.sep_id if bert else None,
        eol_id=None,
        seq_length=512,
    )
    files, _ = tokenizer_files(tokenizer, frame)
    return {name: data for name, data in files.items() if name not in tokenizer.files()}


if __name__ == "__main__":
    sys.exit(run_command(main))
