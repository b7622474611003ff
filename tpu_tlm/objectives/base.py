"""The interface of a pre-training objective: a loss and metrics, each as a sum and a count."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import tensorflow as tf

from tpu_tlm.models.flops import flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.target import for_processor
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.options import ObjectiveOptions

if TYPE_CHECKING:
    from tpu_tlm.data.tokenizers.base import Tokenizer

__all__ = [
    "Batch",
    "Key",
    "LossSums",
    "Objective",
    "ObjectiveContext",
    "ObjectiveOptions",
    "Setting",
    "Sums",
    "cross_entropy",
]

Batch = Mapping[str, tf.Tensor]

# Attributes of the first edition, and their present names. A class that defines one has both.
_OLD_NAMES = {
    "make": "from_config",
    "adapt": "configure_model",
    "parts": "loss_terms",
    "gathers": "cross_replica",
}


class LossSums(NamedTuple):
    """Sums over one batch, float32 scalars: the loss, its weight (a count), and per metric a sum
    and a count.

    The trained loss is loss / weight over the global batch. An objective whose loss is a sum of
    several means (`Objective.loss_terms`) gives loss and weight as dicts by term; the trained loss
    is then the sum of the terms' means, independent of how the batch was split.
    """

    loss: Any
    weight: Any
    metrics: dict[str, tuple[tf.Tensor, tf.Tensor]]


class ObjectiveContext(NamedTuple):
    """Inputs of `Objective.from_config`: the model's spec, the tokenizer of the data, options."""

    spec: ModelSpec
    tokenizer: Tokenizer
    options: ObjectiveOptions = ObjectiveOptions()


# Names of the first edition, for objective files written for it.
Sums, Setting = LossSums, ObjectiveContext


def _columns_cross_entropy(labels: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`cross_entropy` of labels `[N]` and logits `[V, N]`, in fewer passes over them on a CPU.

    The gradient is written out: the exponentials times one number per label, less another one at
    the label, whose places are few.
    """
    labels = tf.cast(labels, tf.int32)
    # A label outside the vocabulary, whose weight must be 0, has no logit. Without XLA a gather
    # would end with an error there.
    known = tf.logical_and(labels >= 0, labels < columns.shape[0])
    places = tf.stack([tf.where(known, labels, 0), tf.range(tf.size(labels))], axis=1)

    @tf.custom_gradient
    def run(columns: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], Any]:
        largest = tf.reduce_max(columns, axis=0)
        exponentials = tf.exp(columns - largest)
        total = tf.reduce_sum(exponentials, axis=0)
        logit = tf.where(known, tf.gather_nd(columns, places), 0.0)

        def backward(gradient: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            probabilities = exponentials * (gradient / total)
            return tf.tensor_scatter_nd_sub(probabilities, places, tf.where(known, gradient, 0.0))

        losses = tf.math.log(total) + largest - logit
        return (losses, tf.cast(logit >= largest, tf.float32)), backward

    return run(columns)


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy and correctness per label, float32 `[...]` each.

    `labels` int `[...]`, `logits` float `[..., V]`. A label counts as correct (1.0) where its logit
    is the largest. The label's logit is selected by comparison instead of a gather: it fuses with
    the other reductions, and its gradient is not a scatter. The vocabulary is the first axis, which
    is the layout that the head computes.
    """
    columns = tf.transpose(tf.reshape(logits, (-1, logits.shape[-1])))
    flat = tf.reshape(labels, (-1,))
    if for_processor():
        losses, right = _columns_cross_entropy(flat, columns)
        return tf.reshape(losses, labels.shape), tf.reshape(right, labels.shape)
    largest = tf.stop_gradient(tf.reduce_max(columns, axis=0))
    total = tf.math.log(tf.reduce_sum(tf.exp(columns - largest), axis=0)) + largest
    picked = tf.equal(tf.range(columns.shape[0], dtype=flat.dtype)[:, None], flat)
    logit = tf.reduce_sum(tf.where(picked, columns, 0.0), axis=0)
    return tf.reshape(total - logit, labels.shape), tf.reshape(
        tf.cast(logit >= largest, tf.float32), labels.shape
    )


class Objective(abc.ABC):
    """A pre-training objective.

    It is called inside the compiled step with a model (called like a function; pass `key=` on for
    dropout), a batch of static shapes (`x` int32 `[rows, seq_length]`, `position` int64 `[rows]`,
    and the other features of the dataset) and a `Key` per example for random numbers. All of it
    must compile under XLA: no Python control flow on tensor values, no strings, no dynamic shapes.

    Sums are added over micro-batches, replicas and steps before anything is divided, so a result
    does not depend on how a batch was split.

    Class attributes:
      name: what `--objective` calls it.
      kind: the kind of model that it trains (`tpu_tlm.models.registry.KINDS`).
      metrics: names of its metrics.
      loss_terms: names of the means that its loss is the sum of; empty for a single mean.
      cross_replica: whether its loss compares examples of different replicas; it is then called
        with `replicas=` (`tpu_tlm.objectives.replicas.Replicas`).
      perplexity: whether exp(loss) is a perplexity.

    The first edition's names make, adapt, parts and gathers are aliases of from_config,
    configure_model, loss_terms and cross_replica.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "mlm"
    metrics: ClassVar[tuple[str, ...]]
    loss_terms: ClassVar[tuple[str, ...]] = ()
    cross_replica: ClassVar[bool] = False
    perplexity: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        alias_old_names(cls)

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> Objective:
        """Create the objective for a model, a tokenizer and options."""
        return cls()

    @classmethod
    def configure_model(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """Return the spec of the model to train, derived from that of a text model.

        `lengths`: tokens per feature of the dataset, such as `{"x": 128}`. Raises `UsageError` for
        data or options that the objective cannot use.
        """
        return spec

    def check(self, first: Mapping[str, Any], where: str) -> None:  # noqa: B027 - optional
        """Check the first examples of a dataset, NumPy arrays `[rows, ...]` by feature.

        Called where features and lengths already fit. Raises `UsageError` naming `where`, the
        dataset, for values that the objective cannot use.
        """

    @abc.abstractmethod
    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        """Compute the sums of one batch.

        With `training` false there is no dropout, and random numbers must not depend on the run's
        seed. `batch["valid"]` (float32 `[rows]`), where present, is 0 for rows that only fill the
        last batch of an evaluation.
        """

    @abc.abstractmethod
    def predictions(self, seq_length: int) -> int:
        """Positions per example that reach the output layer, for the count of FLOPs."""

    def flops(self, spec: ModelSpec) -> float:
        """Floating-point operations of one example's forward and backward pass."""
        return flops_per_example(
            spec.config, spec.seq_length, self.predictions(spec.seq_length), spec.vocab_size
        )

    def tokens(self, spec: ModelSpec) -> int:
        """Tokens of text in one example."""
        return spec.seq_length + (spec.seq_length_y or 0)


def alias_old_names(cls: type[Objective]) -> None:
    """Give a class every attribute that it defines itself under both its present and old name.

    Done per class and not by delegation, so that `super().make(...)` in an old file and
    `super().from_config(...)` in a new one both reach the parent's method.
    """
    for old, new in _OLD_NAMES.items():
        own = vars(cls)
        if new in own and old not in own:
            setattr(cls, old, own[new])
        elif old in own and new not in own:
            setattr(cls, new, own[old])


alias_old_names(Objective)  # type: ignore[type-abstract]
