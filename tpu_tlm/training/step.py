"""The training step as a pure function: (values, slots, batch, index) -> (new values, new slots, sums)."""

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

Schedule = Callable[[tf.Tensor], tf.Tensor]
# For every value its gradient; of a loss in several parts, those of the parts that reach it, by name.
Gradients = list[Any]


class StepResult(NamedTuple):
    """What a step hands back: the state after it, its sums over the global batch, and the norm of the gradient before clipping."""

    values: list[tf.Tensor]
    slots: list[tuple[tf.Tensor, ...]]
    sums: LossSums
    norm: tf.Tensor


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step of a model under an objective.

    Everything goes in and comes out as tensors, no variable is read or assigned: the same function runs under any strategy (which
    hands in its all-reduce), in a test, and through the ahead-of-time compiler. Gradients of the loss *sum* are added up over
    micro-batches and replicas and divided by the global weight once, then clipped by their global norm. A loss that is the sum of several
    means has a gradient of each part until then: only where two parts meet (ELECTRA's shared table) is that one more to keep and to sum.
    """

    model: keras.Model
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    clip: float
    seed: int
    grad_accum: int = 1

    @property
    def paths(self) -> list[str]:
        """Paths of the values, in their order."""
        return list(named_variables(self.model))

    def sums(
        self,
        values: Sequence[tf.Tensor],
        batch: Batch,
        *,
        training: bool,
        replicas: Replicas = ALONE,
    ) -> LossSums:
        """The objective's sums on a batch with the model's variables replaced by `values`."""
        mapping = list(zip(named_variables(self.model).values(), values, strict=True))
        others = {"replicas": replicas} if self.objective.cross_replica else {}
        with keras.StatelessScope(state_mapping=mapping):
            return self.objective(
                self.model, batch, Key.of(self.seed, batch["position"]), training=training, **others
            )

    def _micro_gradients(
        self, values: Sequence[tf.Tensor], batch: Batch, replicas: Replicas
    ) -> tuple[Gradients, LossSums]:
        parts = self.objective.parts
        with tf.GradientTape(persistent=bool(parts)) as tape:
            tape.watch(values)
            sums = self.sums(values, batch, training=True, replicas=replicas)
        if not parts:
            grads = tape.gradient(
                sums.loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return [_dense(g) for g in grads], sums
        by_part = {part: tape.gradient(sums.loss[part], values) for part in parts}
        found = [
            {part: _dense(g[i]) for part, g in by_part.items() if g[i] is not None}
            for i in range(len(values))
        ]
        return [g or {parts[0]: tf.zeros_like(v)} for g, v in zip(found, values, strict=True)], sums

    def gradients(
        self, values: Sequence[tf.Tensor], batch: Batch, replicas: Replicas = ALONE
    ) -> tuple[Gradients, LossSums]:
        """Gradients of the loss sum, and the sums, of this replica's rows; micro-batches run one after another inside the program."""
        if self.grad_accum == 1:
            return self._micro_gradients(values, batch, replicas)
        micro = {k: _dealt(v, self.grad_accum) for k, v in batch.items()}

        def one(i: Any) -> tuple[Gradients, LossSums]:
            return self._micro_gradients(values, {k: v[i] for k, v in micro.items()}, replicas)

        if replicas.count > 1 and self.objective.cross_replica:
            # Replicas meet in the middle of the forward pass, which a strategy allows in no loop.
            total = one(0)
            for i in range(1, self.grad_accum):
                total = tf.nest.map_structure(tf.add, total, one(i))
            return total
        # From zeros, not from the first micro-batch: the program then holds the model once, not twice, and compiles in half the time.
        traced = tf.function(one, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.int32)
        )
        zeros = tf.nest.map_structure(
            lambda spec: tf.zeros(spec.shape, spec.dtype), traced.structured_outputs
        )
        # No maximum_iterations: a second condition would hide the number of rounds from XLA.
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
    ) -> StepResult:
        """Values and slots after update number `index` (int64, from 0), from gradients and sums of the global batch.

        A batch with no target (weight 0) has zero gradients, not NaN.
        """
        scale = tf.nest.map_structure(lambda weight: 1.0 / tf.maximum(weight, 1.0), sums.weight)
        means = [
            tf.add_n([part * scale[name] for name, part in g.items()])
            if isinstance(g, dict)
            else g * scale
            for g in grads
        ]
        with tf.name_scope("clip"):
            clipped, norm = clip_by_global_norm(means, self.clip)
        mask = [decays(path, v.shape) for path, v in zip(self.paths, values, strict=True)]
        with tf.name_scope("optimizer"):
            new_values, new_slots = self.optimizer.apply(
                values, clipped, slots, lr=self.schedule(index), step=index, decay_mask=mask
            )
        return StepResult(new_values, new_slots, sums, norm)

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
        return self.update(values, slots, grads, sums, index)


def _dealt(rows: tf.Tensor, parts: int) -> tf.Tensor:
    """Rows `[n, ...]` dealt out to micro-batches in turn, `[parts, n / parts, ...]`.

    So the examples of a micro-batch over all replicas are the same for any number of replicas, whatever share of the batch each has: an
    objective that compares them has the same loss.
    """
    return tf.stack([rows[i::parts] for i in range(parts)])


def _dense(gradient: Any) -> tf.Tensor:
    """A gradient as a float32 tensor, also one that came as rows of a table."""
    return tf.cast(tf.convert_to_tensor(gradient), tf.float32)


def summed(nest: Any, all_reduce: AllReduce) -> Any:
    """A nest of tensors, each summed over the replicas."""
    return tf.nest.pack_sequence_as(nest, all_reduce(tf.nest.flatten(nest)))


def specs(tensors: Any) -> Any:
    """`tf.TensorSpec`s of a nest of tensors: what to lower a step with."""
    return tf.nest.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), tensors)
