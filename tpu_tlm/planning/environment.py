"""The packages that compile for a TPU without one, which of them are missing here, and what they read from the environment."""

from __future__ import annotations

import importlib.metadata
import os
import sys

from tpu_tlm.errors import UsageError, run_command

# As the extra `plan` pins them. JAX is driven through names that it calls private; libtpu 0.0.31 is the newest that TensorFlow 2.20 loads.
VERSIONS = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", "jax": "0.10.2", "keras": "3.15.1"}
MEND = "make plan-env  (or: python3.11 -m venv .venv-plan && .venv-plan/bin/python -m pip install 'tpu-tlm[plan]')"

# TensorFlow only lowers, so it must not load libtpu (a process can hold one of it); JAX compiles, and must neither look for a TPU nor ask
# Google Cloud's metadata server about one (minutes), nor stop at the lock of another process that compiles.
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


def missing() -> list[str]:
    """What this environment lacks of `VERSIONS`, as "jax 0.10.2 (not installed)" or "libtpu 0.0.31 (here 0.0.52)"; nothing is imported."""
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
    """Set what TensorFlow and libtpu read, before either is imported. `UsageError` where a package is missing or too late for it."""
    if lacks := missing():
        raise UsageError(f"this environment cannot compile for a TPU: it lacks {', '.join(lacks)}; make one that can: {MEND}")
    if "tensorflow" in sys.modules and any(os.environ.get(key) != value for key, value in VARIABLES.items()):
        raise UsageError("TensorFlow was imported before planning.environment.prepare was called; call it first")
    os.environ.update(VARIABLES)


def main(argv: list[str] | None = None) -> int:
    """Say whether this environment can compile for a TPU."""
    prepare()
    print(f"can compile for TPUs: {', '.join(f'{name} {version}' for name, version in VERSIONS.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
