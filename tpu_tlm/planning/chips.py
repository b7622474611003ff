"""TPU chips by generation, and slices of them by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tpu_tlm.errors import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One generation: memory that a program may use (GiB, as its compiler says), bandwidth of it and of the links to other chips, one way
    (GB/s), peak FLOP/s, clock.

    The clock is inferred: peak bf16 FLOP/s over the FLOPs that the matrix units do in a cycle by the compiler's own estimates
    (v5e, v6e, v5p: 2^17, 2^19, 2^18 a cycle; it gives a product of 4096^3 97 %, 87 % and 96 % of that).
    """

    name: str
    hbm_gib: float
    bandwidth: float
    links: float
    peak: float
    clock: float
    layouts: dict[int, str]
    cores: int = 1  # in a chip, where slices are named by cores

    @property
    def hbm(self) -> int:
        """Bytes of memory that a program may use."""
        return int(self.hbm_gib * GIB)


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}

# Peaks and bandwidths (links: half of what is given for both ways): cloud.google.com/tpu/docs/v5e, v6e, v5p.
CHIPS = {
    "v5e": Chip("v5e", 15.75, 819.0, 200.0, 197e12, 1.5e9, _FLAT),
    "v6e": Chip("v6e", 31.25, 1640.0, 400.0, 918e12, 1.75e9, _FLAT),
    "v5p": Chip("v5p", 95.74, 2765.0, 600.0, 459e12, 1.75e9, _CUBES, cores=2),
}
_SPELLINGS = {"v5litepod": "v5e", "v5lite": "v5e"}


@dataclass(frozen=True)
class Slice:
    """A number of chips of one generation that train together, one replica each."""

    chip: Chip
    chips: int

    @property
    def name(self) -> str:
        """As `parse_slice` takes it."""
        return f"{self.chip.name}-{self.chips * self.chip.cores}"

    @property
    def topology(self) -> str:
        """As libtpu takes it."""
        return f"{self.chip.name}:{self.chip.layouts[self.chips]}"

    def reducing(self, size: float) -> float:
        """Seconds that an all-reduce of so many bytes takes at least: a ring sends 2 (n - 1) / n of them out of every chip."""
        return 2 * (self.chips - 1) / self.chips * size / (self.chip.links * 1e9)


def parse_slice(name: str) -> Slice:
    """A slice by its name: generation and chips ("v5e-8", "v5litepod-8"; "v5p-8" are 4 chips, Google counts two cores in each).

    Raises `UsageError` for one that is not known.
    """
    match = re.fullmatch(r"(v\w+?)-(\d+)", name.strip().lower())
    kind = _SPELLINGS.get(match[1], match[1]) if match else ""
    if match is None or kind not in CHIPS:
        raise UsageError(
            f"--tpu {name}: is none of {', '.join(CHIPS)} with a number of chips, such as v5e-8"
        )
    chip = CHIPS[kind]
    chips, rest = divmod(int(match[2]), chip.cores)
    if rest or chips not in chip.layouts:
        raise UsageError(
            f"--tpu {name}: there is no such slice; {', '.join(Slice(chip, n).name for n in chip.layouts)}"
        )
    return Slice(chip, chips)
