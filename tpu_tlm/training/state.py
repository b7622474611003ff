"""The state of a run on the devices: model values, optimizer slots, number of updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.checkpoints.tensor_bundle import host_tensor
from tpu_tlm.errors import TlmError
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.training.step import StepResult, TrainStep


class TrainState:
    """Variables of a run by checkpoint name, `model/PATH` and `slots/SLOT/PATH`, and `index`, the
    number of updates made (int64).

    Under a strategy every replica has its own copy and assigns it: after the all-reduce, all
    replicas compute the same update.
    """

    def __init__(self, step: TrainStep, strategy: tf.distribute.Strategy | None = None) -> None:
        self.strategy = strategy
        own: dict[str, Any] = {}
        if strategy is not None:
            own = {
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
            }
        with strategy.scope() if strategy is not None else nullcontext():
            initial = {path: np.asarray(v) for path, v in named_variables(step.model).items()}
            self.values = [
                tf.Variable(value, name=path, trainable=False, **own)
                for path, value in initial.items()
            ]
            self.slots: list[tuple[tf.Variable, ...]] = []
            names: list[str] = []
            for path, value in initial.items():
                shapes = step.optimizer.slots_of(value.shape)
                self.slots.append(
                    tuple(
                        tf.Variable(tf.zeros(s), name=f"{path}_{n}", trainable=False, **own)
                        for n, s in shapes.items()
                    )
                )
                names.extend(f"slots/{n}/{path}" for n in shapes)
            self.index = tf.Variable(0, dtype=tf.int64, name="index", trainable=False, **own)
        self.paths = list(initial)
        self._named = dict(zip([f"model/{p}" for p in self.paths], self.values, strict=True))
        self._named.update(zip(names, tf.nest.flatten(self.slots), strict=True))

    def read(self) -> tuple[list[tf.Tensor], list[tuple[tf.Tensor, ...]], tf.Tensor]:
        """Values, slots and index as tensors; in a replica, its own copy."""
        return (
            [v.read_value() for v in self.values],
            [tuple(s.read_value() for s in slots) for slots in self.slots],
            self.index.read_value(),
        )

    def assign(self, result: StepResult) -> None:
        """Assign the state after a step, and increment the index."""
        for variable, value in zip(self.values, result.values, strict=True):
            variable.assign(value, read_value=False)
        for variables, values in zip(self.slots, result.slots, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value, read_value=False)
        self.index.assign(self.index.read_value() + 1, read_value=False)

    def _local(self, variable: tf.Variable) -> tf.Variable:
        return (
            variable
            if self.strategy is None
            else self.strategy.experimental_local_results(variable)[0]
        )

    def updates(self) -> int:
        """Number of updates made."""
        return int(self._local(self.index).numpy())

    def snapshot(self) -> dict[str, tf.Tensor]:
        """The present values of a checkpoint by name, in the host's memory.

        They stay as they are while training goes on: those of another device are copied, and those
        of the host are kept by TensorFlow as long as they are referred to.
        """
        return {
            name: host_tensor(self._local(variable).read_value())
            for name, variable in self._named.items()
        }

    def model_arrays(self) -> dict[str, np.ndarray]:
        """The model's values, by path."""
        return {
            path: self._local(variable).numpy()
            for path, variable in zip(self.paths, self.values, strict=True)
        }

    def _set(self, variable: tf.Variable, value: np.ndarray) -> None:
        copies = (
            [variable]
            if self.strategy is None
            else self.strategy.experimental_local_results(variable)
        )
        for copy in copies:
            copy.assign(value)

    def restore(self, arrays: Mapping[str, np.ndarray], index: int, where: str) -> None:
        """Restore a checkpoint.

        Raises `TlmError` naming `where` when a variable is missing or has another shape.
        """
        for name in self._named:
            if name not in arrays:
                raise TlmError(
                    f"{where}: has no {name!r}; was the run made with another optimizer or model?"
                )
        for name, variable in self._named.items():
            # One at a time: a mapping that reads from a file holds none of them.
            array = arrays[name]
            if tuple(array.shape) != tuple(variable.shape):
                raise TlmError(
                    f"{where}: {name!r} has shape {list(array.shape)}, this run needs"
                    f" {list(variable.shape)}"
                )
            self._set(variable, array)
        self._set(self.index, np.int64(index))

    def set_model(self, values: Mapping[str, np.ndarray]) -> None:
        """Assign a model's values by path, without changing the optimizer's slots."""
        for path, variable in zip(self.paths, self.values, strict=True):
            self._set(variable, values[path])

    def copies(self) -> Sequence[dict[str, np.ndarray]]:
        """The model's values on each local replica, to check that replicas stay equal."""
        count = (
            1
            if self.strategy is None
            else len(self.strategy.experimental_local_results(self.index))
        )

        def on(variable: tf.Variable, replica: int) -> np.ndarray:
            return (
                variable
                if self.strategy is None
                else self.strategy.experimental_local_results(variable)[replica]
            ).numpy()

        return [
            {p: on(v, r) for p, v in zip(self.paths, self.values, strict=True)}
            for r in range(count)
        ]


def not_finite(values: Mapping[str, Any]) -> str:
    """The first array or tensor that has values which are not finite, "" if there is none."""
    return next((n for n, value in values.items() if not np.isfinite(np.asarray(value)).all()), "")
