"""The table of benchmarks/tpu.md:

BERT-base and BERT-large at 128 and 512 tokens on one v5e and one v6e, by the TPU compiler's
estimates.

    make plan-env
    python -m benchmarks.tpu_table DIRECTORY

A row is a program of full depth, compiled by `benchmarks.tpu_step` in the environment of `make
plan-env` (1.5 to 6 minutes of one core each); its figures are kept in the directory, and what is
there is not made again. No row is a measurement: nothing here has met a TPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tpu_tlm.planning import environment
from tpu_tlm.planning.chips import GIB

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A step: `batch` rows of `length` tokens on one chip, in `micro` micro-batches."""

    chip: str
    size: str
    length: int
    batch: int
    micro: int = 1

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.chip}-{self.size}-{self.batch}x{self.length}-{self.micro}"

    def command(self, python: str, file: Path) -> list[str]:
        """Compiles it and writes its figures to the file."""
        what = [
            "--chip",
            f"{self.chip}-1",
            "--size",
            self.size,
            "--length",
            self.length,
            "--batch",
            self.batch,
        ]
        return [
            python,
            "-m",
            "benchmarks.tpu_step",
            *map(str, what),
            "--grad_accum",
            str(self.micro),
            "--json",
            str(file),
        ]


# For each chip, size and length: the best micro-batch, several of them, and batches without
# micro-batches up to where memory ends.
ROWS = (
    Row("v5e", "base", 128, 64),
    Row("v5e", "base", 128, 256),
    Row("v5e", "base", 128, 512),
    Row("v5e", "base", 128, 512, 8),
    Row("v5e", "base", 512, 32),
    Row("v5e", "base", 512, 32, 4),
    Row("v5e", "base", 512, 128, 16),
    Row("v5e", "large", 128, 64),
    Row("v5e", "large", 128, 128),
    Row("v5e", "large", 128, 128, 2),
    Row("v5e", "large", 512, 16),
    Row("v5e", "large", 512, 32, 4),
    Row("v5e", "large", 512, 32, 8),
    Row("v6e", "base", 128, 64),
    Row("v6e", "base", 128, 256, 8),
    Row("v6e", "base", 128, 2304, 48),
    Row("v6e", "base", 512, 32),
    Row("v6e", "base", 512, 32, 4),
    Row("v6e", "large", 128, 64),
    Row("v6e", "large", 512, 32, 8),
)

HEAD = (
    "| chip | model | batch x length | micro-batches | memory, GiB | ms a step | tokens/s | of "
    "peak |\n|---|---|---|---|---|---|---|---|"
)


def line(row: Row, found: dict[str, Any]) -> str:
    """A row of the table."""
    begin = (
        f"| {row.chip} | {row.size} | {row.batch} x {row.length} | {row.micro} | "
        f"{found['hbm_bytes'] / GIB:.2f} |"
    )
    if "mfu" not in found:
        return f"{begin} does not fit | | |"
    speed = (
        f"{1e3 * found['step_seconds']:.1f} | {found['tokens_per_second']:,.0f} | "
        f"{100 * found['mfu']:.1f} % |"
    )
    return f"{begin} {speed}" + ("" if found["fits"] else " (too much memory)")


def main() -> None:
    """Compile what is not there yet, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="where the figures of each row are kept")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    missing = [row for row in ROWS if not (given.directory / f"{row.name}.json").exists()]
    python = environment.find_python(None, os.environ, ROOT) if missing else ""
    began = time.monotonic()
    for done, row in enumerate(missing):
        subprocess.run(
            row.command(python, given.directory / f"{row.name}.json"),
            cwd=ROOT,
            check=True,
            stdout=sys.stderr,
        )
        left = (time.monotonic() - began) / (done + 1) * (len(missing) - done - 1)
        print(
            f"{done + 1} of {len(missing)} rows, about {left / 60:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
    print(HEAD)
    for row in ROWS:
        print(line(row, json.loads((given.directory / f"{row.name}.json").read_text())))


if __name__ == "__main__":
    main()
