"""Run a notebook from top to bottom in a runtime of its own, `!` commands that fail included."""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.paths import ROOT

# IPython sets `_exit_code` for `!command` and goes on: here a failed command fails the cell.
_STRICT = """
from IPython import get_ipython

_system = get_ipython().system

def system(command):
    _system(get_ipython().var_expand(command, depth=1))
    code = get_ipython().user_ns.get("_exit_code", 0)
    if code:
        raise RuntimeError(f"{command!r} ended with exit code {code}")

get_ipython().system = system
"""
# This package and what makes it importable from its sources.
_OWN = re.compile(r"tpu[_-]tlm|__editable__|.*\.pth$|__pycache__$")
_KERNEL = "runtime"


def wheel(directory: Path) -> Path:
    """A directory with the wheel of this package, built without an index of packages."""
    sources = directory / "sources"
    # A build in the working tree would leave files there, and take those of an earlier build in.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tpu_tlm", sources / "tpu_tlm", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    wheels = directory / "wheels"
    options = ["-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(wheels)]
    argv = [sys.executable, "-m", "pip", "wheel", *options, str(sources)]
    done = subprocess.run(argv, capture_output=True, text=True, env=_offline(wheels))
    assert done.returncode == 0, done.stderr
    return wheels


def _offline(wheels: Path) -> dict[str, str]:
    """This process's variables, with a pip that finds the packages of a directory and no others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHONPATH"))}
    return kept | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@dataclass(frozen=True)
class Runtime:
    """An environment that has the packages of this one but for our own, as Colab's runtimes do.

    site: where its pip installs; wheels: what its pip finds; boards: a line for each TensorBoard
    that a notebook opened: its variable TPU_LOAD_LIBRARY, whether its directory was there or still
    empty, its arguments.
    """

    place: Path
    site: Path
    wheels: Path

    @property
    def boards(self) -> list[str]:
        log = self.place / "boards"
        return log.read_text().splitlines() if log.exists() else []

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Kernels that are started within run in it."""
        before = os.environ.copy()
        try:
            os.environ.clear()
            os.environ.update(_offline(self.wheels))
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ["JUPYTER_PATH"] = str(self.place / "jupyter")
            # A server would outlive the notebook.
            os.environ["TENSORBOARD_BINARY"] = str(self.place / "tensorboard")
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def make_runtime(place: Path, wheels: Path) -> Runtime:
    """A runtime in a directory; it costs half a second."""
    venv.create(place / "venv", with_pip=False, symlinks=True)
    packages = place / "packages"
    packages.mkdir()
    for base in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(base).iterdir():
            if not _OWN.match(path.name) and not (packages / path.name).exists():
                (packages / path.name).symlink_to(path)
    (site,) = place.glob("venv/lib/python*/site-packages")
    (site / "packages.pth").write_text(f"{packages}\n")
    kernel = place / "jupyter" / "kernels" / _KERNEL
    kernel.mkdir(parents=True)
    argv = [str(place / "venv/bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": argv, "display_name": _KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described))
    board = place / "tensorboard"
    board.write_text(
        '#!/bin/sh\n[ -e "$2" ] && there=there || there=empty\n'
        f'echo "TPU_LOAD_LIBRARY=$TPU_LOAD_LIBRARY $there $*" >> "{place}/boards"\nexit 1\n'
    )
    board.chmod(0o755)
    return Runtime(place, site, wheels)


def with_parameters(notebook: Any, parameters: dict[str, Any]) -> Any:
    """The notebook with values of the one cell tagged `parameters` replaced.

    Raises ValueError for a name that the cell does not set.
    """
    notebook = copy.deepcopy(notebook)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    known = {
        target.id
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if unknown := set(parameters) - known:
        raise ValueError(f"the notebook has no parameter {sorted(unknown)[0]!r}")
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    return notebook


def _interrupt(client: NotebookClient, at: Path) -> None:
    # An empty file is made before training begins, and before it listens for the stop button.
    while not at.exists() or not at.stat().st_size:
        time.sleep(0.02)
    os.kill(client.km.provisioner.pid, signal.SIGINT)


def run(
    path: Path,
    directory: Path,
    parameters: dict[str, Any],
    runtime: Runtime,
    timeout: int = 600,
    interrupt_at: Path | None = None,
) -> str:
    """Execute every cell with `directory` as working directory; returns what they printed.

    interrupt_at: the kernel is interrupted, as by the stop button, once this file has something in
    it. Raises nbclient's `CellExecutionError` with the traceback of the cell that fails.
    """
    notebook = with_parameters(nbformat.read(path, as_version=4), parameters)
    nbformat.validate(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_STRICT))
    with runtime.entered():
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name=_KERNEL,
            resources={"metadata": {"path": str(directory)}},
        )
        if interrupt_at is not None:
            Thread(target=_interrupt, args=(client, interrupt_at), daemon=True).start()
        done = client.execute()
    return "".join(o.get("text", "") for c in done.cells for o in c.get("outputs", ()))
