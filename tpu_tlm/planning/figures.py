"""What a compiled step comes to: memory, arithmetic, time, speed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tpu_tlm.planning.chips import Slice
from tpu_tlm.planning.compiler import Compiled
from tpu_tlm.planning.cycles import costs

NOTE = "time, speed and MFU are the compiler's estimate, not a measurement"


@dataclass(frozen=True)
class Program:
    """The additive figures of one chip's program: they grow by the same with every layer.

    Bytes: `state` (weights, optimizer's slots, batch), `working`, `code`, `accessed`, `reduced` (by
    all-reduces). `floor`: seconds that instructions without an estimate take at least; `missing`:
    how many of each kind those are.
    """

    state: float
    working: float
    code: float
    flops: float
    accessed: float
    cycles: float
    floor: float
    reduced: float
    missing: dict[str, float]

    @property
    def hbm(self) -> float:
        """Bytes of a chip's memory."""
        return self.state + self.working + self.code

    def plus(self, times: float, other: Program, less: Program) -> Program:
        """self + times * (other - less), of every figure."""

        def more(name: str) -> float:
            return max(
                0.0, getattr(self, name) + times * (getattr(other, name) - getattr(less, name))
            )

        names = ("state", "working", "code", "flops", "accessed", "cycles", "floor", "reduced")
        kinds = {*self.missing, *other.missing, *less.missing}
        counts = {
            k: self.missing.get(k, 0) + times * (other.missing.get(k, 0) - less.missing.get(k, 0))
            for k in kinds
        }
        return replace(self, missing=counts, **{name: more(name) for name in names})


@dataclass(frozen=True)
class Figures:
    """Figures of one step of `batch` examples of `length` tokens on all chips.

    `layers_compiled`: layers of the programs that the figures come from; `flops`: by this
    package's formula.
    """

    slice_: Slice
    batch: int
    length: int
    tokens: int
    flops: float
    program: Program
    layers_compiled: tuple[int, ...]
    compile_seconds: float

    @property
    def extrapolated(self) -> bool:
        """Whether the figures come from programs of fewer layers."""
        return len(self.layers_compiled) > 1

    @property
    def fits(self) -> bool:
        """Whether the program fits into the chip's memory."""
        return self.program.hbm <= self.slice_.chip.hbm

    @property
    def reducing(self) -> float:
        """Lower bound of the all-reduces, seconds."""
        return self.slice_.reducing(self.program.reduced)

    @property
    def computing(self) -> float:
        """Seconds of the estimated cycles."""
        return self.program.cycles / self.slice_.chip.clock

    @property
    def seconds(self) -> float:
        """Seconds per step: computing plus the lower bounds of what has no estimate."""
        return self.computing + self.program.floor + self.reducing

    @property
    def mfu(self) -> float:
        """Share of the chips' peak: flops / (seconds * chips * peak of one)."""
        return self.flops / (self.seconds * self.slice_.chips * self.slice_.chip.peak)

    def as_values(self) -> dict[str, object]:
        """The figures as a JSON object."""
        p, chip = self.program, self.slice_.chip
        return {
            "tpu": self.slice_.name,
            "batch": self.batch,
            "rows_per_chip": self.batch // self.slice_.chips,
            "length": self.length,
            "fits": self.fits,
            "extrapolated_from_layers": list(self.layers_compiled) if self.extrapolated else None,
            "hbm_bytes": round(p.hbm),
            "hbm_limit_bytes": chip.hbm,
            "state_bytes": round(p.state),
            "working_bytes": round(p.working),
            "code_bytes": round(p.code),
            "flops": self.flops,
            "compiler_flops_per_chip": p.flops,
            "bytes_accessed_per_chip": p.accessed,
            "estimated_cycles": round(p.cycles),
            "clock_hz": chip.clock,
            "computing_seconds": self.computing,
            "unestimated_at_least_seconds": p.floor,
            "all_reduce_at_least_seconds": self.reducing,
            "step_seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds,
            "mfu": self.mfu,
            "without_estimate": {
                kind: round(count) for kind, count in sorted(p.missing.items()) if round(count)
            },
            "compile_seconds": round(self.compile_seconds, 1),
            "note": NOTE,
        }


def program_of(compiled: Compiled, slice_: Slice) -> Program:
    """The figures of a compiled program."""
    found = costs(compiled.text)
    return Program(
        state=compiled.arguments,
        working=compiled.outputs - compiled.aliased + compiled.temporary,
        code=compiled.code,
        flops=compiled.flops,
        accessed=compiled.bytes_accessed,
        cycles=found.cycles,
        floor=found.floor(slice_.chip),
        reduced=found.reduced,
        missing={
            kind: float(count) for kind, count in found.missing().items() if kind != "all-reduce"
        },
    )
