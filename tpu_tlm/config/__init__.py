"""The options of every command: one dataclass per concern, where all that is known of an option is.

`Config` holds those of a training run. Nothing in this package imports TensorFlow.
"""

from tpu_tlm.config.commands import (
    ConvertConfig,
    DoctorConfig,
    EvaluateConfig,
    PlanConfig,
    PredictConfig,
)
from tpu_tlm.config.experiment import Config
from tpu_tlm.config.model import ModelConfig
from tpu_tlm.config.objectives import (
    OBJECTIVE_OPTIONS,
    ContrastiveConfig,
    DenoisingConfig,
    ElectraConfig,
    MlmConfig,
    ObjectiveOptions,
)
from tpu_tlm.config.optimizer import OptimConfig
from tpu_tlm.config.text import (
    SUBWORDS,
    CorpusConfig,
    PairsConfig,
    PreprocessConfig,
    TokenizerConfig,
    VocabConfig,
)
from tpu_tlm.config.training import DataConfig, RunConfig, RuntimeConfig

__all__ = [
    "OBJECTIVE_OPTIONS",
    "SUBWORDS",
    "Config",
    "ContrastiveConfig",
    "ConvertConfig",
    "CorpusConfig",
    "DataConfig",
    "DenoisingConfig",
    "DoctorConfig",
    "ElectraConfig",
    "EvaluateConfig",
    "MlmConfig",
    "ModelConfig",
    "ObjectiveOptions",
    "OptimConfig",
    "PairsConfig",
    "PlanConfig",
    "PredictConfig",
    "PreprocessConfig",
    "RunConfig",
    "RuntimeConfig",
    "TokenizerConfig",
    "VocabConfig",
]
