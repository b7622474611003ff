"""libtpu's compiler without a TPU: a lowered program -> memory and cost estimates, or a refusal."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm.errors import TlmError
from tpu_tlm.planning.chips import Slice
from tpu_tlm.planning.lower import Lowered


@dataclass(frozen=True)
class Compiled:
    """A compiled program of one chip.

    Bytes of memory: `arguments` and `outputs`, of which `aliased` share theirs (donated),
    `temporary` (working memory), `code`. `flops`: as the compiler counts them, a loop's body once;
    `text`: the optimized HLO.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    code: int
    flops: float
    bytes_accessed: float
    text: str

    @property
    def hbm(self) -> int:
        """Bytes of HBM that the program needs."""
        return self.arguments + self.outputs - self.aliased + self.temporary + self.code


@dataclass(frozen=True)
class Allocation:
    """One of the largest allocations of a refused program; `operation`: its name, with layers."""

    bytes: int
    operation: str
    shape: str


@dataclass(frozen=True)
class Refused:
    """A program that does not fit.

    Bytes of HBM that it needs (`hbm`) and that there are (`limit`); `arguments`: of the needed
    ones, those of weights, optimizer state and batch.
    """

    hbm: int
    limit: int
    arguments: int
    allocations: tuple[Allocation, ...]
    message: str


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def refusal(message: str, arguments: int) -> Refused | None:
    """The figures in libtpu's message about a program that does not fit; None for another message.

    `arguments`: bytes of the program's arguments. libtpu counts either them, where they alone are
    too much, or the program without them.
    """
    used = re.search(r"Used ([\d.]+)([KMGTB]?) of ([\d.]+)([KMGTB]?) hbm", message)
    if used is None:
        return None
    counted = re.search(r"\n\s+arguments\s+([\d.]+)([KMGTB]?)", message)
    apart = counted is not None and _bytes(counted[1], counted[2]) == 0
    found = []
    for block in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        size = re.match(r"([\d.]+)([KMGTB]?)", block)
        name, shape = re.search(r'op_name="([^"]*)"', block), re.search(r"Shape: (\S+)", block)
        if size:
            found.append(
                Allocation(
                    _bytes(*size.groups()),
                    name[1] if name else "",
                    shape[1].split("{")[0] if shape else "",
                )
            )
    need = _bytes(used[1], used[2]) + (arguments if apart else 0)
    return Refused(need, _bytes(used[3], used[4]), arguments, tuple(found), message)


def _module(lowered: Lowered) -> Any:
    """The program as an MLIR module with the donated arguments marked."""
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir
    from jaxlib import _jax

    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(lowered.hlo))
        (main,) = (op for op in module.body.operations if op.name.value == "main")
        results = main.type.results
        number = ir.IntegerType.get_signless(32)
        attributes = []
        for i, given in enumerate(main.arg_attrs):
            marked = {a.name: a.attr for a in given}
            if i in lowered.donated:
                out = lowered.donated[i]
                if str(main.arguments[i].type) != str(results[out]):
                    raise TlmError(
                        f"argument {i} ({main.arguments[i].type}) cannot be donated to result "
                        f"{out} ({results[out]})"
                    )
                marked["tf.aliasing_output"] = ir.IntegerAttr.get(number, out)
            attributes.append(ir.DictAttr.get(marked))
        main.arg_attrs = ir.ArrayAttr.get(attributes)
        return module


def _devices(slice_: Slice) -> Any:
    import tensorflow  # noqa: F401 - before libtpu may be loaded

    os.environ.pop("TPU_LOAD_LIBRARY", None)
    from jax.experimental import topologies

    bounds = {"chips_per_host_bounds": [1, 1, 1]} if slice_.chips == 1 else {}
    return topologies.get_topology_desc(
        platform="tpu", topology_name=slice_.topology, **bounds
    ).devices


def compile_for(
    lowered: Lowered, slice_: Slice, options: Mapping[str, Any] | None = None
) -> Compiled | Refused:
    """Compile a program for a slice with one replica per chip; takes minutes of one core for a
    BERT.

    `options`: fields of XLA's `ExecutableBuildOptions`, for experiments. Returns `Refused` for a
    program that is too large; raises `TlmError` for any other refusal. Needs the environment of
    `planning.environment`.
    """
    devices = _devices(slice_)
    import jax
    from jaxlib import xla_client

    if lowered.replicas > len(devices):
        raise TlmError(
            f"{lowered.replicas} replicas do not fit on the {len(devices)} chips of a {slice_.name}"
        )
    chosen = tuple(devices[: lowered.replicas])
    build = xla_client.CompileOptions()
    build.num_replicas, build.num_partitions = lowered.replicas, 1
    build.device_assignment = xla_client.DeviceAssignment.create(
        np.asarray([[d.id] for d in chosen], np.int32)
    )
    for name, value in (options or {}).items():
        setattr(build.executable_build_options, name, value)
    try:
        executable = chosen[0].client.compile(
            _module(lowered), xla_client.DeviceList(chosen), build
        )
    except jax.errors.JaxRuntimeError as error:
        refused = refusal(str(error), lowered.arguments)
        if refused is None:
            raise TlmError(f"the TPU compiler refuses the step: {str(error)[:500]}") from None
        return refused
    stats, costs = executable.get_compiled_memory_stats(), executable.cost_analysis()
    return Compiled(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        flops=float(costs.get("flops", 0.0)),
        bytes_accessed=float(costs.get("bytes accessed", 0.0)),
        text=executable.hlo_modules()[0].to_string(),
    )
