"""Metrics to Weights & Biases and MLflow, through their own libraries (`--log`).

Their own settings count: WANDB_MODE=offline, WANDB_PROJECT, MLFLOW_TRACKING_URI and the like.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import posixpath
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

# In the run directory: logger -> the id of this run there.
NAME = "loggers.json"
_PROJECT = "tpu_tlm"


def check_installed(names: Sequence[str]) -> None:
    """Raise `UsageError` for a logger whose library is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"--log {name}: is not installed: pip install 'tpu-tlm[{name}]'")


def make_logger(name: str, run_dir: str, options: Mapping[str, Any]) -> WandbLogger | MlflowLogger:
    """The logger of a name: "wandb" or "mlflow"."""
    with _as_warning():
        return WandbLogger(run_dir, options) if name == "wandb" else MlflowLogger(run_dir, options)


@contextlib.contextmanager
def _as_warning() -> Iterator[None]:
    """Errors of a library as OSError, for which `RecordMetrics` warns while the run goes on."""
    try:
        yield
    except (OSError, UsageError):
        raise
    except Exception as error:
        raise OSError(" ".join(str(error).split())[:300]) from error


def _ids(run_dir: str) -> dict[str, str]:
    path = posixpath.join(run_dir, NAME)
    try:
        found = json.loads(filesystem.read_bytes(path)) if filesystem.exists(path) else {}
    except ValueError:
        found = {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _remember(run_dir: str, name: str, value: str) -> None:
    body = json.dumps({**_ids(run_dir), name: value}) + "\n"
    filesystem.write_bytes(posixpath.join(run_dir, NAME), body.encode())


class WandbLogger:
    """Writer for Weights & Biases; a continued run continues there."""

    def __init__(self, run_dir: str, options: Mapping[str, Any]) -> None:
        import wandb

        self.path = "wandb"
        known = _ids(run_dir).get("wandb") or uuid.uuid4().hex[:12]
        _remember(run_dir, "wandb", known)
        local = None if filesystem.is_remote(run_dir) else run_dir
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=posixpath.basename(run_dir.rstrip("/")),
            id=known,
            resume="allow",
            dir=local,
            config=dict(options),
        )

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add one point per value, as `kind/name`."""
        with _as_warning():
            named = {f"{kind}/{name}": float(value) for name, value in values.items()}
            self._run.log(named, step=step)

    def flush(self) -> None:
        """Nothing: the library sends by itself."""

    def close(self) -> None:
        """Send or store what is left."""
        with _as_warning():
            self._run.finish()


class MlflowLogger:
    """Writer for MLflow; without MLFLOW_TRACKING_URI into `mlruns` in the run directory."""

    def __init__(self, run_dir: str, options: Mapping[str, Any]) -> None:
        import mlflow

        self.path = "mlflow"
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            if filesystem.is_remote(run_dir):
                raise UsageError("--log mlflow: set MLFLOW_TRACKING_URI, since --run_dir is remote")
            # MLflow wants to be told that files, not a database, are meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri(f"file:{os.path.abspath(run_dir)}/mlruns")
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment(_PROJECT)
        known = _ids(run_dir).get("mlflow")
        name = posixpath.basename(run_dir.rstrip("/"))
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_id=known, run_name=name)
        _remember(run_dir, "mlflow", self._run.info.run_id)
        if known is None:
            mlflow.log_params({k: str(v)[:500] for k, v in options.items()})

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Add one point per value, as `kind/name`."""
        named = {f"{kind}/{name}".replace("@", "_at_"): float(v) for name, v in values.items()}
        with _as_warning():
            self._mlflow.log_metrics(named, step=step)

    def flush(self) -> None:
        """Nothing: every call is stored."""

    def close(self) -> None:
        """End the run there."""
        with _as_warning():
            self._mlflow.end_run()
