"""Run a notebook from top to bottom in this environment, `!` commands that fail included."""

from __future__ import annotations

import ast
import copy
import os
import signal
import time
from pathlib import Path
from threading import Thread
from typing import Any

import nbformat
from nbclient import NotebookClient

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
    while not at.exists():
        time.sleep(0.02)
    os.kill(client.km.provisioner.pid, signal.SIGINT)


def run(
    path: Path,
    directory: Path,
    parameters: dict[str, Any],
    timeout: int = 600,
    interrupt_at: Path | None = None,
) -> Any:
    """Execute every cell with `directory` as working directory; returns the notebook with outputs.

    interrupt_at: the kernel is interrupted, as by the stop button, once this file is there. Raises
    nbclient's `CellExecutionError` with the traceback of the cell that fails.
    """
    notebook = with_parameters(nbformat.read(path, as_version=4), parameters)
    nbformat.validate(notebook)
    strict = nbformat.v4.new_code_cell(_STRICT)
    notebook.cells.insert(0, strict)
    environ = os.environ.copy()
    try:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        client = NotebookClient(
            notebook, timeout=timeout, resources={"metadata": {"path": str(directory)}}
        )
        if interrupt_at is not None:
            Thread(target=_interrupt, args=(client, interrupt_at), daemon=True).start()
        return client.execute()
    finally:
        os.environ.clear()
        os.environ.update(environ)
