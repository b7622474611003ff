"""From options to the parts of a run: datasets, tokenizer, model, objective, step."""

from __future__ import annotations

from dataclasses import dataclass, fields

import tensorflow as tf

from tpu_tlm.config import (
    ContrastiveConfig,
    DataConfig,
    DenoisingConfig,
    ElectraConfig,
    MlmConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
    TokenizerConfig,
)
from tpu_tlm.data.dataset.dataset import Dataset, check_same_tokenizer, open_dataset
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.registry import make_objective, objective_class
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.schedules import make_schedule
from tpu_tlm.training.step import TrainStep


@dataclass(frozen=True)
class Options:
    """All options of a training run, one instance per concern."""

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    mlm: MlmConfig
    contrastive: ContrastiveConfig
    denoising: DenoisingConfig
    electra: ElectraConfig
    optim: OptimConfig
    run: RunConfig
    runtime: RuntimeConfig

    def parts(self) -> tuple[object, ...]:
        """The instances in the order of the command line."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def objectives(self) -> ObjectiveOptions:
        """The options of the objectives."""
        return ObjectiveOptions(self.mlm, self.contrastive, self.denoising, self.electra)


@dataclass(frozen=True)
class Corpora:
    """The data of a run."""

    train: Dataset
    valid: Dataset | None
    tokenizer: Tokenizer


def open_corpora(options: Options) -> Corpora:
    """Open and check the datasets and the tokenizer they were made with.

    Raises `UsageError` when they were made with different ones, or MEAD's records (which carry none) come without tokenizer flags.
    """
    data = options.data
    train = open_dataset(data.train_dir)
    valid = open_dataset(data.valid_dir) if data.valid_dir else None
    given = make_tokenizer(options.tokenizer) if options.tokenizer.vocab else None
    if given is None and train.tokenizer is None:
        raise UsageError(
            f"--vocab is required: the records in {data.train_dir} do not say which tokenizer made them"
        )
    tokenizer = given or train.load_tokenizer()
    description = tokenizer.description()
    check_same_tokenizer(
        train.tokenizer, description, f"--train_dir {data.train_dir} and the tokenizer of this run"
    )
    if valid is not None:
        check_same_tokenizer(
            valid.tokenizer,
            description,
            f"--valid_dir {data.valid_dir} and --train_dir {data.train_dir}",
        )
        if any(
            valid.lengths[name] != train.lengths[name]
            for name in valid.lengths.keys() & train.lengths.keys()
        ):
            ours, theirs = (
                " and ".join(f"{n} ({name})" for name, n in d.lengths.items())
                for d in (valid, train)
            )
            raise UsageError(
                f"--valid_dir {data.valid_dir}: has examples of {ours} tokens, --train_dir {theirs}"
            )
    if data.verify_data:
        for dataset in (train, valid):
            if dataset is not None:
                dataset.verify()
    return Corpora(train, valid, tokenizer)


def total_steps(options: Options, samples: int) -> int:
    """Optimizer steps of the whole run. Raises `UsageError` for none."""
    run = options.run
    steps = (
        run.steps if run.steps is not None else int(run.epochs * samples / options.data.batch_size)
    )
    if steps < 1:
        raise UsageError(
            f"--epochs {run.epochs}: {samples} examples are less than one batch of {options.data.batch_size}; "
            "use a smaller --batch_size, or give --steps"
        )
    return steps


def spec_of(options: Options, corpora: Corpora) -> ModelSpec:
    """The spec of the model to train, framed as its training examples are.

    Raises `UsageError` when the objective refuses the data or the options, or the model has fewer positions than the examples.
    """
    tokenizer, metadata = corpora.tokenizer, corpora.train.metadata

    def frame(name: str) -> int | None:
        token = metadata.get(name)
        return tokenizer.sep_id if token == "<EOS>" else tokenizer.id_of(token) if token else None

    objective = objective_class(options.run.objective)
    spec = ModelSpec(
        options.model,
        len(tokenizer.tokens),
        corpora.train.seq_length,
        tokenizer.pad_id,
        objective.kind,
        frame("prefix"),
        frame("suffix"),
        frame("tok_on_eol"),
        y_prefix_id=frame("y_prefix"),
        y_suffix_id=frame("y_suffix"),
        turn_id=frame("turn_sep"),
        pairs=metadata.get("pairs"),
    )
    spec = objective.adapt(spec, options.objectives, corpora.train.lengths)
    # What gated MLP blocks take is no matter of positions: the model says it.
    tokens, limit = (
        max(spec.seq_length, spec.seq_length_y or 0),
        None if spec.config.mlp else max_length(spec),
    )
    if limit is not None and limit < tokens:
        raise UsageError(
            f"--max_positions {limit}: texts of {tokens} tokens need as many positions; give that or more, or leave it out"
        )
    return spec


def check_batch(options: Options, replicas: int) -> None:
    """Raise `UsageError` unless the batch can be divided among replicas and micro-batches, and leaves examples to be told apart."""
    batch, parts = options.data.batch_size, replicas * options.optim.grad_accum
    if batch < 1 or options.optim.grad_accum < 1 or batch % parts:
        raise UsageError(
            f"--batch_size {batch} cannot be divided among {replicas} replicas with {options.optim.grad_accum} micro-batches each; "
            f"use a multiple of {parts}"
        )
    if (
        objective_class(options.run.objective).cross_replica
        and batch // options.optim.grad_accum < 2
    ):
        raise UsageError(
            f"--batch_size {batch} with --grad_accum {options.optim.grad_accum}: --objective {options.run.objective} tells an example from "
            "the others of its micro-batch, and there is none; use a larger --batch_size or a smaller --grad_accum"
        )
    evaluated = options.data.eval_batch_size
    if evaluated is not None and (evaluated < 1 or evaluated % replicas):
        raise UsageError(
            f"--eval_batch_size {evaluated} cannot be divided among {replicas} replicas; use a multiple of them"
        )


def precision_of(runtime: RuntimeConfig, kind: str) -> str:
    """`float32` or `bfloat16`: what `auto` means on this kind of device."""
    return (
        runtime.precision
        if runtime.precision != "auto"
        else ("bfloat16" if kind == "tpu" else "float32")
    )


def make_step(options: Options, corpora: Corpora, steps: int, precision: str) -> TrainStep:
    """The training step with a model in its initial state."""
    run = options.run
    schedule = make_schedule(options.optim, steps)
    spec = spec_of(options, corpora)
    return TrainStep(
        build_model(spec, precision=precision, seed=run.seed),
        make_objective(
            run.objective, ObjectiveContext(spec, corpora.tokenizer, options.objectives)
        ),
        make_optimizer(options.optim),
        lambda index: tf.cast(schedule(index), tf.float32),
        options.optim.clip,
        run.seed,
        options.optim.grad_accum,
    )
