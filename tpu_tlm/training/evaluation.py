"""Evaluation: the exact sums of an objective over a whole dataset."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from tpu_tlm.config import OptimConfig
from tpu_tlm.data.dataset.dataset import Dataset, check_same_tokenizer
from tpu_tlm.data.dataset.stream import failure, in_order
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.objectives.base import Objective, ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.custom import compiler_error
from tpu_tlm.objectives.registry import make_objective, objective_class, objective_of_kind
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import TrainStep


def evaluate(
    loop: Loop, dataset: Dataset, batch_size: int, agree: Callable[[], int]
) -> Totals | None:
    """Sums over every example of a dataset once, no variable changed; `batch_size` over all replicas does not change them.

    An objective that compares the examples of a batch is asked for whole batches only, so that it always compares as many: the rest of the
    dataset is left out, and a batch is no larger than the dataset.
    agree: asked before each part for the number of batches in it, the same on all workers; None is given back where it says 0: stop.
    """
    left, totals = math.ceil(dataset.num_samples / batch_size), None
    if loop.step.objective.cross_replica:
        replicas = loop.strategy.num_replicas_in_sync if loop.strategy is not None else 1
        batch_size = min(batch_size, max(1, dataset.num_samples // replicas) * replicas)
        left = max(1, dataset.num_samples // batch_size)
    iterator = iter(
        feed(
            lambda hosts, host: in_order(dataset, batch_size, hosts=hosts, host=host), loop.strategy
        )
    )
    while left:
        count = min(left, agree())
        if not count:
            return None
        with naming_input(dataset, loop.step.objective):
            part = loop.evaluate(iterator, count)
        totals = part if totals is None else totals.plus(part)
        left -= count
    return totals


def check_data(objective: Objective, dataset: Dataset) -> None:
    """Raise `UsageError` where the first examples of a dataset are none that the objective can take."""
    with naming_input(dataset, objective):
        first = next(in_order(dataset, min(64, dataset.num_samples)).as_numpy_iterator())
    objective.check(first, dataset.directory)


@contextlib.contextmanager
def naming_input(dataset: Dataset, objective: Objective) -> Iterator[None]:
    """A call of the compiled loop: what the reader of the dataset raises in it, or XLA of an own objective, becomes one line; anything else
    stays as it is."""
    import tensorflow as tf

    try:
        yield
    except Exception as error:
        if (found := compiler_error(objective, error)) is not None:
            raise found from error
        damaged = (
            tf.errors.DataLossError,
            tf.errors.NotFoundError,
            tf.errors.OutOfRangeError,
            tf.errors.InvalidArgumentError,
        )
        if not isinstance(error, damaged) or dataset.directory not in str(error):
            raise
        raise failure(dataset, error) from error


def evaluate_saved(
    saved: PretrainedModel,
    dataset: Dataset,
    batch_size: int,
    options: ObjectiveOptions,
    devices: Devices,
    asked: str | None = None,
) -> Totals:
    """Sums of a saved model over a dataset, under the objective of its kind or the one `asked` for.

    Raises `UsageError` when the objective is for another kind of model, or the dataset was made with another tokenizer or is too long.
    """
    tokenizer = saved.tokenizer()
    check_same_tokenizer(
        dataset.tokenizer, tokenizer.description(), f"{dataset.directory} and {saved.source}"
    )
    tokens = max(dataset.lengths.values())
    if tokens > (max_length(saved.spec) or tokens):
        raise UsageError(
            f"{dataset.directory}: examples of {tokens} tokens are longer than the model's {max_length(saved.spec)}"
        )
    name = asked or objective_of_kind(saved.spec.kind)
    if batch_size % devices.replicas:
        flag = "--candidates" if objective_class(name).cross_replica else "--batch_size"
        raise UsageError(
            f"{flag} {batch_size}: must be a multiple of the {devices.replicas} replicas; --distribute none takes any"
        )
    if (kind := objective_class(name).kind) != saved.spec.kind:
        raise UsageError(
            f"--objective {name}: measures models of kind {kind!r}; {saved.source} is of kind {saved.spec.kind!r}"
        )
    objective = make_objective(name, ObjectiveContext(saved.spec, tokenizer, options))
    check_data(objective, dataset)
    # Evaluation uses the same step as training; its optimizer has no slots and is never asked.
    step = TrainStep(
        saved.model(),
        objective,
        make_optimizer(OptimConfig(optimizer="sgd", beta1=0.0)),
        lambda index: index,
        0.0,
        0,
    )
    loop = Loop(
        step, TrainState(step, devices.strategy), xla=devices.xla, on_tpu=devices.kind == "tpu"
    )
    totals = evaluate(loop, dataset, batch_size, lambda: dataset.num_samples)
    assert totals is not None
    if not math.isfinite(totals.loss):
        raise TlmError(
            f"{saved.source}: the loss on {dataset.directory} is {totals.loss}: no target, or values that are not finite"
        )
    return totals
