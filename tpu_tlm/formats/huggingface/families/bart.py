"""BART: encoder-decoder with learned positions, norms last, and a bias on the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import DENSE, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.family import (
    ACTIVATIONS,
    MAX_FFN,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    THEIR_ACTIVATION,
    Family,
    dense_classifier,
    divided,
    tied_tokens,
)
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import (
    Arrays,
    Pair,
    heads,
    joined_heads,
    linear,
    norm,
    pair,
    rows,
    same,
)
from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size
from tpu_tlm.models.spec import ModelSpec

# Rows of both position tables before that of the first token.
_OFFSET = 2
# Extras: those rows, which no text reaches.
_FIRST = {
    "encoder.embed_positions.weight": "positions/first",
    "decoder.embed_positions.weight": "positions/first_target",
}
_BIAS = "final_logits_bias"
_SHARED, _TABLES = "shared.weight", ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


class Bart(Family):
    """BART (arXiv 1910.13461)."""

    name, class_name, prefix = "bart", "Bart", "model."
    body = ("shared.", "encoder.", "decoder.")
    suffixes = {"seq2seq": "ForConditionalGeneration"}
    token_head = ("lm_head.", _BIAS)
    bos_is_prefix = True

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        config.only("scale_embedding", False)
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        d_model = config.size("d_model", "hidden_size", high=MAX_WIDTH)
        num_heads = config.size("encoder_attention_heads", high=MAX_WIDTH)
        divided(config, d_model, num_heads)
        d_ff = config.size("encoder_ffn_dim", high=MAX_FFN)
        # The defaults are those of the largest published model.
        own = {"decoder_attention_heads": (num_heads, 16), "decoder_ffn_dim": (d_ff, 4096)}
        for key, (needed, default) in own.items():
            if config.size(key, high=MAX_FFN, default=default) != needed:
                config.fail(key, f"only {needed}, as in the encoder, is supported")
        positions = config.size("max_position_embeddings", high=MAX_POSITIONS)
        dropout = config.number("dropout", 0.1)
        return ModelSpec(
            ModelConfig(
                d_model=d_model,
                d_ff=d_ff,
                num_heads=num_heads,
                num_layers=config.size("encoder_layers", high=MAX_LAYERS),
                num_decoder_layers=config.size("decoder_layers", high=MAX_LAYERS),
                position_encoding=["learned"],
                max_positions=positions,
                target_embeddings=True,
                embeddings_reduction="sum-layer-norm",
                transformer_type="post-layer-norm",
                layer_norm_eps=1e-5,
                activation=config.choice("activation_function", "gelu", ACTIVATIONS),
                tie_weights=tied_tokens(config),
                output_bias=True,
                mask_pad=True,
                dropout=dropout,
                ffn_pdrop=config.number("activation_dropout", 0.0),
                embeddings_dropout=dropout,
                weight_std=config.number("init_std", 0.02, high=100.0),
            ),
            vocab_size=vocab,
            seq_length=positions,
            seq_length_y=positions,
            pad_id=config.token("pad_token_id", vocab, 1) or 0,
            kind=kind,
            y_prefix_id=config.token("decoder_start_token_id", vocab, 2),
            y_suffix_id=config.token("eos_token_id", vocab, 2),
        )

    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        ours = spec.config
        if ours.activation not in THEIR_ACTIVATION:
            raise UsageError(f"--activation {ours.activation} has no place in a bart model")
        return {
            "is_encoder_decoder": True,
            "vocab_size": spec.vocab_size,
            "d_model": ours.d_model,
            "encoder_layers": ours.num_layers,
            "decoder_layers": ours.num_decoder_layers or ours.num_layers,
            "encoder_attention_heads": ours.num_heads,
            "decoder_attention_heads": ours.num_heads,
            "encoder_ffn_dim": ours.d_ff,
            "decoder_ffn_dim": ours.d_ff,
            "max_position_embeddings": ours.max_positions or spec.seq_length,
            "activation_function": THEIR_ACTIVATION[ours.activation],
            "dropout": ours.dropout,
            "attention_dropout": ours.dropout,
            "activation_dropout": ours.ffn_pdrop,
            "init_std": ours.weight_std,
            "scale_embedding": False,
            "tie_word_embeddings": ours.tie_weights,
            "pad_token_id": spec.pad_id,
            "eos_token_id": spec.y_suffix_id,
            "decoder_start_token_id": spec.y_prefix_id,
            "forced_eos_token_id": None,
        }

    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        config = spec.config
        count = config.num_heads
        yield rows("embeddings/x/table", _SHARED, spec.vocab_size)
        yield same("embeddings/x/positions", "encoder.embed_positions.weight")
        yield from norm("embeddings/reduction", "encoder.layernorm_embedding")
        yield same("target/positions", "decoder.embed_positions.weight")
        yield from norm("target/reduction", "decoder.layernorm_embedding")
        for layer in range(config.num_layers):
            path, key = f"encoder/{layer}", f"encoder.layers.{layer}"
            yield from _attention(f"{path}/attn", f"{key}.self_attn", count)
            yield from norm(f"{path}/ln2", f"{key}.self_attn_layer_norm")
            yield from _feed_forward(path, key)
        for layer in range(config.num_decoder_layers or config.num_layers):
            path, key = f"decoder/{layer}", f"decoder.layers.{layer}"
            yield from _attention(f"{path}/self_attn", f"{key}.self_attn", count)
            yield from norm(f"{path}/ln2", f"{key}.self_attn_layer_norm")
            yield from _attention(f"{path}/src_attn", f"{key}.encoder_attn", count)
            yield from norm(f"{path}/ln3", f"{key}.encoder_attn_layer_norm")
            yield from _feed_forward(path, key)
        missing = padded_vocab_size(spec.vocab_size) - spec.vocab_size
        yield pair(
            "head/bias",
            (_BIAS,),
            lambda bias: [bias[None, : spec.vocab_size]],
            lambda parts: np.pad(np.reshape(parts[0], -1), (0, missing)),
        )
        if not config.tie_weights:
            yield rows("head/kernel", "lm_head.weight", spec.vocab_size, transpose=True)

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        return "seq2seq"

    def complete(
        self, spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
    ) -> tuple[ModelSpec, Arrays, list[str]]:
        if spec.config.output_bias:
            return spec, dict(values), []
        # A fine-tuned model has no logits; of zeros nothing need be said.
        bias = np.zeros(padded_vocab_size(spec.vocab_size), np.float32)
        config = replace(spec.config, output_bias=True)
        return replace(spec, config=config), {**values, "head/bias": bias}, []

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        names = list(_TABLES)
        if spec.config.tie_weights:
            names.append("lm_head.weight")
        return dict.fromkeys(names, _SHARED)

    def from_file(self, arrays: Arrays, config: ConfigReader) -> tuple[Arrays, Arrays]:
        arrays, extras = dict(arrays), {}
        if not config.flag("tie_word_embeddings", True):
            for key in (key for key in _TABLES if key in arrays and _SHARED in arrays):
                if not np.array_equal(arrays[key], arrays[_SHARED]):
                    config.fail(
                        "tie_word_embeddings",
                        f"{key} differs from {_SHARED}: source and target need one token table",
                    )
        for key, name in _FIRST.items():
            if key in arrays and arrays[key].ndim == 2:
                extras[name] = np.array(arrays[key][:_OFFSET], np.float32)
                arrays[key] = arrays[key][_OFFSET:]
        # A file of the bare model has no bias.
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        arrays.setdefault(_BIAS, np.zeros((1, vocab), np.float32))
        return arrays, extras

    def to_file(self, arrays: Arrays, spec: ModelSpec, extras: Mapping[str, np.ndarray]) -> Arrays:
        found = dict(arrays)
        for key, name in _FIRST.items():
            width = found[key].shape[1]
            first = extras.get(name, np.zeros((_OFFSET, width), np.float32))
            if first.shape != (_OFFSET, width):
                raise UsageError(f"{name} has shape {list(first.shape)}, not {[_OFFSET, width]}")
            found[key] = np.concatenate([first, found[key]])
        return found

    def own_extras(self, spec: ModelSpec) -> tuple[str, ...]:
        return tuple(_FIRST.values())

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task != SEQUENCE:
            return None
        return Classifier(task, (), pooling="last", dense=DENSE, activation="tanh")

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        yield from dense_classifier("classification_head")


def _attention(path: str, key: str, count: int) -> Iterator[Pair]:
    queries, names, values = (f"{key}.{name}_proj" for name in "qkv")
    yield from heads(f"{path}/qkv", (queries, names, values), count)
    yield from joined_heads(f"{path}/w_O", f"{key}.out_proj", count)


def _feed_forward(path: str, key: str) -> Iterator[Pair]:
    yield from linear(f"{path}/ffn/expansion", f"{key}.fc1")
    yield from linear(f"{path}/ffn/squeeze", f"{key}.fc2")
    yield from norm(f"{path}/ln1", f"{key}.final_layer_norm")
