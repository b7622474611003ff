"""Evaluation: the exact sums of an objective over a whole dataset."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tpu_tlm.config import OptimConfig
from tpu_tlm.data.dataset.dataset import Dataset, check_same_tokenizer, open_dataset
from tpu_tlm.data.dataset.stream import (
    failure,
    first_examples,
    in_order,
    is_reading_error,
)
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.objectives.base import Objective, ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.custom import compiler_error
from tpu_tlm.objectives.registry import check_evaluation, objective_class, objective_of_kind
from tpu_tlm.training.device_feed import feed
from tpu_tlm.training.evaluation_options import BATCH_SIZE, CANDIDATES, with_overrides
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import TrainStep


def evaluate(
    loop: Loop, dataset: Dataset, batch_size: int, agree: Callable[[], int]
) -> Totals | None:
    """Sums over every example of a dataset once, without an update.

    `batch_size` over all replicas does not change the sums. An objective that compares the examples
    of a batch gets full batches only, so that each example has as many negatives: the rest of the
    dataset is left out, and a batch is at most as large as the dataset.

    agree: called before each part for the number of batches in it, equal on all workers; where it
    returns 0 the evaluation stops and returns None.
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
    """Raise `UsageError` where the objective refuses the first examples of a dataset."""
    objective.check(first_examples(dataset, 64), dataset.directory)


@contextlib.contextmanager
def naming_input(dataset: Dataset, objective: Objective) -> Iterator[None]:
    """A block that calls the compiled loop.

    Errors of the dataset's reader, and XLA's errors in a user's own objective, become one line that
    names the file; others are unchanged.
    """
    try:
        yield
    except Exception as error:
        if (found := compiler_error(objective, error)) is not None:
            raise found from error
        if not is_reading_error(dataset, error):
            raise
        raise failure(dataset, error) from error


def evaluate_model(
    model: PretrainedModel,
    data: str | Dataset,
    devices: Devices,
    *,
    objective: str | None = None,
    options: ObjectiveOptions | None = None,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    candidates: int | None = None,
    precision: str = "float32",
    xla: bool = True,
) -> dict[str, Any]:
    """Measure a model on a dataset.

    objective: a name or `path/to/file.py:Name`; None = the first built-in one of the model's kind.
    options: those that it was trained with; None = the defaults. overrides: options by name that
    replace them (eval_mask_rate, loss, margin, disc_weight, label_one).
    batch_size: examples per step, which does not change the result. candidates: for an objective
    that ranks: pairs among which a pair's second text is ranked, in the order of the dataset.
    precision: "float32" or "bfloat16", of activations; xla: compile where the device allows.

    Returns "model", "data", "objective", "loss" per target, "perplexity" where it is one, the
    metrics, "targets", "examples"; for an objective that ranks also "candidates" and "left_out",
    the examples of the last, incomplete batch. Raises `UsageError` for an objective of another
    kind of model, for options that it does not use, and for a dataset of another tokenizer or of
    examples that are too long.
    """
    dataset = open_dataset(data) if isinstance(data, str) else data
    name = objective or objective_of_kind(model.spec.kind)
    chosen = objective_class(name)
    given = dict(overrides or {})
    check_evaluation(name, given)
    rows = _rows(name, chosen, batch_size, candidates, dataset)
    used = with_overrides(options or ObjectiveOptions(), given)
    totals = evaluate_saved(
        model, dataset, rows, used, devices, name, chosen, precision=precision, xla=xla
    )
    result: dict[str, Any] = {
        "model": model.source,
        "data": dataset.directory,
        "objective": name,
        "loss": totals.loss,
    }
    if chosen.perplexity:
        result["perplexity"] = math.exp(min(totals.loss, 700.0))
    result |= {metric: totals.mean(metric) for metric in totals.metrics}
    result["targets"] = int(totals.weight)
    if chosen.cross_replica:
        result |= {"candidates": rows, "left_out": dataset.num_samples % rows}
    return {**result, "examples": dataset.num_samples}


def _rows(
    name: str,
    objective: type[Objective],
    batch_size: int | None,
    candidates: int | None,
    dataset: Dataset,
) -> int:
    """Examples per step. Raises `UsageError` for a size that the objective does not use."""
    if not objective.cross_replica:
        if candidates is not None:
            raise UsageError(
                f"--candidates {candidates}: --objective {name} does not use it, only objectives"
                " that rank pairs; leave it out"
            )
        return BATCH_SIZE if batch_size is None else batch_size
    if batch_size is not None:
        raise UsageError(
            f"--batch_size {batch_size}: --objective {name} does not use it; give --candidates, the"
            " pairs among which one is ranked"
        )
    rows, samples = CANDIDATES if candidates is None else candidates, dataset.num_samples
    if not 2 <= rows <= samples:
        raise UsageError(
            f"--candidates {rows}: must be 2 to the {samples} pairs in {dataset.directory}"
        )
    return rows


def evaluate_saved(
    saved: PretrainedModel,
    dataset: Dataset,
    batch_size: int,
    options: ObjectiveOptions,
    devices: Devices,
    name: str | None = None,
    objective: type[Objective] | None = None,
    *,
    precision: str = "float32",
    xla: bool = True,
) -> Totals:
    """Sums of a model over a dataset.

    name: the objective, None = the first built-in one of the model's kind; objective: its resolved
    class; precision, xla: as `evaluate_model`. Raises as `evaluate_model`, and `TlmError` for a
    loss that is not finite.
    """
    tokenizer = saved.tokenizer()
    check_same_tokenizer(
        dataset.tokenizer, tokenizer.description(), f"{dataset.directory} and {saved.source}"
    )
    dataset = dataset.for_tokenizer(tokenizer)
    tokens = max(dataset.lengths.values())
    if tokens > (max_length(saved.spec) or tokens):
        raise UsageError(
            f"{dataset.directory}: examples of {tokens} tokens are longer than the model's"
            f" {max_length(saved.spec)}"
        )
    name = name or objective_of_kind(saved.spec.kind)
    chosen = objective or objective_class(name)
    if batch_size < 1 or batch_size % devices.replicas:
        flag = "--candidates" if chosen.cross_replica else "--batch_size"
        raise UsageError(
            f"{flag} {batch_size}: must be a multiple of the {devices.replicas} replicas;"
            " --distribute none takes any"
        )
    if chosen.kind != saved.spec.kind:
        raise UsageError(
            f"--objective {name}: measures models of kind {chosen.kind!r}; {saved.source} is of"
            f" kind {saved.spec.kind!r}"
        )
    instance = chosen.from_config(ObjectiveContext(saved.spec, tokenizer, options))
    check_data(instance, dataset)
    # Evaluation uses the step of training; its optimizer has no slots and is never called.
    step = TrainStep(
        saved.model(precision=precision),
        instance,
        make_optimizer(OptimConfig(optimizer="sgd", beta1=0.0)),
        lambda index: index,
        0.0,
        0,
    )
    loop = Loop(
        step,
        TrainState(step, devices.strategy),
        xla=xla and devices.xla,
        on_tpu=devices.kind == "tpu",
    )
    totals = evaluate(loop, dataset, batch_size, lambda: dataset.num_samples)
    assert totals is not None
    if not math.isfinite(totals.loss):
        raise TlmError(
            f"{saved.source}: the loss on {dataset.directory} is {totals.loss}: there is no target,"
            " or a value is not finite"
        )
    return totals
