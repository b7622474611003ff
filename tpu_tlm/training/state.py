"""The state of a run on the devices: model values, optimizer slots, number of updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from tpu_tlm.checkpoints.tensor_bundle import host_tensor, on_host
from tpu_tlm.errors import TlmError
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.objectives.replicas import of_strategy
from tpu_tlm.training.host_copies import HostCopies
from tpu_tlm.training.step import StepResult, TrainStep

# Bytes of divided slots that a save gathers at a time on every device.
_PART = 256 << 20


class TrainState:
    """Variables of a run by checkpoint name, `model/PATH` and `slots/SLOT/PATH`, and `index`, the
    number of updates made (int64).

    Under a strategy every replica has its own copy and assigns it: after the all-reduce, all
    replicas compute the same update. Where the step divides the optimizer's slots among replicas,
    each has its share of them; snapshots and checkpoints have them whole.
    """

    def __init__(self, step: TrainStep, strategy: tf.distribute.Strategy | None = None) -> None:
        self.strategy, self._sharding = strategy, step.sharding
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
            # The whole shapes of the slots that are divided.
            self._divided: dict[str, tuple[int, ...]] = {}
            for path, value in initial.items():
                shapes = step.slots_of(value.shape)
                self.slots.append(
                    tuple(
                        tf.Variable(tf.zeros(s), name=f"{path}_{n}", trainable=False, **own)
                        for n, s in shapes.items()
                    )
                )
                names.extend(f"slots/{n}/{path}" for n in shapes)
                if step.sharding.axis(value.shape) is not None:
                    whole = step.optimizer.slots_of(value.shape)
                    self._divided |= {f"slots/{n}/{path}": s for n, s in whole.items()}
            self.index = tf.Variable(0, dtype=tf.int64, name="index", trainable=False, **own)
        self._gathers: list[tuple[list[str], Callable[[], list[tf.Tensor]]]] = []
        self._host_copies: dict[str, HostCopies] = {}
        self.paths = list(initial)
        self._named = dict(zip([f"model/{p}" for p in self.paths], self.values, strict=True))
        self._named.update(zip(names, tf.nest.flatten(self.slots), strict=True))

    def read(self) -> tuple[list[tf.Tensor], list[tuple[tf.Tensor, ...]], tf.Tensor]:
        """Values, slots and index as tensors; in a replica, its own copy."""
        # `read_value` would add an operation to each that only copies between devices.
        return (
            [v.value() for v in self.values],
            [tuple(s.value() for s in slots) for slots in self.slots],
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

    def _copies(self, variable: tf.Variable) -> Sequence[tf.Variable]:
        """The variables of the replicas of this process."""
        if self.strategy is None:
            return [variable]
        found: Sequence[tf.Variable] = self.strategy.experimental_local_results(variable)
        return found

    def _local(self, variable: tf.Variable) -> tf.Variable:
        return self._copies(variable)[0]

    def updates(self) -> int:
        """Number of updates made."""
        return int(self._local(self.index).numpy())

    @property
    def communicates(self) -> bool:
        """Whether `snapshot` needs all processes of the run at the same time."""
        return bool(self._divided) and len(self._copies(self.index)) < self._sharding.count

    def snapshot(self, keep: bool = True, trains_on: bool = False) -> dict[str, tf.Tensor]:
        """The present values of a checkpoint by name, in the host's memory.

        They stay as they are while training goes on: those of another device are copied, and those
        of the host are kept by TensorFlow as long as they are referred to. keep: False returns
        nothing, but takes part in what `communicates`. trains_on: steps follow while the values
        are referred to; copies those of the host too, since steps would take new memory for them.
        """
        found = {}
        if keep:
            found = self._undivided(trains_on)
        if self.communicates:
            found |= self._received(keep, trains_on)
        else:
            found |= self._joined(trains_on)
        # In the order of a checkpoint without sharding.
        return {name: found[name] for name in self._named} if keep else {}

    def _undivided(self, trains_on: bool) -> dict[str, tf.Tensor]:
        """What is whole on every replica."""
        # Two blocks of copies: the model's values are referred to for longer than the slots.
        parts: dict[str, dict[str, tf.Tensor]] = {"model": {}, "slots": {}}
        for name, variable in self._named.items():
            if name not in self._divided:
                part = parts[name.split("/", maxsplit=1)[0]]
                part[name] = self._local(variable).read_value()
        found: dict[str, tf.Tensor] = {}
        for key, part in parts.items():
            found |= self._held(key, part, trains_on)
        return found

    def _held(
        self, key: str, tensors: Mapping[str, tf.Tensor], trains_on: bool
    ) -> dict[str, tf.Tensor]:
        """Tensors as `snapshot` returns them. key: names the memory of their copies."""
        if trains_on and all(on_host(tensor) for tensor in tensors.values()):
            return self._host_copies.setdefault(key, HostCopies()).make(tensors)
        self._host_copies.pop(key, None)
        return {name: host_tensor(tensor) for name, tensor in tensors.items()}

    def _joined(self, trains_on: bool) -> dict[str, tf.Tensor]:
        """The divided slots from the shares of this process's replicas."""
        found: dict[str, tf.Tensor] = {}
        for name, shape in self._divided.items():
            shares = [host_tensor(v.read_value()) for v in self._copies(self._named[name])]
            with tf.device(None), tf.device("CPU:0"):
                table = tf.stack(shares, axis=self._sharding.axis(shape))
                whole = {name: self._sharding.joined(table, shape)}
            found |= self._held(name, whole, trains_on)
        return found

    def _received(self, keep: bool, trains_on: bool) -> dict[str, tf.Tensor]:
        """The divided slots from the replicas of all processes, a part at a time."""
        if not self._gathers:
            self._gathers = [(names, self._gather(names)) for names in self._parts()]
        found: dict[str, tf.Tensor] = {}
        for names, gather in self._gathers:
            # No reference to a part stays while the next one is gathered.
            if keep:
                whole = zip(names, gather(), strict=True)
                found |= self._held(names[0], dict(whole), trains_on)
                del whole
            else:
                gather()
        return found

    def _parts(self) -> list[list[str]]:
        """Names of divided slots that are gathered together; whole, they take `_PART` bytes."""
        parts: list[list[str]] = [[]]
        size = 0
        for name, shape in self._divided.items():
            own = 4 * int(np.prod(shape))
            if parts[-1] and size + own > _PART:
                parts.append([])
                size = 0
            parts[-1].append(name)
            size += own
        return parts

    def _gather(self, names: Sequence[str]) -> Callable[[], list[tf.Tensor]]:
        """A function that gathers these slots on every replica, and returns one copy of them."""
        strategy, sharding = self.strategy, self._sharding
        assert strategy is not None
        variables = [self._named[name] for name in names]
        shapes = [self._divided[name] for name in names]

        def on_replica() -> list[tf.Tensor]:
            return sharding.whole([v.read_value() for v in variables], shapes, of_strategy())

        def gather() -> list[tf.Tensor]:
            return [strategy.experimental_local_results(v)[0] for v in strategy.run(on_replica)]

        function: Callable[[], list[tf.Tensor]] = tf.function(gather, autograph=False)
        return function

    def model_arrays(self) -> dict[str, np.ndarray]:
        """The model's values, by path."""
        return {
            path: self._local(variable).numpy()
            for path, variable in zip(self.paths, self.values, strict=True)
        }

    def _set(self, variable: tf.Variable, value: np.ndarray) -> None:
        for copy in self._copies(variable):
            copy.assign(value)

    def _replica_numbers(self) -> list[int]:
        """The numbers of this process's replicas among all."""
        if self.strategy is None:
            return [0]
        numbers = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(context.replica_id_in_sync_group)
        )
        return [int(n) for n in self.strategy.experimental_local_results(numbers)]

    def restore(self, arrays: Mapping[str, np.ndarray], index: int, where: str) -> None:
        """Restore a checkpoint.

        Raises `TlmError` naming `where` when a variable is missing or has another shape.
        """
        for name in self._named:
            if name not in arrays:
                raise TlmError(
                    f"{where}: has no {name!r}; was the run made with another optimizer or model?"
                )
        replicas = self._replica_numbers() if self._divided else []
        for name, variable in self._named.items():
            # One at a time: a mapping that reads from a file holds none of them.
            array = arrays[name]
            shape = self._divided.get(name, tuple(variable.shape))
            if tuple(array.shape) != shape:
                raise TlmError(
                    f"{where}: {name!r} has shape {list(array.shape)}, this run needs {list(shape)}"
                )
            if name not in self._divided:
                self._set(variable, array)
                continue
            for replica, copy in zip(replicas, self._copies(variable), strict=True):
                copy.assign(self._sharding.own(tf.constant(array), replica))
        self._set(self.index, np.int64(index))

    def set_model(self, values: Mapping[str, np.ndarray]) -> None:
        """Assign a model's values by path, without changing the optimizer's slots."""
        for path, variable in zip(self.paths, self.values, strict=True):
            self._set(variable, values[path])

    def copies(self) -> Sequence[dict[str, np.ndarray]]:
        """The model's values on each local replica, to check that replicas stay equal."""
        return [
            {
                path: self._copies(variable)[replica].numpy()
                for path, variable in zip(self.paths, self.values, strict=True)
            }
            for replica in range(len(self._copies(self.index)))
        ]


def not_finite(values: Mapping[str, Any]) -> str:
    """The first array or tensor that has values which are not finite, "" if there is none."""
    return next((n for n, value in values.items() if not np.isfinite(np.asarray(value)).all()), "")
