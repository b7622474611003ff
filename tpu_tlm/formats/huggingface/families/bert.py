"""BERT, and the base of the families that differ from it in names and small settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.family import (
    ACTIVATIONS,
    MAX_FFN,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_TYPES,
    MAX_VOCAB,
    MAX_WIDTH,
    THEIR_ACTIVATION,
    Family,
    divided,
    named_head,
)
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import (
    Arrays,
    Pair,
    heads,
    joined_heads,
    linear,
    norm,
    rows,
    same,
    transposed,
)
from tpu_tlm.models.spec import ModelSpec

POOLER = "pooler"


class Bert(Family):
    """BERT (arXiv 1810.04805): learned positions, token types, norms after the sub-layers."""

    name, class_name, prefix = "bert", "Bert", "bert."
    body: tuple[str, ...] = ("embeddings.", "encoder.", "pooler.")
    suffixes: Mapping[str, str] = {"mlm": "ForMaskedLM", "embed": "Model"}

    # Names: embeddings
    words, positions = "embeddings.word_embeddings", "embeddings.position_embeddings"
    types: str | None = "embeddings.token_type_embeddings"
    embedding_norm = "embeddings.LayerNorm"
    # Names: one layer, in the order query, key, value, output, norm, in, out, norm
    layer = "encoder.layer.{}"
    attention = ("attention.self.query", "attention.self.key", "attention.self.value")
    attention_out, attention_norm = "attention.output.dense", "attention.output.LayerNorm"
    ffn_in, ffn_out, ffn_norm = "intermediate.dense", "output.dense", "output.LayerNorm"
    # Names: the token head's dense, norm, bias, and the table of an untied one
    head = (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    )
    # Keys of config.json
    keys = {
        "d_model": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "positions": "max_position_embeddings",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    }
    # The head's activation, where the family does not take the configuration's.
    head_activation: str | None = None
    # What a config.json that does not name them means.
    default_eps, default_activation, default_dropout = 1e-12, "gelu", 0.1
    has_pooler = True

    # Configuration

    def offset(self, config: ConfigReader | None, pad_id: int) -> int:
        """Rows of the position table before the one of the first token."""
        return 0

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        keys, head = self.keys, kind == "mlm"
        self.check_settings(config)
        activation = config.choice(keys["activation"], self.default_activation, ACTIVATIONS)
        if head and self.head_activation not in (None, activation):
            config.fail(
                keys["activation"], f"beside a token head {self.name} computes with 'gelu' only"
            )
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        d_model = config.size(keys["d_model"], high=MAX_WIDTH)
        num_heads = config.size(keys["num_heads"], high=MAX_WIDTH)
        divided(config, d_model, num_heads)
        pad_id = self.pad_of(config, vocab)
        offset = self.offset(config, pad_id)
        positions = config.size(keys["positions"], low=offset + 1, high=MAX_POSITIONS) - offset
        dropout = config.number(keys["dropout"], self.default_dropout)
        return ModelSpec(
            ModelConfig(
                **self.sizes(config, d_model),
                d_model=d_model,
                d_ff=config.size(keys["d_ff"], high=MAX_FFN),
                num_heads=num_heads,
                num_layers=config.size(keys["num_layers"], high=MAX_LAYERS),
                position_encoding=["learned"],
                max_positions=positions,
                embeddings_reduction="sum-layer-norm",
                transformer_type="post-layer-norm",
                layer_norm_eps=self.eps_of(config),
                activation=activation,
                tie_weights=config.flag("tie_word_embeddings", True) or not head,
                output_bias=head,
                mlm_head="bert" if kind in ("mlm", "discriminator") else "none",
                mask_pad=True,
                dropout=dropout,
                embeddings_dropout=dropout,
                weight_std=config.number("initializer_range", 0.02, high=100.0),
            ),
            vocab_size=vocab,
            seq_length=positions,
            pad_id=pad_id,
            kind=kind,
        )

    def check_settings(self, config: ConfigReader) -> None:
        """Refuse settings that change the numbers and have no counterpart here."""
        config.only("position_embedding_type", "absolute")
        config.only("is_decoder", False)
        config.only("add_cross_attention", False)

    def pad_of(self, config: ConfigReader, vocab: int) -> int:
        """The padding id."""
        return config.token("pad_token_id", vocab, 0) or 0

    def eps_of(self, config: ConfigReader) -> float:
        """Epsilon of the layer norms."""
        return config.number("layer_norm_eps", self.default_eps, low=0.0, high=1.0)

    def sizes(self, config: ConfigReader, d_model: int) -> dict[str, Any]:
        """Options that not every family has."""
        types = config.size("type_vocab_size", low=1, high=MAX_TYPES, default=2)
        return {"type_vocab_size": types}

    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        ours, keys = spec.config, self.keys
        if ours.activation not in THEIR_ACTIVATION:
            raise UsageError(f"--activation {ours.activation} has no place in a {self.name} model")
        positions = (ours.max_positions or spec.seq_length) + self.offset(None, spec.pad_id)
        return {
            "vocab_size": spec.vocab_size,
            keys["d_model"]: ours.d_model,
            keys["num_layers"]: ours.num_layers,
            keys["num_heads"]: ours.num_heads,
            keys["d_ff"]: ours.d_ff,
            keys["positions"]: positions,
            keys["activation"]: THEIR_ACTIVATION[ours.activation],
            keys["dropout"]: ours.dropout,
            keys["attention_dropout"]: ours.dropout,
            "initializer_range": ours.weight_std,
            "tie_word_embeddings": ours.tie_weights,
            "pad_token_id": spec.pad_id,
            **self.write_sizes(spec),
        }

    def write_sizes(self, spec: ModelSpec) -> dict[str, Any]:
        """Settings of config.json that not every family has."""
        return {
            "type_vocab_size": spec.config.type_vocab_size,
            "layer_norm_eps": spec.config.layer_norm_eps,
        }

    # Arrays

    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        yield rows("embeddings/x/table", f"{self.words}.weight", spec.vocab_size)
        yield same("embeddings/x/positions", f"{self.positions}.weight")
        if self.types is not None:
            yield same("embeddings/tt/table", f"{self.types}.weight")
        yield from norm("embeddings/reduction", self.embedding_norm)
        yield from self.projection(spec)
        yield from self.layers(spec)
        yield from self.head_pairs(spec)

    def projection(self, spec: ModelSpec) -> Iterator[Pair]:
        """The layer between embeddings and encoder of another width."""
        yield from ()

    def layers(self, spec: ModelSpec) -> Iterator[Pair]:
        """The encoder's layers."""
        for layer in range(spec.config.num_layers):
            yield from self.layer_pairs(
                f"encoder/{layer}", self.layer.format(layer), spec.config.num_heads
            )

    def layer_pairs(self, path: str, key: str, num_heads: int) -> Iterator[Pair]:
        """One layer."""
        queries, names, values = (f"{key}.{name}" for name in self.attention)
        yield from heads(f"{path}/attn/qkv", (queries, names, values), num_heads)
        yield from joined_heads(f"{path}/attn/w_O", f"{key}.{self.attention_out}", num_heads)
        yield from norm(f"{path}/ln2", f"{key}.{self.attention_norm}")
        yield from linear(f"{path}/ffn/expansion", f"{key}.{self.ffn_in}")
        yield from linear(f"{path}/ffn/squeeze", f"{key}.{self.ffn_out}")
        yield from norm(f"{path}/ln1", f"{key}.{self.ffn_norm}")

    def head_pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        """The head that predicts tokens."""
        dense, layer_norm, bias, decoder = self.head
        if spec.kind != "mlm" or spec.config.mlm_head != "bert":
            return
        yield from linear("head/dense", dense)
        yield from norm("head/ln", layer_norm)
        if spec.config.tie_weights:
            yield rows("head/bias", bias, spec.vocab_size)
        else:
            yield rows("head/kernel", f"{decoder}.weight", spec.vocab_size, transpose=True)
            # An untied decoder adds its own bias, and `transformers` expects the tied one too.
            yield rows("head/bias", f"{decoder}.bias", spec.vocab_size)

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        key = f"{self.head[0]}.weight"
        if key in arrays:
            return "mlm"
        named_head(config, ("ForMaskedLM", "ForPreTraining"), key)
        return "embed"

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        _, _, bias, decoder = self.head
        if spec.kind != "mlm":
            return {}
        if not spec.config.tie_weights:
            return {bias: f"{decoder}.bias"}
        return {f"{decoder}.weight": f"{self.words}.weight", f"{decoder}.bias": bias}

    def from_file(self, arrays: Arrays, config: ConfigReader) -> tuple[Arrays, Arrays]:
        _, _, bias, decoder = self.head
        arrays = dict(arrays)
        if not config.flag("tie_word_embeddings", True) and f"{decoder}.bias" not in arrays:
            # Files of older versions of `transformers` hold the bias under one name only.
            if bias in arrays:
                arrays[f"{decoder}.bias"] = arrays[bias]
        return arrays, {}

    def to_file(self, arrays: Arrays, spec: ModelSpec, extras: Mapping[str, np.ndarray]) -> Arrays:
        _, _, bias, decoder = self.head
        if spec.kind == "mlm" and not spec.config.tie_weights:
            arrays = {**arrays, bias: arrays[f"{decoder}.bias"]}
        return arrays

    def optional(self, spec: ModelSpec) -> list[list[Pair]]:
        if not self.has_pooler:
            return []
        parts = [list(linear(POOLER, "pooler.dense"))]
        if self.name == "bert":
            parts.append(
                [
                    transposed("next_sentence/kernel", "cls.seq_relationship.weight"),
                    same("next_sentence/bias", "cls.seq_relationship.bias"),
                ]
            )
        return parts

    def complete(
        self, spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
    ) -> tuple[ModelSpec, Arrays, list[str]]:
        return completed(spec, values, where, types=2 if self.types is not None else 0)

    # Heads

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task == SEQUENCE:
            return Classifier(task, (), dense=POOLER, activation="tanh")
        return Classifier(task, ())

    def class_of(self, spec: ModelSpec, task: str | None, extras: Mapping[str, Any]) -> str:
        if task is None and self.name == "bert" and spec.kind == "mlm":
            if "next_sentence/kernel" in extras and f"{POOLER}/kernel" in extras:
                return "BertForPreTraining"
        return super().class_of(spec, task, extras)

    def notes(self, model_class: str, extras: Mapping[str, Any]) -> list[str]:
        if not self.has_pooler or f"{POOLER}/kernel" in extras or not model_class.endswith("Model"):
            return []
        return [
            f"there is no pooler: load it with {model_class}.from_pretrained(DIR, "
            "add_pooling_layer=False)"
        ]


def completed(
    spec: ModelSpec, values: Mapping[str, np.ndarray], where: str, *, types: int = 2
) -> tuple[ModelSpec, Arrays, list[str]]:
    """The same model with the parts that BERT always has: zeros where ours has none.

    A model that predicts with the token table alone becomes an encoder. Gives the spec, the
    values, and what was added in words. Raises `UsageError` for a bias on the logits, or an
    output projection, without BERT's head.
    """
    config, grown, added = spec.config, dict(values), []
    width = config.embedding_size or config.d_model
    if not config.type_vocab_size and types:
        grown["embeddings/tt/table"] = np.zeros((types, width), np.float32)
        config = replace(config, type_vocab_size=types)
        added.append("a token-type table of zeros")
    if spec.kind == "mlm" and config.mlm_head == "bert" and not config.output_bias:
        from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size

        grown["head/bias"] = np.zeros(padded_vocab_size(spec.vocab_size), np.float32)
        config = replace(config, output_bias=True)
        added.append("a bias of zeros on the logits")
    kind = spec.kind
    if kind == "mlm" and config.mlm_head == "none":
        if config.output_bias or not config.tie_weights:
            raise UsageError(
                f"{where}: BERT has no token head but its own; train such a model with "
                "--mlm_head bert"
            )
        # The head is the token table itself: nothing is lost, but `transformers` has no such head.
        kind = "embed"
    return replace(spec, config=config, kind=kind), grown, added


def reduced(spec: ModelSpec, values: Arrays, wanted: ModelSpec) -> tuple[ModelSpec, Arrays] | None:
    """The inverse of `completed`: the model as `wanted` describes it.

    None when the model differs from `wanted` in more than the parts that `completed` adds.
    """
    from tpu_tlm.formats.compatibility import differences
    from tpu_tlm.formats.huggingface.families.t5 import with_own_tables

    left = dict(values)
    config = spec.config
    types, bias = left.get("embeddings/tt/table"), left.get("head/bias")
    if not wanted.config.type_vocab_size and types is not None and not types.any():
        del left["embeddings/tt/table"]
        config = replace(config, type_vocab_size=0)
    if not wanted.config.output_bias and bias is not None and not bias.any():
        del left["head/bias"]
        config = replace(config, output_bias=False)
    if config.share_positions and not wanted.config.share_positions:
        # Written by a version in which every layer had a copy of the table.
        left = with_own_tables(left, spec)
        config = replace(config, share_positions=False)
    found = replace(spec, config=config)
    same_sizes = (
        found.vocab_size == wanted.vocab_size
        and found.pad_id == wanted.pad_id
        and found.seq_length >= wanted.seq_length
    )
    if not same_sizes or [d for d in differences(found, wanted) if d.name != "mask_pad"]:
        return None
    return wanted, left
