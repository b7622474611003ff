"""All options of a training run as one value, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
    TokenizerConfig,
)
from tpu_tlm.config.objectives import OBJECTIVE_OPTIONS
from tpu_tlm.objectives.options import ObjectiveOptions

# The option classes of `train`, in the order of its help and of config.yaml.
CLASSES: tuple[type, ...] = (
    DataConfig,
    TokenizerConfig,
    ModelConfig,
    *OBJECTIVE_OPTIONS,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
)


@dataclass(frozen=True)
class Options:
    """All options of a training run, one instance per concern."""

    data: DataConfig
    tokenizer: TokenizerConfig
    model: ModelConfig
    objectives: ObjectiveOptions
    optim: OptimConfig
    run: RunConfig
    runtime: RuntimeConfig

    @classmethod
    def of(cls, instances: Iterable[Any]) -> Options:
        """From one instance per class of `CLASSES`, in any order; others are ignored."""
        by_class = {type(instance): instance for instance in instances}
        return cls(
            by_class[DataConfig],
            by_class[TokenizerConfig],
            by_class[ModelConfig],
            ObjectiveOptions(*(by_class[group] for group in OBJECTIVE_OPTIONS)),
            by_class[OptimConfig],
            by_class[RunConfig],
            by_class[RuntimeConfig],
        )

    def parts(self) -> tuple[Any, ...]:
        """The instances, in the order of `CLASSES`."""
        return (
            self.data,
            self.tokenizer,
            self.model,
            *self.objectives.instances(),
            self.optim,
            self.run,
            self.runtime,
        )


def as_options(config: Any) -> Options:
    """`Options` from any configuration that has `parts()`, such as `Options` itself."""
    return config if isinstance(config, Options) else Options.of(config.parts())
