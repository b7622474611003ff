"""`python -m tpu_tlm.preprocess`: text -> token ids -> shuffled examples -> a dataset directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig, TokenizerConfig
from tpu_tlm.config.cli import parse
from tpu_tlm.config.options import options_in
from tpu_tlm.errors import UsageError, run_command

if TYPE_CHECKING:
    from tpu_tlm.data.corpus.inputs import InputFile
    from tpu_tlm.data.preprocessing.packing import Packing
    from tpu_tlm.data.preprocessing.pairs import PairRule
    from tpu_tlm.data.preprocessing.pipeline import Made
    from tpu_tlm.data.tokenizers.base import Tokenizer

_PIPELINE = 1  # raised when the same input and options come to give other examples
_SMALLEST_PART, _PARTS = 256 << 10, 64

DESCRIPTION = """Turn text into a dataset directory that training reads.

Lines are tokenized, packed into examples of --seq_length tokens, shuffled over the whole corpus on disk, and written as shards
with md.yml and the tokenizer beside them. The same input and options give the same bytes for any --workers. A killed run is
continued by the same command; until it is complete the output is no dataset."""


def main(argv: list[str] | None = None) -> int:
    """Preprocess, or continue, or say that it is done; print a summary."""
    classes = (CorpusConfig, TokenizerConfig, PreprocessConfig, PairsConfig)
    corpus, tokens, config, pairs = parse("tpu_tlm.preprocess", DESCRIPTION, classes, argv)
    _check_pairs(pairs)
    workers = config.workers or len(os.sched_getaffinity(0))
    if workers > 1:
        from tpu_tlm.data.preprocessing.start_method import prepare

        prepare(
            [
                "tpu_tlm.data.preprocessing.worker",
                "tokenizers",
                *(["tensorflow"] if "://" in config.output else []),
            ]
        )
    from tpu_tlm.data.corpus.inputs import PART_BYTES, expand_inputs, plan_parts
    from tpu_tlm.data.preprocessing import pipeline, work_dir
    from tpu_tlm.data.preprocessing.worker import PreprocessJob
    from tpu_tlm.data.tokenizers.factory import make_tokenizer

    started = time.monotonic()
    inputs = expand_inputs(corpus)
    tokenizer = make_tokenizer(tokens)
    packing = _packing(config, tokenizer)
    rule = _pair_rule(corpus, config, pairs, tokenizer)
    if rule is not None:
        packing = dataclasses.replace(packing, eol=None)
    base = config.output.rstrip("/")
    splits = (
        {"train": f"{base}/train", "valid": f"{base}/valid"}
        if config.valid_fraction
        else {"all": base}
    )
    made_from = _made_from(corpus, config, tokenizer, inputs) | (
        dataclasses.asdict(pairs) if rule else {}
    )
    if _finished(base, splits, made_from):
        print(
            f"{config.output}: is already there, made from the same input with the same options: nothing to do"
        )
        return 0
    size = sum(file.size for file in inputs)
    parts = plan_parts(inputs, min(PART_BYTES, max(_SMALLEST_PART, size // _PARTS)))
    directory = work_dir.WorkDirectory(work_dir.work_path(config.output, config.work_dir))
    try:
        if reason := directory.claim(made_from):
            print(f"leftovers of another preprocessing removed ({reason})", file=sys.stderr)
        job = PreprocessJob(
            work=directory.path,
            splits=splits,
            packing=packing,
            vocab_size=len(tokenizer.tokens),
            json_field=corpus.json_field,
            strict=corpus.strict,
            shuffle=config.shuffle,
            seed=config.seed,
            valid_fraction=config.valid_fraction,
            pairs=rule,
        )
        made = pipeline.run(job, tokenizer, parts, workers, config.max_file_size * (1 << 20))
        told = {
            name: made_from[name]
            for name in (
                "nctx",
                "pack",
                "prefix",
                "suffix",
                "tok_on_eol",
                "shuffle",
                "seed",
                "valid_fraction",
            )
        }
        if rule is not None:
            told |= _told_of_pairs(pairs, rule, tokenizer)
        pipeline.finish(job, tokenizer, made, {**told, "made_from": made_from})
        directory.remove()
    finally:
        directory.close()
    _report(job.splits, made, rule, len(inputs), size, time.monotonic() - started)
    return 0


def _id_of(tokenizer: Tokenizer, flag: str, token: str | None) -> int | None:
    if token is None:
        return None
    if token == "<EOS>" and tokenizer.kind == "wordpiece":
        return tokenizer.sep_id
    found = tokenizer.id_of(token)
    if found is None:
        mend = (
            " (add it to --extra_tokens)"
            if tokenizer.kind == "bpe" and token.startswith(("<", "["))
            else ""
        )
        raise UsageError(f"--{flag} {token}: the vocabulary has no such token{mend}")
    return found


def _packing(config: PreprocessConfig, tokenizer: Tokenizer) -> Packing:
    from tpu_tlm.data.preprocessing.packing import Packing

    return Packing(
        seq_length=config.seq_length,
        pad_id=tokenizer.pad_id,
        prefix=_id_of(tokenizer, "prefix", config.prefix),
        suffix=_id_of(tokenizer, "suffix", config.suffix),
        eol=_id_of(tokenizer, "tok_on_eol", config.eol_token),
        documents=config.packing == "documents",
    )


def _check_pairs(pairs: PairsConfig) -> None:
    if pairs.pairs == "none":
        return
    wanted = {"tsv": (0, 2), "ntp": (0, 1), "nsp": (0,)}[pairs.pairs]
    if len(pairs.pair_columns) not in wanted or "0" in pairs.pair_columns:
        raise UsageError(
            f"--pair_columns {' '.join(pairs.pair_columns)}: --pairs {pairs.pairs} takes {wanted[-1]} of them, numbers from 1"
        )


def _pair_rule(
    corpus: CorpusConfig, config: PreprocessConfig, pairs: PairsConfig, tokenizer: Tokenizer
) -> PairRule | None:
    if pairs.pairs == "none":
        return None
    from tpu_tlm.data.corpus.pair_rows import RowRule
    from tpu_tlm.data.preprocessing.packing import Packing
    from tpu_tlm.data.preprocessing.pairs import PairRule

    y = Packing(
        seq_length=config.seq_length if pairs.seq_length_y is None else pairs.seq_length_y,
        pad_id=tokenizer.pad_id,
        prefix=_id_of(tokenizer, "y_prefix", pairs.y_prefix),
        suffix=_id_of(tokenizer, "y_suffix", pairs.y_suffix),
        flag="--seq_length_y",
    )
    turn = None
    if pairs.pairs == "ntp" and not pairs.last_turn_only:
        stands_in = (
            tokenizer.kind == "wordpiece"
            and pairs.turn_sep == "<EOU>"
            and tokenizer.id_of("<EOU>") is None
        )
        turn = tokenizer.sep_id if stands_in else _id_of(tokenizer, "turn_sep", pairs.turn_sep)
    return PairRule(
        RowRule(pairs.pairs, tuple(pairs.pair_columns), corpus.json_field, corpus.strict),
        y,
        turn,
        pairs.last_turn_only,
    )


def _told_of_pairs(pairs: PairsConfig, rule: PairRule, tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys of `md.yml` that tell how pairs were made."""
    frame = {
        "y_prefix": pairs.y_prefix,
        "y_suffix": pairs.y_suffix,
        "turn_sep": None if rule.turn is None else tokenizer.tokens[rule.turn],
    }
    return {
        "pack": None,
        "tok_on_eol": None,
        "pairs": pairs.pairs,
        "nctx_y": rule.y.seq_length,
        **frame,
        "last_turn_only": rule.last_turn_only,
    }


# Options that `md.yml` (format 1) records under an older name.
_KEYS = {"seq_length": "nctx", "eol_token": "tok_on_eol", "packing": "pack"}


def _made_from(
    corpus: CorpusConfig,
    config: PreprocessConfig,
    tokenizer: Tokenizer,
    inputs: Sequence[InputFile],
) -> dict[str, Any]:
    """All that the bytes of the dataset depend on; input files by name, size and time of change."""
    listing = [
        (file.path, file.size, None if "://" in file.path else os.stat(file.path).st_mtime_ns)
        for file in inputs
    ]
    options = {
        _KEYS.get(name, name): value
        for name, value in dataclasses.asdict(config).items()
        if options_in(PreprocessConfig)[name].declared.shapes_data
    }
    return {
        "pipeline": _PIPELINE,
        "files": len(inputs),
        "bytes": sum(file.size for file in inputs),
        "listing": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
        "tokenizer": tokenizer.fingerprint(),
        "json_field": corpus.json_field,
        **options,
    }


def _finished(base: str, splits: dict[str, str], made_from: dict[str, Any]) -> bool:
    """Whether the output is complete; `UsageError` when a finished dataset of other making is there."""
    from tpu_tlm.data.dataset.metadata import read_metadata
    from tpu_tlm.data.preprocessing.work_dir import differences

    complete = set()
    for directory in (base, f"{base}/train", f"{base}/valid"):
        metadata = read_metadata(directory)
        if metadata is None:
            continue
        old = metadata.get("made_from")
        if old != made_from or directory not in splits.values():
            told = differences(old, made_from) if isinstance(old, dict) else "by another program"
            raise UsageError(
                f"{directory}: already holds a dataset, made differently ({told}): take another --output or remove it"
            )
        complete.add(directory)
    return complete == set(splits.values())


def _report(
    splits: dict[str, str], made: Made, rule: PairRule | None, files: int, size: int, seconds: float
) -> None:
    if made.kept_parts or made.kept_shards:
        print(
            f"continued  {made.kept_parts:,} parts and {made.kept_shards:,} shards were there from before"
        )
    text = sum(counts.text_bytes for counts in made.counts.values())
    print(f"read       {files:,} files, {size / 1e6:,.1f} MB, {text / 1e6:,.1f} MB of text")
    for split, directory in splits.items():
        counts, shards = made.counts[split], made.shards[split]
        examples, stored = (
            sum(shard.samples for shard in shards),
            sum(shard.bytes for shard in shards),
        )
        print(
            f"wrote      {directory}: {counts.documents:,} documents, {counts.lines:,} lines, {counts.tokens:,} tokens, "
            f"{examples:,} examples, {len(shards):,} shards, {stored / 1e6:,.1f} MB"
        )
        if counts.cut_x or counts.cut_y:
            side = "end" if rule is not None and rule.rows.kind == "tsv" else "beginning"
            print(
                f"too long   {split}: {counts.cut_x:,} first texts lost their {side}, {counts.cut_y:,} second texts their end"
            )
    for line in made.bad.summary():
        print(f"bad input  {line}")
    print(f"time       {seconds:,.1f} s, {size / 1e6 / seconds:.1f} MB/s")


if __name__ == "__main__":
    sys.exit(run_command(main))
