"""TPU-first pre-training and fine-tuning of Transformer language models with TensorFlow and Keras.

    import tpu_tlm as tlm

    model = tlm.load("run")                         # a run, NPZ file, HuggingFace directory, ...
    model.fill_mask("a [MASK] story")

    config = tlm.Config.preset("bert-small", train_dir="data/train", run_dir="run", steps=10_000)
    tlm.train(config)

Everything is imported when it is first used; `import tpu_tlm` alone takes no TensorFlow.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from tpu_tlm import models, objectives
    from tpu_tlm.api import (
        Model,
        Trainer,
        convert,
        embed,
        evaluate,
        finetune,
        learn_tokenizer,
        load,
        load_encoder,
        load_predictor,
        plan,
        preprocess,
        quickstart,
        report,
        train,
    )
    from tpu_tlm.config import Config
    from tpu_tlm.errors import Preempted, TlmError, UsageError
    from tpu_tlm.training.callbacks import Callback

# Name -> module that defines it; "" for a sub-package.
_FACE = {
    **dict.fromkeys(
        (
            "Model",
            "Trainer",
            "convert",
            "embed",
            "evaluate",
            "finetune",
            "learn_tokenizer",
            "load",
            "load_encoder",
            "load_predictor",
            "plan",
            "preprocess",
            "quickstart",
            "report",
            "train",
        ),
        "tpu_tlm.api",
    ),
    "Config": "tpu_tlm.config",
    "Callback": "tpu_tlm.training.callbacks",
    "Preempted": "tpu_tlm.errors",
    "TlmError": "tpu_tlm.errors",
    "UsageError": "tpu_tlm.errors",
    "models": "",
    "objectives": "",
}

__all__ = [
    "Callback",
    "Config",
    "Model",
    "Preempted",
    "TlmError",
    "Trainer",
    "UsageError",
    "__version__",
    "convert",
    "embed",
    "evaluate",
    "finetune",
    "learn_tokenizer",
    "load",
    "load_encoder",
    "load_predictor",
    "models",
    "objectives",
    "plan",
    "preprocess",
    "quickstart",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'tpu_tlm' has no attribute {name!r}")
    module = _FACE[name]
    if not module:
        return importlib.import_module(f"tpu_tlm.{name}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """The package; importing the module of a command does not hide the function of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _FACE.get(name):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
