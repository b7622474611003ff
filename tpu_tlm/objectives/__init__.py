"""Objectives: what a model is trained on, corruption on the device and the loss.

The names for an objective of one's own are imported, with TensorFlow, when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tpu_tlm.objectives.base import (
        Key,
        LossSums,
        Objective,
        ObjectiveContext,
        ObjectiveOptions,
        cross_entropy,
    )

__all__ = [
    "Key",
    "LossSums",
    "Objective",
    "ObjectiveContext",
    "ObjectiveOptions",
    "cross_entropy",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tpu_tlm.objectives import base

    return getattr(base, name)
