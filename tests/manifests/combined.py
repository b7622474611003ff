"""Bases and components in every combination that makes sense, rendered."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.manifests.render import MANIFESTS, kustomize

_HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"


def _combinations() -> Iterator[tuple[str, ...]]:
    """Base and components of all that makes sense: where it runs, what it reads, Spot, queue."""
    hosts = ("cpu", "gpu", "tpu-v5e-2x4", "tpu-v6e-2x4")
    hardware = dict.fromkeys(("job", "pod", "tfjob", "finetune", "evaluate"), hosts)
    hardware["jobset"] = "slice-v5e-4x8", "slice-v6e-4x4"
    hardware |= dict.fromkeys(("preprocess", "vocab"), ("cpu", "indexed"))
    for base, kinds in hardware.items():
        for kind, storage, spot in itertools.product(kinds, ("pvc", "gcs"), (False, True)):
            # A queue holds jobs back, not bare pods. It changes the job's labels alone.
            queue = spot and base != "pod"
            named = [kind] * (kind != "cpu") + [storage, *["spot"] * spot, *["kueue"] * queue]
            yield base, *named


def combined(directory: Path) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Base and components -> the objects of a kustomization of them in a directory of one's own."""
    every = list(_combinations())
    above = os.path.relpath(MANIFESTS, directory / "n0")
    for number, (base, *components) in enumerate(every):
        (directory / f"n{number}").mkdir()
        parts = "".join(f"- {above}/components/{part}\n" for part in components)
        text = f"{_HEAD}- {above}/bases/{base}\nnamespace: n{number}\ncomponents:\n{parts}"
        (directory / f"n{number}" / "kustomization.yaml").write_text(text)
    # All at once, each in a namespace of its own: kubectl takes a fifth of a second to start.
    lines = "".join(f"- n{number}\n" for number in range(len(every)))
    (directory / "kustomization.yaml").write_text(f"{_HEAD}{lines}")
    found = defaultdict(list)
    for document in kustomize(directory):
        found[document["metadata"].pop("namespace")].append(document)
    return {parts: found[f"n{number}"] for number, parts in enumerate(every)}
