"""What an objective is: a loss as sum and count, and metrics as sums and counts."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import tensorflow as tf

from tpu_tlm.config import ContrastiveConfig, DenoisingConfig, ElectraConfig, MlmConfig
from tpu_tlm.models.flops import flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    from tpu_tlm.data.tokenizers.base import Tokenizer

Batch = Mapping[str, tf.Tensor]


class LossSums(NamedTuple):
    """Float32 scalars of one batch: the loss summed, its weight (count), and for each metric its sum and count.

    What is learned is loss / weight over the global batch. An objective that adds up several means (`Objective.parts`) gives a loss and a
    weight of each by name; what is learned is then the sum of their means, however the batch was split.
    """

    loss: Any
    weight: Any
    metrics: dict[str, tuple[tf.Tensor, tf.Tensor]]


# The first edition's name, which objectives in users' files import.
Sums = LossSums


class ObjectiveOptions(NamedTuple):
    """The options of all objectives; each reads its own."""

    mlm: MlmConfig = MlmConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    denoising: DenoisingConfig = DenoisingConfig()
    electra: ElectraConfig = ElectraConfig()


class ObjectiveContext(NamedTuple):
    """What an objective is made from: the model's spec, the tokenizer of the data, the options."""

    spec: ModelSpec
    tokenizer: Tokenizer
    options: ObjectiveOptions = ObjectiveOptions()


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross entropy of int labels `[...]` under logits `[..., V]`, and 1 where the label's logit is the largest: float32 `[...]` each.

    The label's logit is picked by comparison, not by a gather: it fuses with the other reductions, and its gradient is no scatter. The
    vocabulary is taken as the first axis, as the head computes it.
    """
    columns = tf.transpose(tf.reshape(logits, (-1, logits.shape[-1])))
    flat = tf.reshape(labels, (-1,))
    largest = tf.stop_gradient(tf.reduce_max(columns, axis=0))
    total = tf.math.log(tf.reduce_sum(tf.exp(columns - largest), axis=0)) + largest
    picked = tf.equal(tf.range(columns.shape[0], dtype=flat.dtype)[:, None], flat)
    logit = tf.reduce_sum(tf.where(picked, columns, 0.0), axis=0)
    return tf.reshape(total - logit, labels.shape), tf.reshape(
        tf.cast(logit >= largest, tf.float32), labels.shape
    )


class Objective(abc.ABC):
    """A pre-training regime: what is asked of a model.

    Called inside the compiled step with a model (call it like a function; pass `key` on for dropout), a batch (static shapes; `x` int32
    `[rows, nctx]`, `position` int64 `[rows]`, and what else the dataset holds) and a `Key` per example to draw corruption from. Everything
    in it must compile under XLA: no Python on values, no strings, no dynamic shapes.

    Sums are added up over micro-batches, replicas and steps before anything is divided, so a result does not depend on how a batch was
    split.

    `name`: what `--objective` calls it; `kind`: the kind of model that it trains (`models.build.KINDS`); `metrics`: names of its metrics;
    `parts`: names of the means that its loss is the sum of, where there are several;
    `cross_replica`: its loss compares examples with those of other replicas, so it is called with `replicas=` (`objectives.replicas.Replicas`);
    `perplexity`: whether exp(loss) is a perplexity.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "mlm"
    metrics: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ()
    cross_replica: ClassVar[bool] = False
    perplexity: ClassVar[bool] = True

    @classmethod
    def make(cls, setting: ObjectiveContext) -> Objective:
        """The objective for a model, a tokenizer and options; one without any of its own needs no `make`."""
        return cls()

    @classmethod
    def adapt(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """The spec of the model to train, from that of a text model; `lengths`: tokens of each feature of the dataset."""
        return spec

    def check(self, first: Mapping[str, Any], where: str) -> None:  # noqa: B027 - most take whatever has the right shape
        """Raise `UsageError` where the first examples of a dataset are none for this objective, though their features and lengths fit.

        `first`: NumPy arrays `[rows, ...]`; `where` names the dataset.
        """

    @abc.abstractmethod
    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        """The sums of one batch. With `training` false no dropout, and the corruption must not depend on the run's seed.

        `batch["valid"]` (float32 `[rows]`), where present, is 0 for rows that only fill up the last batch of an evaluation.
        """

    @abc.abstractmethod
    def predictions(self, seq_length: int) -> int:
        """How many positions of an example reach the output layer (for the count of floating-point operations)."""

    def flops(self, spec: ModelSpec) -> float:
        """Floating-point operations of one example's forward and backward pass (`models.flops`)."""
        return flops_per_example(
            spec.config, spec.seq_length, self.predictions(spec.seq_length), spec.vocab_size
        )

    def tokens(self, spec: ModelSpec) -> int:
        """Tokens of text in one example."""
        return spec.seq_length + (spec.seq_length_y or 0)
