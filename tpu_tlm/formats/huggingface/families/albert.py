"""ALBERT: BERT with one set of layer weights and narrow embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tpu_tlm.formats.huggingface.families.bert import POOLER, Bert
from tpu_tlm.formats.huggingface.families.family import MAX_TYPES, MAX_WIDTH
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair, linear
from tpu_tlm.models.spec import ModelSpec


class Albert(Bert):
    """ALBERT (arXiv 1909.11942) with one group of one layer, as all published models."""

    name, class_name, prefix = "albert", "Albert", "albert."
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    attention = ("attention.query", "attention.key", "attention.value")
    attention_out, attention_norm = "attention.dense", "attention.LayerNorm"
    ffn_in, ffn_out, ffn_norm = "ffn", "ffn_output", "full_layer_layer_norm"
    head = (
        "predictions.dense",
        "predictions.LayerNorm",
        "predictions.bias",
        "predictions.decoder",
    )

    default_activation, default_dropout = "gelu_new", 0.0

    def check_settings(self, config: ConfigReader) -> None:
        super().check_settings(config)
        config.only("num_hidden_groups", 1)
        config.only("inner_group_num", 1)

    def sizes(self, config: ConfigReader, d_model: int) -> dict[str, Any]:
        width = config.size("embedding_size", high=MAX_WIDTH, default=128)
        if width == d_model:
            config.fail("embedding_size", "a width other than hidden_size is supported")
        types = config.size("type_vocab_size", low=1, high=MAX_TYPES, default=2)
        return {"type_vocab_size": types, "embedding_size": width, "shared_layers": True}

    def write_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        width = spec.config.embedding_size or spec.config.d_model
        return {
            **super().write_sizes(spec),
            "embedding_size": width,
            "num_hidden_groups": 1,
            "inner_group_num": 1,
        }

    def projection(self, spec: ModelSpec) -> Iterator[Pair]:
        yield from linear("embeddings/projection", "encoder.embedding_hidden_mapping_in")

    def layers(self, spec: ModelSpec) -> Iterator[Pair]:
        yield from self.layer_pairs("encoder/0", self.layer, spec.config.num_heads)

    def optional(self, spec: ModelSpec) -> list[list[Pair]]:
        return [list(linear(POOLER, "pooler"))]
