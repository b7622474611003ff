"""What `benchmarks.step_export` writes and the timed programs read: a lowered step, the values it
starts from, and batches.

A directory of `step.stablehlo` (a StableHLO portable artifact), `batches.npz`, `values.npz` unless
the values are to be drawn again from their seed, and last `step.json`: the manifest, which says
what the program's arguments and results are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig, cli
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.initializers import initial_values

FORMAT = 1
STATE = ("value", "slot")


@dataclass(frozen=True)
class Argument:
    """One argument of the program: kind `value` (name: the variable's path), `slot`, `batch` (name:
    the feature) or `index`.

    Values and slots are donated: result number `result` is the same tensor after the step. Slots
    begin as zeros.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    result: int | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything about an exported step that is not an array.

    `results`: names of the program's results (`loss` and `weight` are sums over the batch).
    `plain`: whether the plain programs know this model and optimizer; if not, `not_plain` says why.
    `losses`: those of the first steps, as TensorFlow computed them on a processor. `flops`: per
    step, by `Objective.flops`. `sha256`: of all values.
    """

    arguments: tuple[Argument, ...]
    results: tuple[str, ...]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    vocab_size: int
    pad_id: int
    seed: int
    rows: int
    length: int
    precision: str
    flops: float
    losses: tuple[float, ...]
    plain: bool
    not_plain: str
    sha256: str
    versions: dict[str, str]
    format: int = FORMAT

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.rows * self.length

    @property
    def config(self) -> ModelConfig:
        """The model's options."""
        (config,) = cli.build([ModelConfig], self.model, "step.json")
        return config  # type: ignore[no-any-return]

    def of(self, *kinds: str) -> list[Argument]:
        """The arguments of these kinds."""
        return [a for a in self.arguments if a.kind in kinds]

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(int(np.prod(a.shape)) for a in self.of("value"))


def digest(values: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the bytes of all values in the order of their paths."""
    found = hashlib.sha256()
    for path in sorted(values):
        found.update(np.ascontiguousarray(values[path]).tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Exported:
    """An exported step, read."""

    directory: Path
    manifest: Manifest

    @property
    def program(self) -> bytes:
        """The portable artifact."""
        return (self.directory / "step.stablehlo").read_bytes()

    def values(self) -> dict[str, np.ndarray]:
        """The values before the first step, by path: float32.

        `TlmError` when they are not those that were exported.
        """
        file = self.directory / "values.npz"
        if file.exists():
            with np.load(file) as arrays:
                values = {path: arrays[path] for path in arrays.files}
        else:
            m = self.manifest
            shapes = {a.name: a.shape for a in m.of("value")}
            values = dict(initial_values(shapes, m.config, m.vocab_size, m.pad_id, m.seed))
        if digest(values) != self.manifest.sha256:
            mend = "export the step again" if file.exists() else "export it again with --values npz"
            raise TlmError(
                f"{self.directory}: the values are not those that were exported (another NumPy "
                f"draws others?); {mend}"
            )
        return values

    def batches(self) -> list[dict[str, np.ndarray]]:
        """The batches in the order of the steps: the features that the program takes, and those
        below `masked/` for the plain programs.
        """
        with np.load(self.directory / "batches.npz") as arrays:
            stacked = {name: arrays[name] for name in arrays.files}
        count = len(next(iter(stacked.values())))
        return [{name: array[i] for name, array in stacked.items()} for i in range(count)]


def write(
    directory: Path,
    program: bytes,
    values: Mapping[str, np.ndarray] | None,
    batches: Sequence[Any],
    manifest: Manifest,
) -> None:
    """Write an export, the manifest last; `values` None: they are to be drawn again from the
    seed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "step.json").unlink(missing_ok=True)
    (directory / "values.npz").unlink(missing_ok=True)
    (directory / "step.stablehlo").write_bytes(program)
    if values is not None:
        np.savez(directory / "values.npz", **values)
    np.savez(
        directory / "batches.npz",
        **{name: np.stack([b[name] for b in batches]) for name in batches[0]},
    )
    (directory / "step.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def _arguments(rows: list[dict[str, Any]]) -> Iterator[Argument]:
    for row in rows:
        yield Argument(**{**row, "shape": tuple(row["shape"])})


def read(directory: Path) -> Exported:
    """Read an export. `UsageError` when the directory holds none, or one of another format."""
    file = directory / "step.json"
    if not file.exists():
        raise UsageError(
            f"{directory}: holds no exported step (step.json); make one with python -m "
            f"benchmarks.step_export --out {directory}"
        )
    told = json.loads(file.read_text())
    if told.get("format") != FORMAT:
        raise UsageError(
            f"{file}: is of format {told.get('format')}, this program reads {FORMAT}; export the "
            "step again"
        )
    lists = {name: tuple(told[name]) for name in ("results", "losses")}
    return Exported(
        directory, Manifest(**{**told, **lists, "arguments": tuple(_arguments(told["arguments"]))})
    )
