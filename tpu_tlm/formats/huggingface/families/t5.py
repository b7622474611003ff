"""T5: encoder-decoder with bucketed relative positions, RMS norms and no biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import DENSE, OUT, SEQUENCE, TOKEN, Classifier
from tpu_tlm.formats.huggingface.families.family import (
    MAX_FFN,
    MAX_LAYERS,
    MAX_VOCAB,
    MAX_WIDTH,
    Family,
    dense_classifier,
    named_class,
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
    rows,
    transposed,
)
from tpu_tlm.models.spec import ModelSpec

_ACTIVATIONS: dict[str, Any] = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
_THEIRS = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
# T5 has no longest text; its published models were trained on this many tokens.
_LENGTH = 512
_TABLE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


class T5(Family):
    """T5 and T5 1.1 (arXiv 1910.10683); kind `embed` is the encoder alone."""

    name, class_name, prefix = "t5", "T5", "transformer."
    body = ("shared.", "encoder.", "decoder.", "lm_head.")
    token_head = ("lm_head.",)
    suffixes = {"seq2seq": "ForConditionalGeneration", "embed": "EncoderModel"}

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        config.only("relative_attention_num_buckets", 32)
        config.only("relative_attention_max_distance", 128)
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        layers = config.size("num_layers", high=MAX_LAYERS)
        tie = kind == "embed" or tied_tokens(config)
        scale = config.flag("tie_word_embeddings", True)
        pad = config.token("pad_token_id", vocab, 0) or 0
        return ModelSpec(
            ModelConfig(
                d_model=config.size("d_model", high=MAX_WIDTH),
                d_ff=config.size("d_ff", high=MAX_FFN),
                num_heads=config.size("num_heads", high=MAX_WIDTH),
                d_k=config.size("d_kv", high=MAX_WIDTH),
                num_layers=layers,
                num_decoder_layers=config.size(
                    "num_decoder_layers", high=MAX_LAYERS, default=layers, null=True
                ),
                position_encoding=["t5"],
                share_positions=True,
                embeddings_reduction="sum",
                transformer_type="pre-layer-norm",
                norm_type="rms-norm",
                layer_norm_eps=config.number("layer_norm_epsilon", 1e-6),
                use_bias=False,
                scale_attention=False,
                scale_logits=config.flag("scale_decoder_outputs", scale),
                activation=config.choice("feed_forward_proj", "relu", _ACTIVATIONS),
                tie_weights=tie,
                mask_pad=True,
                dropout=config.number("dropout_rate", 0.1),
                ffn_pdrop=config.number("dropout_rate", 0.1),
                embeddings_dropout=config.number("dropout_rate", 0.1),
            ),
            vocab_size=vocab,
            seq_length=_LENGTH,
            seq_length_y=_LENGTH,
            pad_id=pad,
            kind=kind,
            y_prefix_id=config.token("decoder_start_token_id", vocab, pad),
            y_suffix_id=config.token("eos_token_id", vocab, 1),
        )

    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        ours = spec.config
        if ours.activation not in _THEIRS:
            raise UsageError(f"--activation {ours.activation} has no place in a t5 model")
        return {
            "is_encoder_decoder": spec.kind == "seq2seq",
            "vocab_size": spec.vocab_size,
            "d_model": ours.d_model,
            "d_ff": ours.d_ff,
            "d_kv": ours.d_k or ours.d_model // ours.num_heads,
            "num_heads": ours.num_heads,
            "num_layers": ours.num_layers,
            "num_decoder_layers": ours.num_decoder_layers or ours.num_layers,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "feed_forward_proj": _THEIRS[ours.activation],
            "layer_norm_epsilon": ours.layer_norm_eps,
            "dropout_rate": ours.dropout,
            "tie_word_embeddings": ours.tie_weights,
            "scale_decoder_outputs": ours.scale_logits,
            "pad_token_id": spec.pad_id,
            "eos_token_id": spec.suffix_id if spec.y_suffix_id is None else spec.y_suffix_id,
            "decoder_start_token_id": (
                spec.pad_id if spec.y_prefix_id is None else spec.y_prefix_id
            ),
        }

    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        config = spec.config
        yield rows("embeddings/x/table", "shared.weight", spec.vocab_size)
        for layer in range(config.num_layers):
            path, key = f"encoder/{layer}", f"encoder.block.{layer}.layer"
            yield from _attention(f"{path}/attn", f"{key}.0.SelfAttention", config)
            yield from norm(f"{path}/ln1", f"{key}.0.layer_norm", bias=False)
            yield from _feed_forward(f"{path}/ffn", f"{key}.1.DenseReluDense", config)
            yield from norm(f"{path}/ln2", f"{key}.1.layer_norm", bias=False)
        yield shared_positions("encoder/0/attn", f"encoder.{_TABLE}")
        yield from norm("encoder/ln", "encoder.final_layer_norm", bias=False)
        if spec.kind == "seq2seq":
            yield from self._decoder(spec)

    def _decoder(self, spec: ModelSpec) -> Iterator[Pair]:
        config = spec.config
        count = config.num_decoder_layers or config.num_layers
        for layer in range(count):
            path, key = f"decoder/{layer}", f"decoder.block.{layer}.layer"
            yield from _attention(f"{path}/self_attn", f"{key}.0.SelfAttention", config)
            yield from norm(f"{path}/ln1", f"{key}.0.layer_norm", bias=False)
            yield from _attention(f"{path}/src_attn", f"{key}.1.EncDecAttention", config)
            yield from norm(f"{path}/ln2", f"{key}.1.layer_norm", bias=False)
            yield from _feed_forward(f"{path}/ffn", f"{key}.2.DenseReluDense", config)
            yield from norm(f"{path}/ln3", f"{key}.2.layer_norm", bias=False)
        yield shared_positions("decoder/0/self_attn", f"decoder.{_TABLE}")
        yield from norm("decoder/ln", "decoder.final_layer_norm", bias=False)
        if not config.tie_weights:
            yield rows("head/kernel", "lm_head.weight", spec.vocab_size, transpose=True)

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        first = named_class(config)
        if first.endswith("ForTokenClassification"):
            return "embed"
        alone = not any(key.startswith("decoder.block.") for key in arrays)
        return "embed" if alone and first.endswith("EncoderModel") else "seq2seq"

    def complete(
        self, spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
    ) -> tuple[ModelSpec, Arrays, list[str]]:
        return (*with_one_table(spec, values, where), [])

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        if spec.config.tie_weights:
            names.append("lm_head.weight")
        return dict.fromkeys(names, "shared.weight")

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task == SEQUENCE:
            return Classifier(task, (), pooling="last", dense=DENSE, activation="tanh")
        return Classifier(task, ())

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        if task == SEQUENCE:
            yield from dense_classifier("classification_head")
        else:
            yield from linear(OUT, "classifier")

    def prefix_in(self, model_class: str) -> str:
        return self.prefix if model_class.endswith("Classification") else ""

    def class_of(self, spec: ModelSpec, task: str | None, extras: Mapping[str, Any]) -> str:
        if task is not None and (task == TOKEN) != (spec.kind == "embed"):
            needs = "the encoder alone" if task == TOKEN else "the decoder"
            raise UsageError(f"a T5 model for {task} has {needs}, this one is {spec.kind!r}")
        return super().class_of(spec, task, extras)


def _attention(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    queries, names, values = (f"{key}.{name}" for name in "qkv")
    yield from heads(f"{path}/qkv", (queries, names, values), config.num_heads, bias=False)
    yield from joined_heads(f"{path}/w_O", f"{key}.o", config.num_heads, bias=False)


def _feed_forward(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    if config.activation == "relu":
        yield from linear(f"{path}/expansion", f"{key}.wi", bias=False)
    else:
        yield from linear(f"{path}/gate", f"{key}.wi_0", bias=False)
        yield from linear(f"{path}/expansion", f"{key}.wi_1", bias=False)
    yield from linear(f"{path}/squeeze", f"{key}.wo", bias=False)


def shared_positions(path: str, key: str) -> Pair:
    """The table `[buckets, h]` of the first layer, which all layers use."""
    return transposed(f"{path}/rel_embedding", key)


def with_one_table(
    spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
) -> tuple[ModelSpec, Arrays]:
    """The same model with one table of relative positions for all layers of a stack.

    Raises `UsageError` where the layers have different ones.
    """
    if spec.config.share_positions or "t5" not in spec.config.position_encoding:
        return spec, dict(values)
    left = dict(values)
    for path in list(left):
        stack, _, rest = path.partition("/")
        layer, _, name = rest.partition("/")
        if name.endswith("rel_embedding") and layer != "0":
            if not np.array_equal(left.pop(path), values[f"{stack}/0/{name}"]):
                raise UsageError(
                    f"{where}: its layers have different relative positions, a HuggingFace model "
                    "has one table for all; train with --share_positions true"
                )
    return replace(spec, config=replace(spec.config, share_positions=True)), left


def with_own_tables(values: Mapping[str, np.ndarray], spec: ModelSpec) -> Arrays:
    """The inverse: every layer with a copy of its own."""
    grown = dict(values)
    counts = {
        "encoder": spec.config.num_layers,
        "decoder": spec.config.num_decoder_layers or spec.config.num_layers,
    }
    for path, value in values.items():
        stack, _, rest = path.partition("/0/")
        if rest.endswith("rel_embedding"):
            grown |= {f"{stack}/{layer}/{rest}": value for layer in range(1, counts[stack])}
    return grown
