"""ELECTRA's two models out of one: the discriminator and the generator as models of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

GENERATOR, DISCRIMINATOR = "generator", "discriminator"
PARTS = (DISCRIMINATOR, GENERATOR)
_INSIDE = f"{GENERATOR}/"


def part_spec(spec: ModelSpec, part: str) -> ModelSpec:
    """The spec of one of the two: a discriminator, or a masked language model."""
    if part == DISCRIMINATOR:
        # Options of the generator's head, of no effect on the discriminator.
        return replace(
            spec,
            kind="discriminator",
            generator=None,
            config=replace(spec.config, tie_weights=True, output_bias=False),
        )
    assert spec.generator is not None
    return replace(spec, kind="mlm", generator=None, config=spec.generator)


def _generator(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The shared embeddings but for the discriminator's projection, and the generator's own."""
    found = {
        path: v
        for path, v in values.items()
        if path.startswith("embeddings/") and not path.startswith("embeddings/projection/")
    }
    for path, value in values.items():
        if path.startswith(_INSIDE):
            inside = path.removeprefix(_INSIDE)
            found[f"embeddings/{inside}" if inside.startswith("projection/") else inside] = value
    return found


def part_of(saved: PretrainedModel, part: str) -> PretrainedModel:
    """One of the two models of an ELECTRA (`PARTS`), with its copy of the shared embeddings.

    Raises `UsageError` for a model that is no ELECTRA.
    """
    if saved.spec.kind != "electra":
        raise UsageError(
            f"{saved.source}: is of kind {saved.spec.kind!r}; only a model trained with "
            f"--objective electra has a {part}"
        )
    if part == GENERATOR:
        values = _generator(saved.values)
    else:
        values = {
            path: value for path, value in saved.values.items() if not path.startswith(_INSIDE)
        }
    return saved.replaced(values=values, spec=part_spec(saved.spec, part)).checked()
