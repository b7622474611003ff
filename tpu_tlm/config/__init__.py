"""Every option of every command: one dataclass per concern, the only place where a default and its meaning stand."""

from tpu_tlm.config.commands import (
    ConvertConfig,
    DoctorConfig,
    EvaluateConfig,
    PlanConfig,
    PredictConfig,
)
from tpu_tlm.config.model import ModelConfig
from tpu_tlm.config.objectives import ContrastiveConfig, DenoisingConfig, ElectraConfig, MlmConfig
from tpu_tlm.config.text import (
    SUBWORDS,
    CorpusConfig,
    PairsConfig,
    PreprocessConfig,
    TokenizerConfig,
    VocabConfig,
)
from tpu_tlm.config.training import DataConfig, OptimConfig, RunConfig, RuntimeConfig

__all__ = [
    "SUBWORDS",
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
