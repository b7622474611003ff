"""Outputs of a task's model for examples, in a few static programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.tasks.base import FEATURES
from tpu_tlm.tasks.batches import in_order, make_buckets
from tpu_tlm.tasks.examples import Examples

Forward = Callable[[dict[str, tf.Tensor]], tf.Tensor]


class Outputs:
    """Runs a function of features on all windows of examples and joins windows to rows.

    forward: features `{x: int32 [B, T], ...}` -> float32 `[B, n]` or `[B, T, n]`; traced once for
    each shape. lengths: that windows are padded to; longer ones are padded to a multiple of 8, at
    most `limit`. strategy: its local replicas share each batch; forward then runs in a replica.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        lengths: Sequence[int],
        limit: int,
        pad_id: int,
        batch: int = 64,
        xla: bool = False,
        strategy: Any = None,
    ) -> None:
        self.lengths, self.limit, self.pad_id, self.strategy = (
            list(lengths),
            limit,
            pad_id,
            strategy,
        )
        self.replicas = 1
        if strategy is not None:
            local = strategy.experimental_local_results(
                strategy.experimental_distribute_values_from_function(lambda _: 0)
            )
            self.replicas = len(local)
        self.batch = -(-batch // self.replicas) * self.replicas
        self.forward, self.xla = forward, xla
        # One function for each shape: many traces of one function make TensorFlow warn.
        self._functions: dict[Any, Any] = {}

    def _function(self, features: dict[str, np.ndarray]) -> Any:
        key = tuple((name, array.shape) for name, array in sorted(features.items()))
        if key not in self._functions:
            call: Any = self.forward
            if self.strategy is not None:
                strategy, forward = self.strategy, self.forward
                call = lambda shares: strategy.run(forward, (shares,))  # noqa: E731
            xla = self.xla and self.strategy is None
            self._functions[key] = tf.function(call, jit_compile=xla or None, autograph=False)
        return self._functions[key]

    def _run(self, features: dict[str, np.ndarray]) -> np.ndarray:
        function = self._function(features)
        if self.strategy is None:
            return np.asarray(function({n: tf.constant(a) for n, a in features.items()}))

        def share(context: Any) -> dict[str, tf.Tensor]:
            own = context.replica_id_in_sync_group % self.replicas
            return {
                n: tf.constant(np.array_split(a, self.replicas)[own]) for n, a in features.items()
            }

        values = self.strategy.experimental_distribute_values_from_function(share)
        found = self.strategy.experimental_local_results(function(values))
        return np.concatenate([np.asarray(part) for part in found])

    def windows(
        self, examples: Examples, extra: dict[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The output of each window: float32 `[n]`, or `[its tokens, n]`. extra: features that
        take the place of token ids."""
        sizes = examples.lengths()
        lengths = list(self.lengths)
        if len(sizes) and sizes.max() > lengths[-1]:
            lengths.append(min(-(-int(sizes.max()) // 8) * 8, max(self.limit, int(sizes.max()))))
        # Nothing of a batch is left empty where there is little to do.
        rows = {
            length: -(-min(self.batch, max(1, len(sizes))) // self.replicas) * self.replicas
            for length in lengths
        }
        found: list[Any] = [None] * len(sizes)
        for bucket in make_buckets(examples, dict(extra or {}), lengths, self.pad_id, rows):
            for index, arrays in in_order(bucket, bucket.batch):
                names = ("u", "v") if extra else FEATURES
                features = {n: a for n, a in arrays.items() if n in names}
                out = self._run(features)
                for i, values in zip(index, out, strict=False):
                    found[i] = values if values.ndim == 1 else values[: len(examples.ids[i])]
        return found

    def rows(
        self, examples: Examples, extra: dict[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The output of each row: the mean over its windows `[n]`; of tagged sentences for each
        word the mean over the windows that hold it, `[words, n]`."""
        found = self.windows(examples, extra)
        if examples.words is None:
            total = np.zeros((examples.rows, found[0].shape[-1]), np.float64)
            np.add.at(total, examples.of, np.stack(found).astype(np.float64))
            return list((total / examples.windows()[:, None]).astype(np.float32))
        sums: list[dict[int, tuple[np.ndarray, int]]] = [{} for _ in range(examples.rows)]
        for row, words, values in zip(examples.of, examples.words, found, strict=True):
            for at in np.flatnonzero(words >= 0):
                before, count = sums[row].get(int(words[at]), (np.zeros(values.shape[-1]), 0))
                sums[row][int(words[at])] = before + values[at], count + 1
        return [
            np.stack([own[w][0] / own[w][1] for w in sorted(own)]).astype(np.float32)
            for own in sums
        ]
