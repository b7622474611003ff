"""`python -m tpu_tlm.preprocess`: text -> token ids -> shuffled examples -> a dataset directory."""

from __future__ import annotations

import sys

from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig, TokenizerConfig
from tpu_tlm.config.cli import parse
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import outlive_output, run_command

DESCRIPTION = """Turn text into a dataset directory that training reads.

Lines are tokenized, packed into examples of --seq_length tokens, shuffled over the whole corpus on
disk, and written as shards with md.yml and the tokenizer beside them. The same input and options
give the same bytes for any --workers. A killed run is continued by the same command; until it is
complete the output is no dataset."""


def main(argv: list[str] | None = None) -> int:
    """Preprocess, or continue, or report that the output is complete; print a summary."""
    if (code := pid1.run_below(argv)) is not None:
        return code
    outlive_output()
    classes = (CorpusConfig, TokenizerConfig, PreprocessConfig, PairsConfig)
    corpus, tokens, config, pairs = parse("tpu_tlm.preprocess", DESCRIPTION, classes, argv)
    from tpu_tlm.data.processes import prepare, usable_cores

    if (config.workers or usable_cores()) > 1:
        # Started first: the server imports while this process looks at the input.
        needs_tensorflow = ["tensorflow"] if "://" in config.output else []
        prepare(["tpu_tlm.data.preprocessing.worker", "tokenizers", *needs_tensorflow])
    from tpu_tlm.data.preprocessing.preprocess import preprocess

    if config.tokenizer is not None:
        from tpu_tlm.formats.tokenizer_source import with_tokenizer_of

        tokens, config, taken = with_tokenizer_of(tokens, config)
        print(taken)
    result = preprocess(corpus, tokens, config, pairs, notice=_to_stderr)
    if result.complete_before:
        print(
            f"{config.output}: is already there, made from the same input with the same options: "
            "nothing to do"
        )
    for line in result.lines:
        print(line)
    for warning in result.warnings:
        _to_stderr(f"warning: {warning}")
    return 0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
