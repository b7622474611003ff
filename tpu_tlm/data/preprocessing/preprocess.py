"""Text -> a dataset directory: begun, continued, or found complete."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import CorpusConfig, PairsConfig, PreprocessConfig, TokenizerConfig
from tpu_tlm.data.corpus.documents import BadInput, Part
from tpu_tlm.data.corpus.inputs import (
    PART_BYTES,
    InputFile,
    InputReport,
    about_columns,
    about_growth,
    expand_inputs,
    plan_parts,
)
from tpu_tlm.data.dataset.dataset import TOKENIZER, WORK
from tpu_tlm.data.dataset.metadata import read_metadata
from tpu_tlm.data.made_from import differences
from tpu_tlm.data.preprocessing import options, pipeline, provenance, work_dir
from tpu_tlm.data.preprocessing.summary import summary, warnings
from tpu_tlm.data.preprocessing.worker import PreprocessJob
from tpu_tlm.data.processes import usable_cores
from tpu_tlm.data.share import CompleteElsewhere, Share, poll_seconds, wait_until
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import TlmError, UsageError

SMALLEST_PART, PARTS = 256 << 10, 64
# Keys of `md.yml` that are taken over from `made_from`.
_SHARED = "nctx pack prefix suffix tok_on_eol shuffle seed valid_fraction".split()


@dataclass
class PreprocessResult:
    """The datasets' directories by split, whether they were complete before, and what was made.

    `lines`: the summary; `warnings`: what the user should look at.
    """

    directories: dict[str, str]
    complete_before: bool = False
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def preprocess(
    corpus: CorpusConfig,
    tokens: TokenizerConfig,
    config: PreprocessConfig,
    pairs: PairsConfig,
    notice: Callable[[str], None] = lambda text: None,
) -> PreprocessResult:
    """Make the dataset that the options describe, or continue one that was interrupted.

    `notice` is called with one line about leftovers. Raises `UsageError` for options, input or an
    output that cannot be used, `TlmError` for a failure after which the same call continues.
    """
    options.check(corpus, config, pairs)
    started = time.monotonic()
    report = InputReport()
    inputs = expand_inputs(corpus, report)
    tokenizer = make_tokenizer(tokens)
    for note in tokenizer.notes:
        notice(note)
    rule = options.pair_rule_of(corpus, config, pairs, tokenizer)
    report.notes += about_columns(inputs, corpus, rule is not None)
    packing = options.packing_of(config, tokenizer, pairs=rule is not None)
    base = config.output.rstrip("/")
    splits = {"all": base}
    if config.valid_fraction:
        splits = {"train": f"{base}/train", "valid": f"{base}/valid"}
    made_from = provenance.made_from(corpus, config, pairs if rule else None, tokenizer, inputs)
    share = Share(config.index, config.of, lambda: _finished(base, splits, made_from) is not None)
    work = work_dir.work_path(config.output, config.work_dir, share.of > 1)
    changed = provenance.newest_change(inputs)
    if (before := _finished(base, splits, made_from)) is not None:
        if work_dir.remove_finished(work):
            notice(f"{work}: left by an interrupted run, removed")
        if before != changed:
            notice("input files were written again since; size and sampled content are the same")
        return PreprocessResult(splits, complete_before=True)
    lock = work_dir.OutputLock(base, shared=share.of > 1)
    try:
        directory = work_dir.WorkDirectory(work, share, notice)
        try:
            if share.leads:
                keep = f"{directory.path}/{TOKENIZER}"
                if reason := directory.claim(made_from, lambda: tokenizer.save(keep)):
                    notice(f"leftovers of another preprocessing removed ({reason})")
            begun, seconds = (lambda: directory.holds(made_from)), poll_seconds(work)
            wait_until(begun, "process 0 to begin", notice, share, seconds)
            job = PreprocessJob(
                work=directory.path,
                splits=splits,
                packing=packing,
                vocab_size=len(tokenizer.tokens),
                unk_id=tokenizer.unk_id,
                json_field=corpus.json_field,
                strict=corpus.strict,
                document=corpus.document,
                text_column=corpus.text_column,
                shuffle=config.shuffle,
                seed=config.seed,
                valid_fraction=config.valid_fraction,
                pairs=rule,
            )
            size = sum(file.size for file in inputs)
            parts = parts_of(inputs)
            metadata: dict[str, Any] = {name: made_from[name] for name in _SHARED}
            if rule is not None:
                metadata |= options.pair_metadata(pairs, rule, tokenizer)
            metadata |= {"made_from": made_from, "input_changed": changed}
            largest = config.max_file_size * (1 << 20)
            if config.runner == "beam":
                made = _by_beam(job, tokenizer, parts, largest, report.bad, metadata, config)
            else:
                made = pipeline.run(
                    job,
                    tokenizer,
                    parts,
                    config.workers or usable_cores(),
                    largest,
                    report.bad,
                    share,
                    notice,
                )
                if not share.leads:
                    done = f"process {share.index} of {share.of}: its parts and shards are written"
                    return PreprocessResult(splits, lines=[f"{done}; process 0 writes md.yml"])
                pipeline.finish(job, tokenizer, made, metadata)
            directory.remove()
        except (CompleteElsewhere, TlmError, OSError):
            # Process 0 removes the work directory at its end, also from under this process.
            if share.leads or not share.complete():
                raise
            done = f"process {share.index} of {share.of}: the dataset is complete"
            return PreprocessResult(splits, lines=[done])
        finally:
            directory.close()
            if not share.leads and share.complete():
                work_dir.remove_finished(work)
    finally:
        lock.close()
    report.notes += about_growth(inputs)
    seconds = time.monotonic() - started
    lines = summary(job, made, len(inputs), size, report.notes, seconds)
    return PreprocessResult(splits, lines=lines, warnings=warnings(made, tokenizer))


def _by_beam(
    job: PreprocessJob,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    max_shard_bytes: float,
    bad: BadInput,
    metadata: dict[str, Any],
    config: PreprocessConfig,
) -> pipeline.Made:
    """The dataset by a Beam pipeline, whose workers find the tokenizer beside the output."""
    from tpu_tlm.data.preprocessing import beam

    apart = filesystem.is_remote(config.output) and not filesystem.is_remote(job.work)
    if apart:
        job = dataclasses.replace(job, work=f"{config.output.rstrip('/')}/{WORK}")
        tokenizer.save(f"{job.work}/{TOKENIZER}")
    made = beam.run(job, parts, max_shard_bytes, bad, metadata, config.beam_options)
    if apart:
        filesystem.remove_tree(job.work)
    return made


def parts_of(inputs: Sequence[InputFile]) -> list[Part]:
    """The parts of a corpus that processes share; they depend on the files only."""
    size = sum(file.size for file in inputs)
    return plan_parts(inputs, min(PART_BYTES, max(SMALLEST_PART, size // PARTS)))


def _finished(base: str, splits: dict[str, str], made_from: dict[str, Any]) -> str | None:
    """When the newest input of the complete output was changed ("" where unknown), else None.

    Raises `UsageError` when the output holds a complete dataset of another making.
    """
    complete: dict[str, str] = {}
    for directory in (base, f"{base}/train", f"{base}/valid"):
        metadata = read_metadata(directory)
        if metadata is None:
            continue
        old = metadata.get("made_from")
        if old != made_from or directory not in splits.values():
            reason = "by another program"
            if isinstance(old, dict):
                reason = differences(old, made_from) or "other splits"
            raise UsageError(
                f"{directory}: already holds a dataset, made differently ({reason}): "
                "take another --output or remove it"
            )
        complete[directory] = str(metadata.get("input_changed") or "")
    return next(iter(complete.values())) if set(complete) == set(splits.values()) else None
