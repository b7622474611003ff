"""The discriminator: a model that distinguishes replaced tokens from original ones."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tpu_tlm.models.base import Inputs, TransformerModel
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.heads import BinaryHead
from tpu_tlm.models.spec import ModelSpec


class TransformerDiscriminator(TransformerModel):
    """An encoder with one logit per position: int `[B, T] -> float32 [B, T]`.

    A positive logit means replaced (ELECTRA, arXiv 2003.10555).
    """

    def __init__(self, spec: ModelSpec, *, precision: str | None = None, **kwargs: Any) -> None:
        super().__init__(spec, precision=precision, **kwargs)
        self.head = BinaryHead(spec.config, name="head", dtype=self.dtype_policy)

    def call(
        self, inputs: Inputs, key: Key | None = None, training: bool | None = None
    ) -> tf.Tensor:
        return self.head(self.encode(inputs, self.dropout_key(inputs, key, training)))
