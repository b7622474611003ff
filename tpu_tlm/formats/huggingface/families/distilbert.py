"""DistilBERT: BERT without token types and pooler, under names of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tpu_tlm.formats.classifier import DENSE, OUT, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.bert import Bert
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair, linear
from tpu_tlm.models.spec import ModelSpec


class DistilBert(Bert):
    """DistilBERT (arXiv 1910.01108). A sinusoidal position table is stored like a learned one."""

    name, class_name, prefix = "distilbert", "DistilBert", "distilbert."
    body = ("embeddings.", "transformer.")
    types = None
    layer = "transformer.layer.{}"
    attention = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
    attention_out, attention_norm = "attention.out_lin", "sa_layer_norm"
    ffn_in, ffn_out, ffn_norm = "ffn.lin1", "ffn.lin2", "output_layer_norm"
    head = ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias", "vocab_projector")
    keys = {
        "d_model": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "d_ff": "hidden_dim",
        "positions": "max_position_embeddings",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
    }
    has_pooler = False

    def sizes(self, config: ConfigReader, d_model: int) -> dict[str, Any]:
        return {"type_vocab_size": 0}

    def eps_of(self, config: ConfigReader) -> float:
        return 1e-12

    def write_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        return {"sinusoidal_pos_embds": False}

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        if spec.kind != "mlm" or not spec.config.tie_weights:
            return {}
        return {"vocab_projector.weight": f"{self.words}.weight"}

    def to_file(self, arrays: Any, spec: ModelSpec, extras: Any) -> Any:
        return arrays

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task == SEQUENCE:
            return Classifier(task, (), dense=DENSE, activation="relu")
        return Classifier(task, ())

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        if task == SEQUENCE:
            yield from linear(DENSE, "pre_classifier")
        yield from linear(OUT, "classifier")
