"""A training step and its shapes -> the program that TensorFlow gives to the TPU compiler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tpu_tlm.errors import TlmError
from tpu_tlm.models.layers.target import traced_for
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.objectives.replicas import ALONE, Replicas
from tpu_tlm.training.step import TrainStep

# Operations that run Python or print on the host; a TPU program cannot hold them.
HOST_OPS = {
    "PyFunc",
    "EagerPyFunc",
    "PyFuncStateless",
    "Print",
    "PrintV2",
    "AsString",
    "StringFormat",
    "HostComputeMlir",
    "XlaHostCompute",
}
# XLA computes these from the static shapes of their inputs while it compiles, as for the gradient
# of a product that broadcasts. An input of unknown shape is found where it is made.
COMPILE_TIME_OPS = {"BroadcastGradientArgs"}


@dataclass(frozen=True)
class Lowered:
    """A lowered program.

    `hlo`: serialized `HloModuleProto`; `arguments`: their bytes; `donated`: argument -> output
    number; `replicas`: number of replicas in its all-reduces.
    """

    hlo: bytes
    arguments: int
    donated: Mapping[int, int]
    replicas: int


def replica_of(count: int) -> Replicas:
    """One of `count` replicas, with the operations that `TPUStrategy` uses inside its program."""
    if count == 1:
        return ALONE
    group = [list(range(count))]

    def all_reduce(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.raw_ops.CrossReplicaSum(input=t, group_assignment=group) for t in tensors]

    from tensorflow.compiler.tf2xla.python import xla

    return Replicas(count, xla.replica_id(), all_reduce)


def state_specs(step: TrainStep) -> tuple[list[tf.TensorSpec], list[tuple[tf.TensorSpec, ...]]]:
    """Shapes of the values and of the optimizer slots, as in `TrainState`."""
    shapes = [tuple(v.shape) for v in named_variables(step.model).values()]
    slots = [
        tuple(tf.TensorSpec(s, tf.float32) for s in step.slots_of(shape).values())
        for shape in shapes
    ]
    return [tf.TensorSpec(shape, tf.float32) for shape in shapes], slots


def trace(
    step: TrainStep,
    batch: Mapping[str, tf.TensorSpec],
    replicas: int = 1,
    device_type: str = "TPU",
    device_name: str = "",
) -> tuple[Any, list[tf.TensorSpec], Any]:
    """The step as a `tf.function` of flat tensors, their shapes, and its traced program.

    `batch`: specs of one replica's rows; `device_type`: "CPU", "GPU" or "TPU", whose form the
    program takes; `device_name`: of a TPU, such as "v6e-8".
    """
    nest = (*state_specs(step), dict(batch), tf.TensorSpec([], tf.int64))
    flat = tf.nest.flatten(nest)

    def train_step(*tensors: tf.Tensor) -> Any:
        values, slots, rows, index = tf.nest.pack_sequence_as(nest, tensors)
        with traced_for(device_type, device_name):
            return tf.nest.flatten(step(values, slots, rows, index, replica_of(replicas)))

    function = tf.function(train_step, jit_compile=True, autograph=False)
    return function, flat, function.get_concrete_function(*flat)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for function in graph._functions.values():
        if hasattr(function, "graph"):
            yield function.graph


def faults(traced: Any) -> list[str]:
    """What a TPU cannot run in a traced program: dynamic dimensions, strings, host calls."""
    found = []
    for graph in _graphs(traced.graph):
        # TensorFlow has placeholders of unknown shape for values that a loop condition does not
        # use.
        for op in (op for op in graph.get_operations() if "redundant_placeholder" not in op.name):
            if op.type in HOST_OPS:
                found.append(f"{op.name}: {op.type} runs on the host")
            for tensor in op.outputs:
                if tensor.dtype == tf.string:
                    found.append(f"{op.name}: {op.type} produces a string")
                elif (
                    op.type not in COMPILE_TIME_OPS
                    and tensor.dtype not in (tf.variant, tf.resource)
                    and not tensor.shape.is_fully_defined()
                ):
                    found.append(f"{op.name}: {op.type} has a dynamic dimension {tensor.shape}")
    return found


def lower(
    step: TrainStep, batch: Mapping[str, tf.TensorSpec], replicas: int = 1, device_name: str = ""
) -> Lowered:
    """Lower one replica's step with TensorFlow's TPU kernels; values and slots are donated.

    `batch`: specs of one replica's rows; `device_name`: of the TPU, such as "v6e-8". Needs the
    environment of `planning.environment`. Raises `TlmError` naming the operations that a TPU cannot
    run.
    """
    function, flat, traced = trace(step, batch, replicas, device_name=device_name)
    if found := faults(traced):
        raise TlmError(
            f"this step cannot run on a TPU: {'; '.join(found[:3])}"
            + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        )
    try:
        hlo = function.experimental_get_compiler_ir(*flat)(
            stage="hlo_serialized", platform_name="TPU"
        )
    except (tf.errors.OpError, ValueError) as error:
        raise TlmError(
            f"TensorFlow cannot lower this step for a TPU: {str(error).splitlines()[0]}"
        ) from None
    state = len(tf.nest.flatten(state_specs(step)))
    # Results begin with the values and slots, in the order of the arguments.
    size = sum(spec.shape.num_elements() * spec.dtype.size for spec in flat)
    return Lowered(hlo, size, {i: i for i in range(state)}, replicas)
