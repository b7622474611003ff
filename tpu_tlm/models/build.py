"""From a spec to a model with its initial values."""

from __future__ import annotations

import keras
import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.lm import TransformerMaskedLanguageModel
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.models.variables import initialize

_KINDS: dict[str, type[keras.Model]] = {"mlm": TransformerMaskedLanguageModel}


def build_model(spec: ModelSpec, *, precision: str = "float32", seed: int | None = None) -> keras.Model:
    """The model of a spec, its variables on the host; with a seed they get their initial values, without one they are zero.

    Raises `UsageError` for sizes that do not go together.
    """
    try:
        # On the host: the training state holds its own copy on the device.
        with tf.device("/CPU:0"):
            model = _KINDS[spec.kind](spec.config, spec.vocab_size, spec.nctx, spec.pad_id, precision=precision, name="model")
            if seed is not None:
                initialize(model, seed)
    except ValueError as error:
        raise UsageError(f"model: {error}") from None
    return model
