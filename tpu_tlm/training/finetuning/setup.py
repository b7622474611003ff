"""From options to the parts that train: batches in buckets, and the step."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tpu_tlm.config import OptimConfig
from tpu_tlm.errors import OptionError
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.tasks.batches import (
    Bucket,
    Plan,
    bucket_lengths,
    make_buckets,
    make_plan,
    mixed_batches,
    rows_per_batch,
)
from tpu_tlm.tasks.model import HEAD, build_task_model, initial_values, learns_frozen
from tpu_tlm.tasks.options import FinetuneOptions
from tpu_tlm.training.finetuning.prepare import Prepared
from tpu_tlm.training.finetuning.source import Source
from tpu_tlm.training.finetuning.step import ScaledOptimizer, TaskStep, learning_rates
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.schedules import make_schedule


def _batch_sizes(options: FinetuneOptions, lengths: list[int], replicas: int) -> dict[int, int]:
    """Rows of a batch by length. Raises `UsageError` unless replicas and micro-batches share it."""
    fit = options.fit
    multiple = replicas * fit.grad_accum
    if fit.batch_tokens is None and fit.batch_size % multiple:
        raise OptionError(
            f"--batch_size {fit.batch_size} cannot be divided among {replicas} replicas with "
            f"{fit.grad_accum} micro-batches; use a multiple of {multiple}"
        )
    return {n: rows_per_batch(n, fit.batch_size, fit.batch_tokens, multiple) for n in lengths}


def training_batches(
    options: FinetuneOptions,
    prepared: Prepared,
    replicas: int,
    vectors: dict[str, np.ndarray] | None,
    epochs: float,
) -> tuple[list[Bucket], Plan]:
    """The training windows in buckets, and the batch of every step.

    vectors: (`u`, `v`) that stand for the texts: one bucket without token ids.
    """
    examples, spec, fit = prepared.train.examples, prepared.spec, options.fit
    targets = prepared.task.targets(prepared.train.rows, examples)

    def lengths_of(sizes: np.ndarray) -> list[int]:
        return bucket_lengths(
            sizes,
            1 if vectors is not None else options.data.buckets,
            prepared.framer.max_length,
            spec.seq_length if spec.config.mlp else None,
        )

    lengths = lengths_of(examples.lengths())
    rows = _batch_sizes(options, lengths, replicas)
    if not options.data.group_by_length and vectors is None:
        batch = rows[lengths[0]]
        return mixed_batches(examples, targets, spec.pad_id, batch, lengths_of, epochs, fit.seed)
    buckets = make_buckets(examples, targets | (vectors or {}), lengths, spec.pad_id, rows)
    if vectors is not None:
        for bucket in buckets:
            for name in ("x", "tt", "x2", "n", "n2"):
                bucket.arrays.pop(name, None)
    return buckets, make_plan(buckets, epochs, fit.seed)


def make_step(
    options: FinetuneOptions,
    source: Source,
    prepared: Prepared,
    kind: str,
    lr: float,
    steps: int,
    *,
    head_only: bool,
) -> TaskStep:
    """The training step with a model in its initial state. kind: of device; lr: peak learning
    rate; head_only: the model takes pooled vectors."""
    fit, head = options.fit, options.head
    precision = options.runtime.precision
    if precision == "auto":
        precision = "bfloat16" if kind == "tpu" else "float32"
    model = build_task_model(
        prepared.spec,
        prepared.head,
        precision=precision,
        frozen=not head.finetune,
        head_only=head_only,
    )
    variables = named_variables(model)
    values = initial_values(model, source.encoder, source.pooler, fit.seed)
    for path, variable in variables.items():
        variable.assign(values[path])
    rates = learning_rates(
        list(variables),
        prepared.spec.config.num_layers,
        layer_decay=fit.layer_decay,
        head=(fit.head_lr or lr) / lr,
        freeze=head.freeze,
    )
    for i, path in enumerate(variables):
        # Of stored vectors the model's own pooler was applied before.
        before = head_only and not prepared.head.fresh
        stored = before and path.startswith(f"{HEAD}pooler/")
        if stored or (not head.finetune and not learns_frozen(path)):
            rates[i] = 0.0
    optim = OptimConfig(
        optimizer=fit.optimizer,
        lr=lr,
        lr_schedule=fit.lr_schedule,
        warmup_steps=int(fit.warmup * steps),
        weight_decay=fit.weight_decay,
        clip=fit.clip,
        beta2=fit.beta2,
        eps=fit.eps,
        grad_accum=fit.grad_accum,
    )
    schedule = make_schedule(optim, steps)
    return TaskStep(
        model,
        prepared.task,
        ScaledOptimizer(make_optimizer(optim), rates),
        lambda index: tf.cast(schedule(index), tf.float32),
        fit.clip,
        fit.seed,
        fit.grad_accum,
        frozen=tuple(rate == 0.0 for rate in rates),
    )
