"""Rendering `manifests/` with the real `kubectl kustomize`."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("overlays/*/kustomization.yaml"))
# Set by .ci/run and `make kube-check`: without what judges the manifests, tests fail there.
REQUIRED = bool(os.environ.get("REQUIRE_MANIFEST_TOOLS"))


def _missing(name: str) -> NoReturn:
    reason = f"no {name} beside this Python: VENV=... bash scripts/setup_manifests.sh"
    if REQUIRED:
        pytest.fail(reason)
    # Some files render overlays when they are collected.
    pytest.skip(reason, allow_module_level=True)


def tool(name: str) -> str:
    """Path of a program of the environment; skips the test, or fails, where it is missing."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or _missing(name)


def needs(module: str) -> None:
    """Skip the test, or the file that calls this, where a package is missing; or fail."""
    if importlib.util.find_spec(module) is None:
        _missing(module)


def kustomize(directory: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl kustomize` makes of a directory."""
    environ = os.environ | {"KUBECONFIG": os.devnull}
    command = [tool("kubectl"), "kustomize", str(directory)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


@functools.cache
def _overlay(name: str) -> str:
    return json.dumps(kustomize(MANIFESTS / "overlays" / name))


def overlay(name: str) -> list[dict[str, Any]]:
    """The objects of one overlay of `manifests/`, rendered once."""
    objects: list[dict[str, Any]] = json.loads(_overlay(name))
    return objects


def user_overlay(directory: Path, text: str, *names: str) -> list[dict[str, Any]]:
    """The objects of a user's own kustomization on top of overlays or bases of `manifests/`.

    text: its lines after `resources:`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    resources = "".join(f"- {os.path.relpath(MANIFESTS / name, directory)}\n" for name in names)
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    (directory / "kustomization.yaml").write_text(f"{head}{resources}{text}")
    return kustomize(directory)


def workload(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The one object that makes pods."""
    (found,) = [d for d in documents if d["kind"] in ("TFJob", "Job", "JobSet", "Pod")]
    return found


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def environment(documents: list[dict[str, Any]], container: dict[str, Any]) -> dict[str, str]:
    """The environment of a container, without what a controller adds; secrets as `secret:KEY`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        found |= named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env") or []:
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            found[variable["name"]] = f"secret:{variable['valueFrom']['secretKeyRef']['key']}"
    return found
