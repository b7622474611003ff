"""TPU chips by generation, and slices by name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tpu_tlm.devices.peaks import peak_flops
from tpu_tlm.errors import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One generation of TPU chips.

    `hbm_gib`: memory that a program may use, as the compiler reports it; `bandwidth`: of that
    memory, GB/s; `links`: to other chips, one way, GB/s; `clock`: Hz; `layouts`: chips ->
    topology; `cores`: per chip, where slices are named by cores.

    The clock is inferred: peak bf16 FLOP/s divided by the FLOPs per cycle of the matrix units in
    the compiler's own estimates (v5e, v6e, v5p: 2^17, 2^19, 2^18; a product of 4096^3 reaches
    97 %, 87 % and 96 % of that).
    """

    name: str
    hbm_gib: float
    bandwidth: float
    links: float
    clock: float
    layouts: dict[int, str]
    cores: int = 1

    @property
    def peak(self) -> float:
        """Peak bfloat16 FLOP/s of one chip (`devices.peaks`)."""
        found = peak_flops(self.name, "bfloat16")
        assert found is not None, f"devices/peaks.py does not list {self.name}"
        return found

    @property
    def hbm(self) -> int:
        """Bytes of memory that a program may use."""
        return int(self.hbm_gib * GIB)


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}

# Bandwidths from Google Cloud's page for each generation (links: half of the two-way figure).
CHIPS = {
    "v5e": Chip("v5e", 15.75, 819.0, 200.0, 1.5e9, _FLAT),
    "v6e": Chip("v6e", 31.25, 1640.0, 400.0, 1.75e9, _FLAT),
    "v5p": Chip("v5p", 95.74, 2765.0, 600.0, 1.75e9, _CUBES, cores=2),
}
_SPELLINGS = {"v5litepod": "v5e", "v5lite": "v5e"}


@dataclass(frozen=True)
class Slice:
    """Chips of one generation that train together, one replica each."""

    chip: Chip
    chips: int

    @property
    def name(self) -> str:
        """The name that `parse_slice` accepts."""
        return f"{self.chip.name}-{self.chips * self.chip.cores}"

    @property
    def topology(self) -> str:
        """The topology in libtpu's notation."""
        return f"{self.chip.name}:{self.chip.layouts[self.chips]}"

    def reducing(self, size: float) -> float:
        """Lower bound in seconds of an all-reduce of `size` bytes.

        A ring sends 2 (n - 1) / n of them out of every chip.
        """
        return 2 * (self.chips - 1) / self.chips * size / (self.chip.links * 1e9)


def parse_slice(name: str) -> Slice:
    """A slice by name: "v5e-8", "v5litepod-8"; "v5p-8" has 4 chips, since Google counts cores.

    Raises `UsageError` for an unknown one.
    """
    match = re.fullmatch(r"(v\w+?)-(\d+)", name.strip().lower())
    kind = _SPELLINGS.get(match[1], match[1]) if match else ""
    if match is None or kind not in CHIPS:
        raise UsageError(
            f"--tpu {name}: must be one of {', '.join(CHIPS)} with a number of chips, such as v5e-8"
        )
    chip = CHIPS[kind]
    chips, rest = divmod(int(match[2]), chip.cores)
    if rest or chips not in chip.layouts:
        raise UsageError(
            f"--tpu {name}: there is no such slice; "
            f"{', '.join(Slice(chip, n).name for n in chip.layouts)}"
        )
    return Slice(chip, chips)
