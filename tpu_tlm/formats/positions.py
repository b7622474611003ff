"""Learned position tables of another length than a model was trained with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

TABLE = "embeddings/x/positions"
# That of a target with embeddings of its own.
TARGET = "target/positions"


def with_positions(saved: PretrainedModel, count: int) -> PretrainedModel:
    """The model with a position table of `count` rows, and a note that says how it was made.

    A longer table is cropped. A shorter one is repeated: row i becomes a copy of row i modulo the
    old length, which starts closer to the trained model than random rows (Longformer, arXiv
    2004.05150, 5). A model without a learned table, or with one of this length, is returned as it
    is.
    """
    table = saved.values.get(TABLE)
    if table is None or len(table) == count:
        return saved
    rows = len(table)
    done = "cropped" if rows > count else "repeated"
    config = replace(saved.spec.config, max_positions=count)
    return saved.replaced(
        values={
            **saved.values,
            **{
                path: saved.values[path][np.arange(count) % len(saved.values[path])]
                for path in (TABLE, TARGET)
                if path in saved.values
            },
        },
        spec=replace(saved.spec, config=config),
        notes=(*saved.notes, f"{rows} learned positions {done} to {count}"),
    )


def with_positions_of(saved: PretrainedModel, spec: ModelSpec) -> PretrainedModel:
    """The model with as many learned positions as a model of `spec` has, for a warm start."""
    if "learned" not in " ".join(spec.config.position_encoding):
        return saved
    count = spec.config.max_positions or max(spec.seq_length, spec.seq_length_y or 0)
    return with_positions(saved, count)
