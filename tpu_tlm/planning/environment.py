"""The environment of the TPU compiler: its packages, which are missing, and its variables."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tpu_tlm.errors import TlmError, UsageError, run_command

# As the extra `plan` pins them. JAX is used through private names; libtpu 0.0.31 is the newest
# that TensorFlow 2.20 loads.
VERSIONS = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", "jax": "0.10.2", "keras": "3.15.1"}
FIX = (
    "make plan-env (or: python3.11 -m venv .venv-plan && .venv-plan/bin/python -m pip install "
    "'tpu-tlm[plan]')"
)

# TensorFlow only lowers, so it must not load libtpu (a process can hold one). JAX compiles, and
# must not look for a TPU, ask Google Cloud's metadata server (minutes), or wait for the lock of
# another compiling process.
VARIABLES = {
    "TPU_LOAD_LIBRARY": "0",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


PYTHON = "TPU_TLM_PLAN_PYTHON"
_CHILD = "TPU_TLM_PLAN_CHILD"

# The child runs this very package, whatever is installed in its environment.
_START = """
import importlib.util, sys
location, name, *argv = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "tpu_tlm", location + "/__init__.py", submodule_search_locations=[location]
)
package = sys.modules["tpu_tlm"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from tpu_tlm.errors import run_command
sys.exit(run_command(importlib.import_module(name).main, argv))
"""


def missing() -> list[str]:
    """Packages of `VERSIONS` that are missing: "jax 0.10.2 (not installed)". Imports nothing."""
    lacks = []
    for name, version in VERSIONS.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacks.append(f"{name} {version} (not installed)")
        else:
            if here != version:
                lacks.append(f"{name} {version} (here {here})")
    return lacks


def prepare() -> None:
    """Set the variables of TensorFlow and libtpu, before either is imported.

    Raises `UsageError` where a package is missing, or TensorFlow is already imported.
    """
    if lacks := missing():
        raise UsageError(
            f"this environment cannot compile for a TPU: it lacks {', '.join(lacks)}; fix: {FIX}"
        )
    if "tensorflow" in sys.modules and any(
        os.environ.get(key) != value for key, value in VARIABLES.items()
    ):
        raise UsageError(
            "TensorFlow was imported before planning.environment.prepare was called; call it first"
        )
    os.environ.update(VARIABLES)


def find_python(
    given: str | None,
    environ: Mapping[str, str],
    here: Path,
    beside: Path = Path(sys.prefix).parent,
) -> str:
    """The Python that compiles: the one given, that of `PYTHON`, or .venv-plan/bin/python in `here`
    or beside this environment.

    Raises `UsageError` with the command that makes one when there is none, or the one that was
    named is not there.
    """
    for name, what in ((given, "--plan_python"), (environ.get(PYTHON), PYTHON)):
        if name:
            if not os.access(name, os.X_OK):
                raise UsageError(
                    f"{what} {name}: there is no such program; make the environment: {FIX}"
                )
            return name
    for place in (here, beside):
        python = place / ".venv-plan" / "bin" / "python"
        if os.access(python, os.X_OK):
            return str(python)
    raise UsageError(
        f"no environment can compile for a TPU here: this one lacks {', '.join(missing())}; make "
        f"one: {FIX}"
    )


def child_command(python: str, module: str, argv: Sequence[str]) -> list[str]:
    """The command line of `module.main(argv)` of this package under another Python."""
    return [python, "-c", _START, str(Path(__file__).resolve().parent.parent), module, *argv]


def child_environ() -> dict[str, str]:
    """The environment of such a process, without what leads Python to this one's packages."""
    kept = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return kept | VARIABLES | {_CHILD: "1"}


def in_child(python: str, module: str, argv: Sequence[str]) -> int:
    """Run `module.main(argv)` of this package with another Python, and give its exit code.

    Raises `TlmError` when it is killed.
    """
    if os.environ.get(_CHILD):
        raise UsageError(
            f"{sys.executable} cannot compile for a TPU: it lacks {', '.join(missing())}; make "
            f"one that can: {FIX}"
        )
    done = subprocess.run(child_command(python, module, argv), env=child_environ())
    if done.returncode < 0:
        memory = (
            "; if that was for want of memory: a large model needs some 8 GiB"
            if done.returncode == -9
            else ""
        )
        raise TlmError(f"the compiler's process was ended by signal {-done.returncode}{memory}")
    return done.returncode


def main(argv: list[str] | None = None) -> int:
    """Say whether this environment can compile for a TPU."""
    prepare()
    print(
        "can compile for TPUs: "
        f"{', '.join(f'{name} {version}' for name, version in VERSIONS.items())}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
