"""The options of all objectives as one value, without TensorFlow."""

from __future__ import annotations

from tpu_tlm.config.objectives import ObjectiveOptions, group_name

__all__ = ["ObjectiveOptions", "group_name"]
