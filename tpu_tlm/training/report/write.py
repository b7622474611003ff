"""Write the report of one run or several."""

from __future__ import annotations

import collections
import posixpath
from collections.abc import Iterable

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError
from tpu_tlm.training.report.collect import RunData, collect
from tpu_tlm.training.report.page import MARK, page


def write_report(runs: Iterable[str], output: str) -> int:
    """Write one HTML file about run directories, local or in object storage; returns its bytes.

    Raises `UsageError` for what is no run directory, a directory given twice, and an `output` that
    holds something other than a report.
    """
    paths = [run.rstrip("/") or "/" for run in runs]
    for path, times in collections.Counter(paths).items():
        if times > 1:
            raise UsageError(f"{path}: is given {times} times: give each run once")
    _check_output(output)
    data = page(named([collect(path) for path in paths]))
    filesystem.write_bytes(output, data)
    return len(data)


def named(runs: list[RunData]) -> list[RunData]:
    """The runs with `name` set: the directory's name, or the path where two have the same."""
    names = collections.Counter(posixpath.basename(run.path) for run in runs)
    for run in runs:
        short = posixpath.basename(run.path)
        run.name = short if short and names[short] == 1 else run.path
    return runs


def _check_output(output: str) -> None:
    """Refuse to replace a file that is no report."""
    if filesystem.is_directory(output):
        raise UsageError(f"--output {output}: is a directory: give the name of a file")
    if not filesystem.exists(output):
        return
    with filesystem.open_read(output) as file:
        start = file.read(len(MARK))
    if start not in (b"", MARK.encode()):
        raise UsageError(f"--output {output}: holds something else than a report: give another")
