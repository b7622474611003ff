"""The step that fine-tunes a model for a task, for the TPU compiler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import tensorflow as tf

from tpu_tlm.config import Config, PlanConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.models.flops import elmo_flops_per_example, flops_per_example
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.planning.chips import parse_slice
from tpu_tlm.planning.stand_in import stand_in
from tpu_tlm.planning.subject import STEPS, Answer, Say, StepProgram, Subject
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import build_task_model, task_spec
from tpu_tlm.tasks.registry import TASKS
from tpu_tlm.training import setup
from tpu_tlm.training.finetuning.step import ScaledOptimizer, TaskStep
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.schedules import make_schedule


@dataclass(frozen=True)
class TaskSubject(Subject):
    """A planned fine-tuning of the model of `spec`: every variable is trained, texts are of one
    length."""

    spec: ModelSpec
    task: str
    labels: int

    def program(self, options: Config, rows: int) -> StepProgram:
        spec, length = self._spec(options), self.length
        kind = TASKS[self.task]
        task = kind([] if self.task == "regress" else [str(i) for i in range(self.labels)])
        head = HeadSpec(task.outputs, tokens=kind.per_token)
        precision = setup.precision_of(options.runtime, "tpu")
        model = build_task_model(spec, head, precision=precision)
        optim = options.optim
        schedule = make_schedule(optim, options.run.steps or STEPS)
        count = len(named_variables(model))
        step = TaskStep(
            model,
            task,
            ScaledOptimizer(make_optimizer(optim), [1.0] * count),
            lambda index: tf.cast(schedule(index), tf.float32),
            optim.clip,
            options.run.seed,
            optim.grad_accum,
            frozen=(False,) * count,
        )
        inner = () if spec.elmo is None else (spec.elmo.characters,)
        labels = {
            "multilabel": tf.TensorSpec((rows, self.labels), tf.float32),
            "regress": tf.TensorSpec((rows,), tf.float32),
            "tag": tf.TensorSpec((rows, length), tf.int32),
        }
        batch = {
            "x": tf.TensorSpec((rows, length, *inner), tf.int32),
            "n": tf.TensorSpec((rows,), tf.int32),
            "label": labels.get(self.task, tf.TensorSpec((rows,), tf.int32)),
            "weight": tf.TensorSpec((rows,), tf.float32),
            "position": tf.TensorSpec((rows,), tf.int64),
        }
        if self.task == "pair" and spec.config.type_vocab_size >= 2:
            batch["tt"] = tf.TensorSpec((rows, length), tf.int32)
        return StepProgram(step, batch, length, self.flops(options))

    def _spec(self, options: Config) -> ModelSpec:
        config = options.model if self.spec.elmo is None else self.spec.config
        spec = task_spec(dataclasses.replace(self.spec, config=config), None)
        most = max_length(spec)
        if most is not None and self.length > most:
            raise UsageError(f"--seq_length {self.length}: the model takes {most} tokens at most")
        return spec

    def flops(self, options: Config) -> float:
        """Operations of one example of the whole model; those of the head are not counted."""
        spec = self._spec(options)
        if spec.elmo is not None:
            return elmo_flops_per_example(spec.elmo, self.length)
        return flops_per_example(spec.config, self.length, 0, self.labels)

    def extrapolate(self, batch: int) -> Answer | None:
        """As of pre-training; an ELMo is compiled as a whole."""
        return None if self.spec.elmo is not None else super().extrapolate(batch)


def task_subject(options: Config, plan: PlanConfig, say: Say) -> TaskSubject:
    """The planned fine-tuning of a command line: the model of `--init_from`, or of its options.

    Raises `UsageError` where the sizes are not given.
    """
    assert plan.task is not None
    if options.data.train_dir:
        raise UsageError("--task: has no --train_dir; give --seq_length, the tokens of a text")
    if options.optim.shard_optimizer:
        raise UsageError("--task: finetune has no --shard_optimizer; leave it out")
    if plan.seq_length is None:
        raise UsageError("--task: give --seq_length, the tokens of a text")
    if options.run.init_from:
        spec = load(options.run.init_from).spec
        if spec.kind in ("electra", "dual", "seq2seq"):
            spec = dataclasses.replace(spec, kind="embed", generator=None)
    elif plan.vocab_size is not None:
        spec = ModelSpec(options.model, plan.vocab_size, plan.seq_length)
    else:
        raise UsageError("--task: give --init_from MODEL, or model flags and --vocab_size")
    options = dataclasses.replace(options, model=spec.config)
    corpora = stand_in(max(spec.vocab_size, 6), {"x": plan.seq_length})
    slice_ = parse_slice(options.runtime.tpu or "")
    return TaskSubject(options, corpora, slice_, say, spec, plan.task, plan.labels)
