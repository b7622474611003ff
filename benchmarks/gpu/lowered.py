"""The step that TensorFlow lowered, compiled and run by JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from benchmarks.gpu.exported import STATE, Exported
from benchmarks.gpu.program import Program, serve


class JaxProgram(Program):
    """What programs on JAX have in common; they keep their last loss in `loss`."""

    loss: Any

    def wait(self) -> None:
        jax.block_until_ready(
            self.loss
        )  # the last of a chain: every step takes the state of the one before

    @property
    def device(self) -> tuple[str, str]:
        first = jax.devices()[0]
        return first.platform, first.device_kind

    def peak_bytes(self) -> int | None:
        stats = jax.devices()[0].memory_stats()
        return int(stats["peak_bytes_in_use"]) if stats else None

    def versions(self) -> str:
        return f"jax {jax.__version__}"


def as_jax(exported: Exported) -> Callable[..., list[Any]]:
    """The lowered program as a JAX function of its arguments one after another.

    JAX runs programs that it exported itself. So a function with the same arguments and results is
    exported, and its program exchanged for ours: the portable artifact is the same kind of file,
    and nothing but the public `jax.export` is used.
    """
    manifest = exported.manifest
    arguments = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in manifest.arguments]
    state = {a.result: jax.ShapeDtypeStruct(a.shape, a.dtype) for a in manifest.of(*STATE)}
    results = [
        state.get(i, jax.ShapeDtypeStruct((), "float32")) for i in range(len(manifest.results))
    ]

    def likeness(*given: Any) -> list[Any]:
        return [jnp.zeros(r.shape, r.dtype) for r in results]

    same = export.export(jax.jit(likeness, keep_unused=True))(*arguments)
    return replace(same, mlir_module_serialized=exported.program).call  # type: ignore[no-any-return]


class Lowered(JaxProgram):
    """Values, slots and the count of steps stay on the device; they are donated, as in the
    package's loop.
    """

    def __init__(self, exported: Exported) -> None:
        manifest = exported.manifest
        state, features = manifest.of(*STATE), manifest.of("batch")
        kinds = [a.kind in STATE for a in manifest.arguments]
        if kinds != sorted(kinds, reverse=True) or [a.result for a in state] != list(
            range(len(state))
        ):
            raise ValueError(
                "step.json: the state must be the first arguments and the first results, in one "
                "order"
            )
        call, loss, weight = (
            as_jax(exported),
            manifest.results.index("loss"),
            manifest.results.index("weight"),
        )

        def step(state: list[Any], index: Any, batch: list[Any]) -> tuple[list[Any], Any, Any]:
            results = call(*state, *batch, index)
            return (
                results[: len(state)],
                index + 1,
                results[loss] / jnp.maximum(results[weight], 1.0),
            )

        self._step = jax.jit(step, donate_argnums=(0, 1))
        values = exported.values()
        self.state = [
            jnp.asarray(values[a.name]) if a.kind == "value" else jnp.zeros(a.shape, a.dtype)
            for a in state
        ]
        self.index = jnp.zeros((), jnp.int64)
        self.batches = [
            [jnp.asarray(batch[a.name]) for a in features] for batch in exported.batches()
        ]
        self.taken = 0

    def step(self) -> Any:
        self.state, self.index, self.loss = self._step(
            self.state, self.index, self.batches[self.taken % len(self.batches)]
        )
        self.taken += 1
        return self.loss


def build(directory: str, report: str, first: int) -> Callable[[int], float]:
    """For the harness."""
    jax.config.update(
        "jax_enable_x64", True
    )  # positions and the count of steps are int64; all else says its type
    return serve(Lowered, directory, report, first)
