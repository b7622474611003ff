"""The training step, a pure function of values, slots, batch and index of the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.objectives.base import Batch, LossSums, Objective
from tpu_tlm.objectives.replicas import ALONE, AllReduce, Replicas
from tpu_tlm.training.optimizers import Optimizer, clip_by_global_norm, decays
from tpu_tlm.training.optimizers.clipping import global_norm
from tpu_tlm.training.optimizers.sharding import Sharding

Schedule = Callable[[tf.Tensor], tf.Tensor]
# The gradient of every value; for a loss of several terms, a dict of the terms that reach it.
Gradients = list[Any]


class StepResult(NamedTuple):
    """The state after a step, its sums over the global batch, and the gradient's norm before
    clipping."""

    values: list[tf.Tensor]
    slots: list[tuple[tf.Tensor, ...]]
    sums: LossSums
    norm: tf.Tensor


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step of a model under an objective.

    A pure function of tensors: no variable is read or assigned, so the same function runs under any
    strategy (which passes its all-reduce), in a test, and through the ahead-of-time compiler.
    Gradients of the loss *sum* are added over micro-batches and replicas and divided by the global
    weight once, then clipped by their global norm. For a loss of several terms, gradients are kept
    per term until then, which needs more memory only for values that several terms reach (ELECTRA's
    shared token table).

    `sharding`: how the optimizer's slots are divided among the replicas; each then updates its
    share of the values, and the shares are gathered.
    """

    model: keras.Model
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    clip: float
    seed: int
    grad_accum: int = 1
    sharding: Sharding = Sharding()

    def slots_of(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the slots that a replica keeps of a value of this shape."""
        return self.optimizer.slots_of(self.sharding.share(shape))

    @property
    def paths(self) -> list[str]:
        """Paths of the values, in order."""
        return list(named_variables(self.model))

    def sums(
        self,
        values: Sequence[tf.Tensor],
        batch: Batch,
        *,
        training: bool,
        replicas: Replicas = ALONE,
    ) -> LossSums:
        """Sums of the objective on a batch, with the model's variables replaced by `values`."""
        mapping = list(zip(named_variables(self.model).values(), values, strict=True))
        others = {"replicas": replicas} if self.objective.cross_replica else {}
        with keras.StatelessScope(state_mapping=mapping):
            return self.objective(
                self.model, batch, Key.of(self.seed, batch["position"]), training=training, **others
            )

    def _micro_gradients(
        self, values: Sequence[tf.Tensor], batch: Batch, replicas: Replicas
    ) -> tuple[Gradients, LossSums]:
        terms = self.objective.loss_terms
        with tf.GradientTape(persistent=bool(terms)) as tape:
            tape.watch(values)
            sums = self.sums(values, batch, training=True, replicas=replicas)
        if not terms:
            grads = tape.gradient(
                sums.loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return [_dense(g) for g in grads], sums
        by_term = {term: tape.gradient(sums.loss[term], values) for term in terms}
        found = [
            {term: _dense(g[i]) for term, g in by_term.items() if g[i] is not None}
            for i in range(len(values))
        ]
        return [g or {terms[0]: tf.zeros_like(v)} for g, v in zip(found, values, strict=True)], sums

    def gradients(
        self, values: Sequence[tf.Tensor], batch: Batch, replicas: Replicas = ALONE
    ) -> tuple[Gradients, LossSums]:
        """Gradients of the loss sum, and the sums, of this replica's rows.

        Micro-batches run one after another inside the program.
        """
        if self.grad_accum == 1:
            return self._micro_gradients(values, batch, replicas)
        micro = {k: _micro_batches(v, self.grad_accum) for k, v in batch.items()}

        def one(i: Any) -> tuple[Gradients, LossSums]:
            return self._micro_gradients(values, {k: v[i] for k, v in micro.items()}, replicas)

        if replicas.count > 1 and self.objective.cross_replica:
            # The forward pass contains an all-gather, which a strategy allows in no loop.
            total = one(0)
            for i in range(1, self.grad_accum):
                total = tf.nest.map_structure(tf.add, total, one(i))
            return total
        # Starting from zeros instead of the first micro-batch, the program contains the model once,
        # not twice, and compiles in half the time.
        traced = tf.function(one, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.int32)
        )
        zeros = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), traced.structured_outputs
        )
        # No maximum_iterations: a second condition hides the trip count from XLA.
        _, total = tf.while_loop(
            lambda i, _: i < self.grad_accum,
            lambda i, total: (i + 1, tf.nest.map_structure(tf.add, total, one(i))),
            (tf.constant(0), zeros),
        )
        return total

    def update(
        self,
        values: Sequence[tf.Tensor],
        slots: Sequence[tuple[tf.Tensor, ...]],
        grads: Gradients,
        sums: LossSums,
        index: tf.Tensor,
        replica: tf.Tensor | int = 0,
    ) -> StepResult:
        """Values and slots after update number `index` (int64, from 0).

        `grads` and `sums` are those of the global batch. A batch without a target (weight 0) has
        zero gradients, not NaN. With sharding the results are the shares of replica number
        `replica`, which `gathered` joins.
        """
        scale = tf.nest.map_structure(lambda weight: 1.0 / tf.maximum(weight, 1.0), sums.weight)

        def mean(gradient: Any) -> tf.Tensor:
            if isinstance(gradient, dict):
                return tf.add_n([part * scale[term] for term, part in gradient.items()])
            return gradient * scale

        with tf.name_scope("clip"):
            means = [mean(g) for g in grads]
            # Of whole gradients on every replica: the same bits for any number of shares.
            norm = global_norm(means)
            if self.sharding.count > 1:
                # Divided before the mean, or XLA's own weight-update sharding gathers the means.
                own = self.sharding.own
                means = [mean(tf.nest.map_structure(lambda t: own(t, replica), g)) for g in grads]
            clipped, norm = clip_by_global_norm(means, self.clip, norm)
        mask = [decays(path, v.shape) for path, v in zip(self.paths, values, strict=True)]
        with tf.name_scope("optimizer"):
            new_values, new_slots = self.optimizer.apply(
                [self.sharding.own(v, replica) for v in values],
                clipped,
                slots,
                lr=self.schedule(index),
                step=index,
                decay_mask=mask,
            )
        return StepResult(new_values, new_slots, sums, norm)

    def gathered(self, result: StepResult, replicas: Replicas) -> StepResult:
        """The result of `update` with the values of all replicas."""
        shapes = [v.shape.as_list() for v in named_variables(self.model).values()]
        return result._replace(values=self.sharding.whole(result.values, shapes, replicas))

    def __call__(
        self,
        values: Sequence[tf.Tensor],
        slots: Sequence[tuple[tf.Tensor, ...]],
        batch: Batch,
        index: tf.Tensor,
        replicas: Replicas = ALONE,
    ) -> StepResult:
        """The whole step of one replica."""
        grads, sums = summed(self.gradients(values, batch, replicas), replicas.all_reduce)
        result = self.update(values, slots, grads, sums, index, replicas.index)
        return self.gathered(result, replicas)


def _micro_batches(rows: tf.Tensor, count: int) -> tf.Tensor:
    """Rows `[n, ...]` distributed round-robin over micro-batches, `[count, n / count, ...]`.

    The examples of a micro-batch over all replicas are then the same for any number of replicas,
    so an objective that compares examples has the same loss.
    """
    return tf.stack([rows[i::count] for i in range(count)])


def _dense(gradient: Any) -> tf.Tensor:
    """A gradient, which may be rows of a table, as a dense float32 tensor."""
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def summed(nest: Any, all_reduce: AllReduce) -> Any:
    """A nest of tensors, each summed over replicas."""
    return tf.nest.pack_sequence_as(nest, all_reduce(tf.nest.flatten(nest)))


def specs(tensors: Any) -> Any:
    """The `tf.TensorSpec`s of a nest of tensors, for lowering a step."""
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tensors)
