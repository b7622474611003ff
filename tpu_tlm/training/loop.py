"""The compiled training and evaluation loops, on one device or under a strategy."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tpu_tlm.models.layers.shared import sharing
from tpu_tlm.objectives.base import Batch, LossSums
from tpu_tlm.objectives.replicas import of_strategy
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import Gradients, StepResult, TrainStep, summed


class Totals(NamedTuple):
    """Sums of one call over its steps, as Python numbers.

    `losses`: sum and weight of the loss, or of each of its terms; `metrics`: sum and count by name;
    `grad_norm`: mean norm of the gradient; `bad_step`: index of the first update whose loss or
    gradient was not finite, -1 if none; `waited`: seconds in which the device had no batch.
    """

    losses: tuple[tuple[float, float], ...]
    metrics: dict[str, tuple[float, float]]
    grad_norm: float
    bad_step: int
    waited: float

    @property
    def loss(self) -> float:
        """Loss per target, summed over terms; NaN without any target."""
        return (
            sum(total / weight for total, weight in self.losses if weight)
            if self.weight
            else float("nan")
        )

    @property
    def weight(self) -> float:
        """Number of targets; for several terms, of the term with the most."""
        return max(weight for _, weight in self.losses)

    def mean(self, name: str) -> float:
        """Mean of a metric; NaN where its count is 0."""
        total, count = self.metrics[name]
        return total / count if count else float("nan")

    def plus(self, more: Totals) -> Totals:
        """The sums of two parts of an evaluation."""
        metrics = {
            name: (total + more.metrics[name][0], count + more.metrics[name][1])
            for name, (total, count) in self.metrics.items()
        }
        losses = tuple(
            (a + c, b + d) for (a, b), (c, d) in zip(self.losses, more.losses, strict=True)
        )
        return self._replace(losses=losses, metrics=metrics)


def _compiled(function: Callable[..., Any], xla: bool) -> Callable[..., Any]:
    compiled: Callable[..., Any] = tf.function(function, jit_compile=xla or None, autograph=False)
    return compiled


# Steps in one compiled program of a single device. A program allocates its working memory at every
# call, and the page faults alone cost a small model on a CPU 15 % of its step.
CHUNK = 10


def _added(total: LossSums, more: LossSums) -> LossSums:
    added: LossSums = tf.nest.map_structure(lambda a, b: a + tf.cast(b, a.dtype), total, more)
    return added


def _count(done: Sequence[Any], more: Sequence[Any]) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
    """Add (sums, norms, first bad update) of the next steps to those so far."""
    (sums, norms, bad), (new_sums, new_norms, new_bad) = done, more
    # On the host: a few float64 scalars, each of which would be a program of its own on a TPU.
    with tf.device("CPU:0"):
        return _added(sums, new_sums), norms + new_norms, tf.where(bad < 0, new_bad, bad)


class Loop:
    """Runs steps and evaluations of a `TrainStep` on its `TrainState`.

    `xla`: whether to compile the step. A TPU strategy always compiles it. Under other strategies
    the two pure halves of the step (gradients, update) are compiled, with the all-reduce between
    them, since XLA refuses variables of another device.
    """

    def __init__(
        self, step: TrainStep, state: TrainState, *, xla: bool = True, on_tpu: bool = False
    ) -> None:
        self.step, self.state, self.strategy = step, state, state.strategy
        inner = xla and not on_tpu
        if self.strategy is None:
            self._train = _compiled(self._steps_of, inner)
            self._evaluate = _compiled(self._evaluate_one, inner)
        else:
            self._update = _compiled(step.update, inner) if inner else step.update
            # An objective with an all-gather inside cannot be a program of one device.
            whole = inner and not step.objective.cross_replica
            self._gradients = (
                _compiled(step.gradients, True) if whole else self._cross_replica_gradients
            )
            self._sums = (
                _compiled(self._evaluation_sums, True) if whole else self._cross_replica_sums
            )
            self._train = lambda batch: self._on_replicas(self._train_replica, batch)
            self._evaluate = lambda batch: self._on_replicas(self._evaluate_replica, batch)
        # Traced with the number of steps as a tensor, so that another number is not retraced.
        self._train_call = tf.function(_without_collections(self._train_loop), autograph=False)
        self._evaluate_call = tf.function(
            _without_collections(self._evaluate_loop), autograph=False
        )

    def _on_replicas(self, function: Callable[..., Any], batch: Batch) -> Any:
        """Run a function on every replica; returns one copy of its result, equal on all."""
        assert self.strategy is not None
        per_replica = self.strategy.run(function, (batch,))
        return tf.nest.map_structure(
            lambda t: self.strategy.experimental_local_results(t)[0], per_replica
        )  # type: ignore[union-attr]

    def _outcome(
        self, result: StepResult, index: tf.Tensor
    ) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
        self.state.assign(result)
        loss = tf.add_n(tf.nest.flatten(result.sums.loss))
        finite = tf.logical_and(tf.math.is_finite(loss), tf.math.is_finite(result.norm))
        return result.sums, result.norm, tf.where(finite, tf.constant(-1, tf.int64), index)

    def _train_one(self, batch: Batch) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
        """One update: its sums, the norm of its gradient, and its index if one of these is not
        finite, else -1."""
        values, slots, index = self.state.read()
        with sharing():
            return self._outcome(self.step(values, slots, batch, index), index)

    def _train_replica(self, batch: Batch) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
        values, slots, index = self.state.read()
        replicas = of_strategy()
        grads, sums = summed(self._gradients(values, batch), replicas.all_reduce)
        if self.step.sharding.count == 1:
            return self._outcome(self._update(values, slots, grads, sums, index), index)
        # As a tensor, so that the update is traced once for all replicas.
        replica = tf.convert_to_tensor(replicas.index, tf.int32)
        result = self._update(values, slots, grads, sums, index, replica)
        return self._outcome(self.step.gathered(result, replicas), index)

    def _cross_replica_gradients(
        self, values: list[tf.Tensor], batch: Batch
    ) -> tuple[Gradients, LossSums]:
        return self.step.gradients(values, batch, of_strategy())

    def _cross_replica_sums(self, values: list[tf.Tensor], batch: Batch) -> LossSums:
        return self.step.sums(values, batch, training=False, replicas=of_strategy())

    def _evaluation_sums(self, values: list[tf.Tensor], batch: Batch) -> LossSums:
        return self.step.sums(values, batch, training=False)

    def _evaluate_one(self, batch: Batch) -> LossSums:
        with sharing():
            return self._evaluation_sums(self.state.read()[0], batch)

    def _evaluate_replica(self, batch: Batch) -> LossSums:
        sums = self._sums(self.state.read()[0], batch)
        return summed(sums, of_strategy().all_reduce)  # type: ignore[no-any-return]

    def _zeros(self) -> LossSums:
        # Sums over many steps pass 2**24, where adding ones in float32 stops counting.
        zero = tf.zeros([], tf.float64)
        loss = {term: zero for term in self.step.objective.loss_terms} or zero
        return LossSums(loss, loss, {name: (zero, zero) for name in self.step.objective.metrics})

    def _nothing(self) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
        return self._zeros(), tf.zeros([]), tf.constant(-1, tf.int64)

    def _next(self, iterator: Iterator[Batch], after: Any) -> tuple[Batch, tf.Tensor]:
        """The next batch, and the seconds spent waiting for it.

        `after`: tensors of the step before, which the read is ordered after.
        """
        # Flattened: TensorFlow silently takes no dependency on a dict.
        with tf.control_dependencies(tf.nest.flatten(after)):
            begun = tf.timestamp()
        with tf.control_dependencies([begun]):
            batch = next(iterator)
        with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
            return batch, tf.timestamp() - begun

    def _steps_of(self, batches: Batch, steps: tf.Tensor) -> tuple[LossSums, tf.Tensor, tf.Tensor]:
        """The first `steps` of stacked batches `[CHUNK, rows, ...]`, in one program.

        Returns their sums, summed norms and first bad update.
        """

        def body(i: tf.Tensor, *done: Any) -> tuple[Any, ...]:
            return i + 1, *_count(
                done, self._train_one({name: b[i] for name, b in batches.items()})
            )

        return tf.while_loop(
            lambda i, *_: i < steps, body, (tf.constant(0), *self._nothing()), parallel_iterations=1
        )[1:]  # type: ignore[no-any-return]

    def _stacked(
        self, iterator: Iterator[Batch], count: tf.Tensor, after: Any
    ) -> tuple[Batch, tf.Tensor]:
        """The next `count` batches in arrays of CHUNK, and the seconds they were waited for."""
        specs = iterator.element_spec  # type: ignore[attr-defined]

        def body(
            i: tf.Tensor, arrays: dict[str, tf.TensorArray], waited: tf.Tensor
        ) -> tuple[Any, ...]:
            batch, wait = self._next(iterator, waited)
            return (
                i + 1,
                {name: array.write(i, batch[name]) for name, array in arrays.items()},
                waited + wait,
            )

        with tf.control_dependencies(tf.nest.flatten(after)):
            begin = tf.zeros([], tf.float64)
        arrays = {
            name: tf.TensorArray(s.dtype, CHUNK, element_shape=s.shape) for name, s in specs.items()
        }
        _, arrays, waited = tf.while_loop(
            lambda i, *_: i < count, body, (tf.constant(0), arrays, begin), parallel_iterations=1
        )
        return {
            name: tf.ensure_shape(array.stack(), (CHUNK, *specs[name].shape))
            for name, array in arrays.items()
        }, waited

    def _train_loop(
        self, iterator: Iterator[Batch], steps: tf.Tensor
    ) -> tuple[LossSums, tf.Tensor, tf.Tensor, tf.Tensor]:
        def chunk(i: tf.Tensor, waited: tf.Tensor, *done: Any) -> tuple[Any, ...]:
            count = tf.minimum(steps - i, CHUNK)
            batches, wait = self._stacked(iterator, count, done[0].loss)
            return i + count, waited + wait, *_count(done, self._train(batches, count))

        def single(i: tf.Tensor, waited: tf.Tensor, *done: Any) -> tuple[Any, ...]:
            batch, wait = self._next(iterator, done[0].loss)
            return i + 1, waited + wait, *_count(done, self._train(batch))

        start = (tf.constant(0), tf.zeros([], tf.float64), *self._nothing())
        body = chunk if self.strategy is None else single
        _, waited, sums, norms, bad = tf.while_loop(
            lambda i, *_: i < steps, body, start, parallel_iterations=1
        )
        return sums, norms / tf.cast(steps, tf.float32), bad, waited

    def _evaluate_loop(self, iterator: Iterator[Batch], batches: tf.Tensor) -> LossSums:
        def body(i: tf.Tensor, total: LossSums) -> tuple[tf.Tensor, LossSums]:
            batch, _ = self._next(iterator, total.loss)
            return i + 1, _added(total, self._evaluate(batch))

        _, total = tf.while_loop(
            lambda i, _: i < batches, body, (tf.constant(0), self._zeros()), parallel_iterations=1
        )
        return total

    @staticmethod
    def _totals(sums: LossSums, norm: float = 0.0, bad: int = -1, waited: float = 0.0) -> Totals:
        metrics = {
            name: (float(total), float(count)) for name, (total, count) in sums.metrics.items()
        }
        losses = zip(tf.nest.flatten(sums.loss), tf.nest.flatten(sums.weight), strict=True)
        return Totals(
            tuple((float(total), float(weight)) for total, weight in losses),
            metrics,
            norm,
            bad,
            waited,
        )

    def train(self, iterator: Iterator[Batch], steps: int) -> Totals:
        """Make `steps` updates with the next batches of the iterator."""
        sums, norm, bad, waited = self._train_call(iterator, tf.constant(steps))
        return self._totals(sums, float(norm), int(bad), float(waited))

    def evaluate(self, iterator: Iterator[Batch], count: int) -> Totals:
        """Exact sums over the next `count` batches of the iterator, without an update."""
        return self._totals(self._evaluate_call(iterator, tf.constant(count)))


def _without_collections(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced without collections of garbage: the objects of a graph stay, and each
    collection would look through all that there are by then."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        if not gc.isenabled():
            return function(*args)
        gc.disable()
        try:
            return function(*args)
        finally:
            gc.enable()

    return traced
