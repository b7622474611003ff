"""From options to the parts of an experiment: datasets, model spec, objective, training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import tensorflow as tf

from tpu_tlm.config import Config, DataConfig, RuntimeConfig, TokenizerConfig
from tpu_tlm.data.dataset.dataset import Dataset, check_same_tokenizer, open_dataset
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.data.tokenizers.grow import read_tokens
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.layers.target import runs_on
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import Objective, ObjectiveContext
from tpu_tlm.objectives.registry import objective_class
from tpu_tlm.training.memory import check_size, host_memory
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.optimizers.sharding import Sharding
from tpu_tlm.training.schedules import make_schedule
from tpu_tlm.training.step import TrainStep

_FRAMING = ("prefix_id", "suffix_id", "eol_id")


@dataclass(frozen=True)
class Datasets:
    """Training and validation data, and the tokenizer that made them."""

    train: Dataset
    valid: Dataset | None
    tokenizer: Tokenizer
    # Framing of the examples by field of `ModelSpec`, where their dataset does not say it.
    framing: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """The parts that a trainer trains.

    total_steps: optimizer steps of the whole run; precision: "float32" or "bfloat16".
    """

    datasets: Datasets
    spec: ModelSpec
    objective: Objective
    step: TrainStep
    total_steps: int
    precision: str


def build(options: Config, devices: Devices, initial: PretrainedModel | None = None) -> Experiment:
    """Build the experiment that options describe, for these devices.

    initial: the model to start from, whose tokenizer and framing count where neither the dataset
    (MEAD's records) nor the options name any. The objective is resolved and the model is built
    once. Raises `UsageError` for options and datasets that do not fit one another.
    """
    runs_on(devices.name)
    objective = objective_class(options.run.objective)
    check_batch(options, devices.replicas, objective)
    datasets = open_datasets(options.data, options.tokenizer, initial)
    return experiment_of(
        options,
        datasets,
        total_steps(options, datasets.train.num_samples),
        precision_of(options.runtime, devices.kind),
        objective,
        memory=host_memory(),
        replicas=devices.replicas,
    )


def experiment_of(
    options: Config,
    datasets: Datasets,
    steps: int,
    precision: str,
    objective: type[Objective] | None = None,
    *,
    memory: int | None = None,
    replicas: int = 1,
) -> Experiment:
    """`build` with open datasets, a number of steps and a precision.

    objective: the resolved class; None resolves `options.run.objective`. memory: bytes in which
    the model is made; a model that is clearly larger is refused before it is built. replicas: among
    which `--shard_optimizer` divides the optimizer's state.
    """
    run = options.run
    schedule = make_schedule(options.optim, steps)
    spec, instance = objective_of(options, datasets, objective)
    check_size(spec, memory)
    step = TrainStep(
        build_model(spec, precision=precision, seed=run.seed),
        instance,
        make_optimizer(options.optim),
        lambda index: tf.cast(schedule(index), tf.float32),
        options.optim.clip,
        run.seed,
        options.optim.grad_accum,
        Sharding(replicas if options.optim.shard_optimizer else 1),
    )
    return Experiment(datasets, spec, instance, step, steps, precision)


def objective_of(
    options: Config, datasets: Datasets, objective: type[Objective] | None = None
) -> tuple[ModelSpec, Objective]:
    """The spec of the model to train, as `spec_of`, and the objective that trains it."""
    chosen = objective or objective_class(options.run.objective)
    spec = spec_of(options, datasets, chosen)
    context = ObjectiveContext(spec, datasets.tokenizer, options.objectives)
    return spec, chosen.from_config(context)


def open_datasets(
    data: DataConfig, tokenizer: TokenizerConfig, initial: PretrainedModel | None = None
) -> Datasets:
    """Open and check the datasets and the tokenizer that made them.

    initial: as in `build`. Raises `UsageError` when they were made with different tokenizers, have
    examples of different lengths, or are MEAD's records (which name no tokenizer) and no tokenizer
    is given.
    """
    train = open_dataset(data.train_dir)
    valid = open_dataset(data.valid_dir) if data.valid_dir else None
    given = make_tokenizer(tokenizer) if tokenizer.vocab else None
    framing: dict[str, int | None] = {}
    if train.tokenizer is None and initial is not None:
        given = given or initial.tokenizer()
        framing = {name: getattr(initial.spec, name) for name in _FRAMING}
    if given is None and train.tokenizer is None:
        raise UsageError(
            f"--vocab is required: the records in {data.train_dir} do not name the tokenizer that"
            " made them"
        )
    used = given or train.load_tokenizer()
    if given is None and tokenizer.add_tokens:
        _check_added(used, tokenizer.add_tokens, data.train_dir)
    description = used.description()
    check_same_tokenizer(
        train.tokenizer, description, f"--train_dir {data.train_dir} and the tokenizer of this run"
    )
    if valid is not None:
        check_same_tokenizer(
            valid.tokenizer,
            description,
            f"--valid_dir {data.valid_dir} and --train_dir {data.train_dir}",
        )
        _check_same_lengths(train, valid, data)
    train = train.for_tokenizer(used)
    valid = None if valid is None else valid.for_tokenizer(used)
    if data.verify_data:
        for dataset in (train, valid):
            if dataset is not None:
                dataset.verify()
    return Datasets(train, valid, used, framing)


def _check_added(tokenizer: Tokenizer, path: str, train_dir: str) -> None:
    """Raise `UsageError` where the data were not made with the tokens of --add_tokens."""
    lacking = [t for t in read_tokens(path) if tokenizer.id_of(t) is None]
    if lacking:
        raise UsageError(
            f"--add_tokens {path}: the tokenizer of {train_dir} lacks {len(lacking)} of its tokens "
            f"(the first: {lacking[0]!r}); preprocess the text with --add_tokens"
        )


def _check_same_lengths(train: Dataset, valid: Dataset, data: DataConfig) -> None:
    common = valid.lengths.keys() & train.lengths.keys()
    if all(valid.lengths[name] == train.lengths[name] for name in common):
        return
    ours, theirs = (
        " and ".join(f"{n} ({name})" for name, n in dataset.lengths.items())
        for dataset in (valid, train)
    )
    raise UsageError(
        f"--valid_dir {data.valid_dir}: has examples of {ours} tokens, --train_dir {theirs}"
    )


def total_steps(options: Config, samples: int) -> int:
    """Optimizer steps of the whole run. Raises `UsageError` for a run without any."""
    run, batch = options.run, options.data.batch_size
    steps = run.steps if run.steps is not None else int(run.epochs * samples / batch)
    if steps < 1:
        raise UsageError(
            f"--epochs {run.epochs}: {samples} examples are less than one batch of {batch}; "
            "use a smaller --batch_size, or give --steps"
        )
    return steps


def spec_of(
    options: Config, datasets: Datasets, objective: type[Objective] | None = None
) -> ModelSpec:
    """The spec of the model to train, framed as its training examples are.

    objective: the resolved class; None resolves `options.run.objective`. Raises `UsageError` when
    the objective refuses the data or the options, or the model has fewer positions than examples
    have tokens.
    """
    tokenizer, metadata = datasets.tokenizer, datasets.train.metadata
    objective = objective or objective_class(options.run.objective)

    def frame(name: str) -> int | None:
        token = metadata.get(name)
        return tokenizer.sep_id if token == "<EOS>" else tokenizer.id_of(token) if token else None

    spec = ModelSpec(
        options.model,
        len(tokenizer.tokens),
        datasets.train.seq_length,
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
    for name, index in datasets.framing.items():
        if getattr(spec, name) is None:
            spec = replace(spec, **{name: index})  # type: ignore[arg-type]
    spec = objective.configure_model(spec, options.objectives, datasets.train.lengths)
    tokens = max(spec.seq_length, spec.seq_length_y or 0)
    # Gated MLP blocks have a length, but no positions: the model checks it.
    limit = None if spec.config.mlp else max_length(spec)
    if limit is not None and limit < tokens:
        raise UsageError(
            f"--max_positions {limit}: texts of {tokens} tokens need as many positions; give that"
            " or more, or leave it out"
        )
    return spec


def check_batch(options: Config, replicas: int, objective: type[Objective] | None = None) -> None:
    """Check that batches can be divided among replicas and micro-batches.

    objective: the resolved class; None resolves `options.run.objective`. Raises `UsageError`, also
    where an objective that compares examples would get micro-batches of one.
    """
    batch, accum = options.data.batch_size, options.optim.grad_accum
    if batch < 1 or accum < 1 or batch % (replicas * accum):
        raise UsageError(
            f"--batch_size {batch} cannot be divided among {replicas} replicas with {accum}"
            f" micro-batches each; use a multiple of {replicas * max(1, accum)}"
        )
    objective = objective or objective_class(options.run.objective)
    if objective.cross_replica and batch // accum < 2:
        raise UsageError(
            f"--batch_size {batch} with --grad_accum {accum}: --objective {options.run.objective}"
            " compares an example with the others of its micro-batch, and there are none; use a"
            " larger --batch_size or a smaller --grad_accum"
        )
    evaluated = options.data.eval_batch_size
    if evaluated is not None and (evaluated < 1 or evaluated % replicas):
        raise UsageError(
            f"--eval_batch_size {evaluated} cannot be divided among {replicas} replicas; use a"
            " multiple of them"
        )


def precision_of(runtime: RuntimeConfig, kind: str) -> str:
    """`float32` or `bfloat16`: `--precision`, with `auto` resolved for a kind of device."""
    if runtime.precision != "auto":
        return runtime.precision
    return "bfloat16" if kind == "tpu" else "float32"
