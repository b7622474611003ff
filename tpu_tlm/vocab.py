"""`python -m tpu_tlm.vocab`: learn a subword vocabulary from text."""

from __future__ import annotations

import sys

from tpu_tlm.config import CorpusConfig, VocabConfig
from tpu_tlm.config.cli import parse
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import outlive_output, run_command

DESCRIPTION = """Learn a subword vocabulary from text.

bpe: `codes` (left right count) and `vocab` (piece count) as fastBPE reads them. wordpiece: a BERT
`vocab.txt`. byte-bpe and unigram: a `tokenizer.json`. The output directory is a tokenizer directory
that `transformers` reads, too. The same text and options give the same bytes, whatever the number
of workers, on one machine or, with --index and --of or --runner beam, on many."""


def main(argv: list[str] | None = None) -> int:
    """Learn, write the files, print a summary."""
    if (code := pid1.run_below(argv)) is not None:
        return code
    outlive_output()
    corpus, config = parse("tpu_tlm.vocab", DESCRIPTION, (CorpusConfig, VocabConfig), argv)
    from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary
    from tpu_tlm.formats.huggingface.vocabulary import vocabulary_files

    for line in learn_vocabulary(corpus, config, vocabulary_files, _to_stderr).lines:
        print(line)
    return 0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
