"""MPNet: RoBERTa without token types, with one table of relative positions for all layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tpu_tlm.formats.huggingface.families.roberta import Roberta
from tpu_tlm.formats.huggingface.families.t5 import shared_positions, with_one_table
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays, Pair
from tpu_tlm.models.spec import ModelSpec


class MPNet(Roberta):
    """MPNet (arXiv 2004.09297); its relative positions are bucketed as T5's."""

    prefix = "mpnet."
    types = None
    attention = ("attention.attn.q", "attention.attn.k", "attention.attn.v")
    attention_out, attention_norm = "attention.attn.o", "attention.LayerNorm"

    def __init__(self) -> None:
        super().__init__("mpnet", "MPNet")

    def offset(self, config: ConfigReader | None, pad_id: int) -> int:
        # Whatever the padding id is: the class counts from 1.
        return 2

    def check_settings(self, config: ConfigReader) -> None:
        super().check_settings(config)
        config.only("relative_attention_num_buckets", 32)

    def sizes(self, config: ConfigReader, d_model: int) -> dict[str, Any]:
        return {"type_vocab_size": 0}

    def write_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        return {
            "layer_norm_eps": spec.config.layer_norm_eps,
            "relative_attention_num_buckets": 32,
        }

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        spec = super().read_config(config, kind)
        shared = replace(spec.config, position_encoding=["learned", "t5"], share_positions=True)
        return replace(spec, config=shared)

    def layers(self, spec: ModelSpec) -> Iterator[Pair]:
        yield from super().layers(spec)
        key = "encoder.relative_attention_bias.weight"
        yield shared_positions("encoder/0/attn", key)

    def complete(
        self, spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
    ) -> tuple[ModelSpec, Arrays, list[str]]:
        spec, left = with_one_table(spec, values, where)
        return super().complete(spec, left, where)
