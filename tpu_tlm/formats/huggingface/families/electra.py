"""ELECTRA: BERT with embeddings of their own width, a generator's and a discriminator's head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tpu_tlm.formats.classifier import DENSE, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.bert import Bert
from tpu_tlm.formats.huggingface.families.family import MAX_TYPES, MAX_WIDTH, dense_classifier
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair, linear
from tpu_tlm.models.spec import ModelSpec

_DISCRIMINATOR = "discriminator_predictions"


class Electra(Bert):
    """ELECTRA (arXiv 2003.10555)."""

    name, class_name, prefix = "electra", "Electra", "electra."
    body = ("embeddings.", "embeddings_project.", "encoder.")
    suffixes = {"mlm": "ForMaskedLM", "embed": "Model", "discriminator": "ForPreTraining"}
    head = (
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.bias",
        "generator_lm_head",
    )
    head_activation = "gelu-exact"
    has_pooler = False

    def sizes(self, config: ConfigReader, d_model: int) -> dict[str, Any]:
        default = d_model if "embedding_size" in config.values else 128
        width = config.size("embedding_size", high=MAX_WIDTH, default=default, null=True)
        types = config.size("type_vocab_size", low=1, high=MAX_TYPES, default=2)
        return {
            "type_vocab_size": types,
            "embedding_size": width if width != d_model else None,
        }

    def write_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        width = spec.config.embedding_size or spec.config.d_model
        return {**super().write_sizes(spec), "embedding_size": width}

    def projection(self, spec: ModelSpec) -> Iterator[Pair]:
        if spec.config.embedding_size not in (None, spec.config.d_model):
            yield from linear("embeddings/projection", "embeddings_project")

    def head_pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        if spec.kind == "discriminator":
            yield from linear("head/dense", f"{_DISCRIMINATOR}.dense")
            yield from linear("head/unit", f"{_DISCRIMINATOR}.dense_prediction")
            return
        yield from super().head_pairs(spec)

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        bias, decoder = self.head[2:]
        if spec.kind != "mlm" or not spec.config.tie_weights:
            return {}
        return {f"{decoder}.weight": f"{self.words}.weight"}

    def to_file(self, arrays: Any, spec: ModelSpec, extras: Mapping[str, np.ndarray]) -> Any:
        return arrays

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        if f"{_DISCRIMINATOR}.dense.weight" in arrays:
            return "discriminator"
        return super().kind_of(arrays, config)

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task == SEQUENCE:
            return Classifier(task, (), dense=DENSE, activation="gelu-exact")
        return Classifier(task, ())

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        if task == SEQUENCE:
            yield from dense_classifier("classifier")
        else:
            yield from linear("classifier", "classifier")
