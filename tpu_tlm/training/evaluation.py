"""Evaluation: the exact sums of an objective over a whole dataset."""

from __future__ import annotations

import math

from tpu_tlm.config import MlmConfig, OptimConfig
from tpu_tlm.data.dataset import Dataset, check_same_tokenizer
from tpu_tlm.data.stream import failure, in_order
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.spec import longest
from tpu_tlm.objectives.base import ObjectiveOptions, Setting
from tpu_tlm.objectives.make import make_objective, objective_of_kind
from tpu_tlm.runtime import Devices
from tpu_tlm.training.feeds import feed
from tpu_tlm.training.loop import Loop, Totals
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.saved import Saved
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import TrainStep


def evaluate(loop: Loop, dataset: Dataset, batch_size: int) -> Totals:
    """Sums over every example of a dataset once, no variable changed; `batch_size` over all replicas does not change them."""
    batches = feed(lambda hosts, host: in_order(dataset, batch_size, hosts=hosts, host=host), loop.strategy)
    try:
        return loop.evaluate(batches, math.ceil(dataset.num_samples / batch_size))
    except Exception as error:
        raise input_error(dataset, error) from error


def input_error(dataset: Dataset, error: Exception) -> Exception:
    """The error to raise for one that came out of the compiled loop: the reader's in one line, any other as it is."""
    import tensorflow as tf

    damaged = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.OutOfRangeError, tf.errors.InvalidArgumentError)
    if isinstance(error, damaged) and dataset.directory in str(error):
        return failure(dataset, error)
    return error


def evaluate_saved(saved: Saved, dataset: Dataset, batch_size: int, mask_rate: float, devices: Devices, asked: str | None = None) -> Totals:
    """Sums of a saved model over a dataset, under the objective of its kind or the one `asked` for.

    Raises `UsageError` when the dataset was made with another tokenizer or is too long.
    """
    tokenizer = saved.tokenizer()
    check_same_tokenizer(dataset.tokenizer, tokenizer.description(), f"{dataset.directory} and {saved.source}")
    tokens = max(dataset.lengths.values())
    if tokens > (longest(saved.spec) or tokens):
        raise UsageError(f"{dataset.directory}: examples of {tokens} tokens are longer than the model's {longest(saved.spec)}")
    if batch_size % devices.replicas:
        raise UsageError(f"--batch_size {batch_size}: must be a multiple of the {devices.replicas} replicas")
    setting = Setting(saved.spec, tokenizer, ObjectiveOptions(mlm=MlmConfig(eval_mask_rate=mask_rate)))
    objective = make_objective(asked or objective_of_kind(saved.spec.kind), setting)
    # Evaluation uses the same step as training; its optimizer has no slots and is never asked.
    step = TrainStep(saved.model(), objective, make_optimizer(OptimConfig(optim="sgd", beta1=0.0)), lambda index: index, 0.0, 0)
    loop = Loop(step, TrainState(step, devices.strategy), xla=devices.xla, on_tpu=devices.kind == "tpu")
    totals = evaluate(loop, dataset, batch_size)
    if not math.isfinite(totals.loss):
        raise TlmError(f"{saved.source}: the loss on {dataset.directory} is {totals.loss}: no target, or values that are not finite")
    return totals
