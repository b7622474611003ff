"""From names of position encodings to their implementations."""

from __future__ import annotations

import importlib
from functools import cache

from tpu_tlm.config import ModelConfig
from tpu_tlm.config.position_encodings import POSITION_ENCODINGS
from tpu_tlm.models.positions.base import (
    AbsoluteEncoding,
    PositionEncoding,
    RelativeEncoding,
    Table,
)
from tpu_tlm.models.spec import ModelSpec


@cache
def _load(implementation: str) -> PositionEncoding:
    module, _, name = implementation.partition(":")
    encoding: PositionEncoding = getattr(importlib.import_module(module), name)()
    return encoding


def encoding(name: str) -> PositionEncoding:
    """The encoding of a name in the registry."""
    return _load(POSITION_ENCODINGS[name].implementation)


def encodings_of(config: ModelConfig) -> list[PositionEncoding]:
    """The encodings of a configuration."""
    return [encoding(name) for name in config.position_encoding]


def absolute_encoding(config: ModelConfig) -> AbsoluteEncoding | None:
    """The encoding that acts on the embeddings, where there is one."""
    return next((e for e in encodings_of(config) if isinstance(e, AbsoluteEncoding)), None)


def relative_encoding(config: ModelConfig) -> RelativeEncoding | None:
    """The encoding that acts in attention, where there is one."""
    return next((e for e in encodings_of(config) if isinstance(e, RelativeEncoding)), None)


def find_table(name: str) -> Table | None:
    """The table of any registered encoding whose variables have this name."""
    for known in POSITION_ENCODINGS:
        for table in encoding(known).all_tables:
            if table.name == name:
                return table
    return None


def idle_options(config: ModelConfig) -> set[str]:
    """Options of registered encodings that no encoding of this configuration reads."""
    known = {option for name in POSITION_ENCODINGS for option in encoding(name).options}
    return known - {option for e in encodings_of(config) for option in e.options}


def max_length(spec: ModelSpec) -> int | None:
    """Largest number of tokens that a model takes as input; None: no limit."""
    if spec.config.mlp:
        return spec.seq_length
    longest = max(spec.seq_length, spec.seq_length_y or 0)
    limits = [e.max_length(spec.config, longest) for e in encodings_of(spec.config)]
    return min((limit for limit in limits if limit is not None), default=None)
