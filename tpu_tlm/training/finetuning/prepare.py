"""From options to the parts of a fine-tuning run: data, task, head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.errors import OptionError, UsageError
from tpu_tlm.formats.classifier import SEQUENCE, TOKEN
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks import labels as labelling
from tpu_tlm.tasks.base import Task
from tpu_tlm.tasks.entities import broken, scheme_in
from tpu_tlm.tasks.examples import RULES, Examples, Framer
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import task_spec
from tpu_tlm.tasks.options import FinetuneOptions
from tpu_tlm.tasks.read import Row, read_rows
from tpu_tlm.tasks.registry import TASKS
from tpu_tlm.training.finetuning.source import Source

# Format of the description of a task in a checkpoint.
FORMAT = 1


@dataclass(frozen=True)
class Split:
    """Rows of one file, or of a part of it, and their examples."""

    name: str
    rows: list[Row]
    examples: Examples


@dataclass(frozen=True)
class Prepared:
    """The parts of a run. `fingerprint`: of the data."""

    task: Task
    spec: ModelSpec
    head: HeadSpec
    framer: Framer
    train: Split
    valid: Split
    test: Split | None
    fingerprint: str


def _say_cut(split: Split, framer: Framer) -> None:
    examples = split.examples
    if examples.cut:
        way = "" if framer.pairs or examples.words is not None else "; --stride keeps all of a text"
        print(
            f"{split.name}: {examples.cut:,} of {examples.rows:,} texts are longer than "
            f"{framer.max_length} tokens and were cut{way}"
        )
    elif len(examples.ids) > examples.rows:
        print(f"{split.name}: {examples.rows:,} texts in {len(examples.ids):,} windows")


def _check_tags(rows: Sequence[Row], scheme: str | None, path: str) -> None:
    """Warn of tags that break the scheme of the training data."""
    if scheme is None:
        return
    wrong = [(row, at) for row in rows if (at := broken(row.label, scheme))]
    if wrong:
        lines = [row.lines[i] if row.lines else row.line for row, at in wrong for i in at]
        own = list(dict.fromkeys(lines))
        shown = ", ".join(map(str, own[:5])) + (", ..." if len(own) > 5 else "")
        print(
            f"warning: {path}: {len(wrong)} sentences have tags that {scheme} does not allow in "
            f"their place (an entity that begins inside or does not end; lines {shown})"
        )


def _check_schemes(splits: Sequence[tuple[Sequence[Row], str | None]]) -> None:
    """Say what scheme the tags of the first split have, and warn of tags in any that break it."""
    scheme = scheme_in([row.label for row in splits[0][0]])
    if scheme == "IOB1":
        print(
            f"{splits[0][1]}: the tags are IOB1 (an entity begins with I, with B only behind one "
            "of its type); entities are counted by that"
        )
    for rows, path in splits:
        if path is not None:
            _check_tags(rows, scheme, path)


def pairs_of(task: str, text2: str | None, pair_encoder: str) -> str | None:
    """How two texts are encoded, None where there is one."""
    return pair_encoder if text2 is not None or task == "pair" else None


def make_head(options: FinetuneOptions, task: Task, source: Source) -> HeadSpec:
    """The head of a task on a model; says what `auto` pooling means.

    It is that of the model's family in `transformers`, if `pooling` and `hidden` allow it.
    """
    head, pooling = options.head, options.head.pooling
    if pooling == "auto":
        pooling = "cls" if source.pooler else "last" if source.spec.kind == "clm" else "mean"
        if not task.per_token:
            why = {
                "cls": "the model has BERT's pooler",
                "last": "the model is causal",
                "mean": "the model has no pooler",
            }
            print(f"pooling {pooling}: {why[pooling]}")
    framed = source.spec.prefix_id is not None
    if pooling == "cls" and not task.per_token and not framed:
        print("note: pooling cls: no [CLS] stands before a text, so its first token is taken")
    pairs = pairs_of(task.name, options.data.text2, head.pair_encoder)
    made = HeadSpec(
        task.outputs,
        tokens=task.per_token,
        pooling="last" if pooling == "decoder" else pooling,
        hidden=tuple(head.hidden),
        dropout=head.head_dropout,
        shared=pairs == "shared",
    )
    if pooling == "decoder":
        return replace(made, pooler=True)
    return _as_elsewhere(made, task, source)


def _as_elsewhere(made: HeadSpec, task: Task, source: Source) -> HeadSpec:
    """The head with the layers and without the biases of its family's own head."""
    pooler = made.pooling == "cls" and bool(source.pooler) and not task.per_token
    form = source.forms.get(TOKEN if task.per_token else SEQUENCE)
    ours = form.classifier if form is not None else None
    alike = made.tokens or (ours is not None and ours.pooling == made.pooling)
    if form is None or ours is None or made.hidden or made.shared or not alike:
        return replace(made, pooler=pooler)
    # The mean of the numbers of a regression is its last layer's bias.
    made = replace(made, bias=form.bias or task.name == "regress")
    if ours.dense is None:
        return made
    if not pooler:
        print(f"a new dense layer before the labels, as in {form.model_class}")
    return replace(
        made,
        pooler=True,
        activation=ours.activation or "linear",
        norm=ours.norm_eps if ours.norm is not None else None,
        pooler_bias=form.dense_bias or pooler,
        norm_bias=form.norm_bias,
        fresh=not pooler,
    )


def make_task(options: FinetuneOptions, rows: Sequence[Row], path: str) -> Task:
    """The task with the label set (or the scale) of the training rows."""
    kind = TASKS[options.run.task]
    found = labelling.label_set(kind.name, rows, path)
    weights = None
    if options.head.class_weights == "balanced":
        number = labelling.counts(kind.name, rows, found)
        if kind.name == "multilabel":
            positive = np.maximum(number, 1)
            weights = np.maximum((len(rows) - number) / positive, 1e-3).astype(np.float32)
        else:
            weights = labelling.balanced_weights(number)
    scale = (0.0, 1.0)
    if kind.name == "regress":
        values = np.array([row.label for row in rows])
        scale = (float(values.mean()), float(values.std()) or 1.0)
    return kind(found, weights, scale)


def _rows(options: FinetuneOptions) -> tuple[list[Row], list[Row], str]:
    """Training rows, validation rows, and where the latter are from."""
    run, data = options.run, options.data
    rows = read_rows(run.train, run.task, data)
    if run.valid is not None:
        return rows, read_rows(run.valid, run.task, data), run.valid
    train, valid = labelling.held_out(run.task, rows, run.valid_share, options.fit.seed)
    if not valid:
        raise UsageError(
            f"{run.train}: of {len(rows)} examples none can be held out (--valid_share "
            f"{run.valid_share:g}; texts that occur twice stay in training); give --valid"
        )
    kind = "stratified by label" if run.task in ("classify", "pair") else "drawn at random"
    print(
        f"no --valid: {len(valid):,} of {len(rows):,} examples of {run.train} are held out, "
        f"{kind} (--seed {options.fit.seed})"
    )
    return train, valid, run.train


def prepare(options: FinetuneOptions, source: Source) -> Prepared:
    """Read and tokenize the data; make task and head.

    Raises `UsageError` naming file, line or flag of what cannot be used.
    """
    run, data, head = options.run, options.data, options.head
    train, valid, valid_path = _rows(options)
    task = make_task(options, train, run.train)
    print(f"{len(train):,} training examples; {labelling.balance(task.name, train, task.labels)}")
    labelling.check_known(task.name, valid, task.labels, valid_path)
    test = read_rows(run.test, run.task, data) if run.test else None
    if test is not None:
        labelling.check_known(task.name, test, task.labels, run.test or "")
    if task.name == "tag":
        _check_schemes([(train, run.train), (valid, run.valid), (test or [], run.test)])
    spec = task_spec(source.spec, head.dropout)
    if head.freeze > spec.config.num_layers:
        raise OptionError(f"--freeze {head.freeze}: the model has {spec.config.num_layers} blocks")
    framer = Framer(
        spec,
        source.tokenizer,
        max_length=data.max_length,
        stride=data.stride,
        pairs=pairs_of(task.name, data.text2, head.pair_encoder),
    )
    if head.pooling == "decoder" and (fault := framer.end_fault()):
        raise OptionError(f"--pooling decoder: {fault}")
    splits: list[Split | None] = []
    for name, rows in (("training", train), ("validation", valid), ("test", test)):
        split = None if rows is None else Split(name, rows, framer(rows))
        if split is not None:
            _say_cut(split, framer)
        splits.append(split)
    content = [[(r.text, r.text2, r.label) for r in rows] for rows in (train, valid)]
    fingerprint = filesystem.sha256(
        json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    )
    assert splits[0] is not None and splits[1] is not None
    return Prepared(
        task,
        spec,
        make_head(options, task, source),
        framer,
        splits[0],
        splits[1],
        splits[2],
        fingerprint,
    )


def describe(prepared: Prepared) -> dict[str, Any]:
    """JSON values from which `predict` rebuilds task, head and framing."""
    task, framer = prepared.task, prepared.framer
    return {
        "format": FORMAT,
        "task": task.name,
        "labels": task.labels,
        "scale": list(task.scale),
        "head": prepared.head.to_dict(),
        "max_length": framer.max_length,
        "stride": framer.stride,
        "pairs": framer.pairs,
        "rules": RULES,
    }
