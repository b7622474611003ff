"""ModernBERT: rotary positions, local and global layers, gated feed-forward, no biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import DENSE, NORM, OUT, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.family import (
    MAX_FFN,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    Family,
    divided,
    named_head,
)
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair, joined_heads, linear, norm, pair, rows
from tpu_tlm.models.spec import ModelSpec

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_ACTIVATIONS: dict[str, Any] = {
    "gelu": "geglu-exact",
    "gelu_new": "geglu",
    "gelu_pytorch_tanh": "geglu",
}
_THEIRS = {"geglu-exact": "gelu", "geglu": "gelu_new", "swiglu": "silu"}
# Of the dense layer before a head.
_OF_HEAD = {"gelu-exact": "gelu", "gelu": "gelu_new"}
_LARGEST_BASE = 1e12
# Of the published models' vocabulary, where a config.json names none.
_PAD = 50_283


class ModernBert(Family):
    """ModernBERT (arXiv 2412.13663)."""

    name, class_name, prefix = "modernbert", "ModernBert", "model."
    body = ("embeddings.", "layers.", "final_norm.")
    suffixes = {"mlm": "ForMaskedLM", "embed": "Model"}
    bos_is_prefix = True

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        d_model = config.size("hidden_size", high=MAX_WIDTH)
        num_heads = config.size("num_attention_heads", high=MAX_WIDTH)
        num_layers = config.size("num_hidden_layers", high=MAX_LAYERS)
        divided(config, d_model, num_heads)
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        positions = config.size("max_position_embeddings", high=MAX_POSITIONS, default=8192)
        use_bias = config.flag("attention_bias", False)
        config.only("mlp_bias", use_bias)
        activation = config.choice("hidden_activation", "gelu", _ACTIVATIONS)
        head = kind == "mlm"
        if head:  # a token head is one with the encoder; a classifier has a form of its own
            config.only("classifier_bias", use_bias)
            if config.choice("classifier_activation", "gelu", _ACTIVATIONS) != activation:
                config.fail("classifier_activation", "only that of hidden_activation is supported")
        every = _global_every(config, num_layers)
        reach = config.size("local_attention", high=MAX_POSITIONS, default=128) // 2
        return ModelSpec(
            ModelConfig(
                d_model=d_model,
                d_ff=config.size("intermediate_size", high=MAX_FFN),
                num_heads=num_heads,
                num_layers=num_layers,
                position_encoding=["rotary"],
                rotary_base=_base(config, _GLOBAL, "global_rope_theta", 160_000.0),
                rotary_base_local=_base(config, _LOCAL, "local_rope_theta", 10_000.0),
                local_window=reach if every > 1 else 0,
                global_every=every,
                embeddings_reduction="sum-layer-norm",
                transformer_type="pre-layer-norm",
                skip_first_norm=True,
                layer_norm_eps=config.number("norm_eps", 1e-5),
                norm_bias=config.flag("norm_bias", False),
                use_bias=use_bias,
                activation=activation,
                tie_weights=config.flag("tie_word_embeddings", True) or not head,
                output_bias=head and config.flag("decoder_bias", True),
                mlm_head="bert" if head else "none",
                mask_pad=True,
                dropout=config.number("attention_dropout", 0.0),
                ffn_pdrop=config.number("mlp_dropout", 0.0),
                embeddings_dropout=config.number("embedding_dropout", 0.0),
                weight_std=config.number("initializer_range", 0.02, high=100.0),
            ),
            vocab_size=vocab,
            seq_length=positions,
            pad_id=config.token("pad_token_id", vocab, _PAD if vocab > _PAD else None) or 0,
            kind=kind,
        )

    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        ours = spec.config
        if ours.activation not in _THEIRS:
            raise UsageError(f"--activation {ours.activation} has no place in a modernbert model")
        every = ours.global_every if ours.local_window else 1
        local = ours.rotary_base_local or ours.rotary_base
        return {
            "vocab_size": spec.vocab_size,
            "hidden_size": ours.d_model,
            "intermediate_size": ours.d_ff,
            "num_hidden_layers": ours.num_layers,
            "num_attention_heads": ours.num_heads,
            "hidden_activation": _THEIRS[ours.activation],
            "classifier_activation": _THEIRS[ours.activation],
            "max_position_embeddings": spec.seq_length,
            "norm_eps": ours.layer_norm_eps,
            "norm_bias": ours.norm_bias,
            "attention_bias": ours.use_bias,
            "mlp_bias": ours.use_bias,
            "classifier_bias": ours.use_bias,
            "decoder_bias": ours.output_bias or spec.kind != "mlm",
            "local_attention": 2 * ours.local_window or 128,
            "global_attn_every_n_layers": every,
            "layer_types": [_LOCAL if i % every else _GLOBAL for i in range(ours.num_layers)],
            "global_rope_theta": ours.rotary_base,
            "local_rope_theta": local,
            "rope_parameters": {
                _GLOBAL: {"rope_type": "default", "rope_theta": ours.rotary_base},
                _LOCAL: {"rope_type": "default", "rope_theta": local},
            },
            "attention_dropout": ours.dropout,
            "mlp_dropout": ours.ffn_pdrop,
            "embedding_dropout": ours.embeddings_dropout,
            "initializer_range": ours.weight_std,
            "tie_word_embeddings": ours.tie_weights,
            "pad_token_id": spec.pad_id,
            "cls_token_id": spec.prefix_id,
            "sep_token_id": spec.suffix_id,
            # The defaults are ids of the published models' vocabulary.
            "bos_token_id": spec.prefix_id,
            "eos_token_id": spec.suffix_id,
        }

    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        config, bias = spec.config, spec.config.norm_bias
        yield rows("embeddings/x/table", "embeddings.tok_embeddings.weight", spec.vocab_size)
        yield from norm("embeddings/reduction", "embeddings.norm", bias=bias)
        for layer in range(config.num_layers):
            path, key = f"encoder/{layer}", f"layers.{layer}"
            if layer:
                yield from norm(f"{path}/ln1", f"{key}.attn_norm", bias=bias)
            yield from _queries(f"{path}/attn/qkv", f"{key}.attn.Wqkv", config)
            yield from joined_heads(
                f"{path}/attn/w_O", f"{key}.attn.Wo", config.num_heads, bias=config.use_bias
            )
            yield from norm(f"{path}/ln2", f"{key}.mlp_norm", bias=bias)
            yield from _gated(f"{path}/ffn", f"{key}.mlp.Wi", bias=config.use_bias)
            yield from linear(f"{path}/ffn/squeeze", f"{key}.mlp.Wo", bias=config.use_bias)
        yield from norm("encoder/ln", "final_norm", bias=bias)
        if spec.kind == "mlm" and config.mlm_head == "bert":
            yield from linear("head/dense", "head.dense", bias=config.use_bias)
            yield from norm("head/ln", "head.norm", bias=bias)
            if config.output_bias:
                yield rows("head/bias", "decoder.bias", spec.vocab_size)
            if not config.tie_weights:
                yield rows("head/kernel", "decoder.weight", spec.vocab_size, transpose=True)

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        # A classifier has a `head` too, but no decoder.
        if "head.dense.weight" in arrays and "classifier.weight" not in arrays:
            return "mlm"
        named_head(config, ("ForMaskedLM",), "head.dense.weight")
        return "embed"

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        tied = spec.kind == "mlm" and spec.config.tie_weights
        return {"decoder.weight": "embeddings.tok_embeddings.weight"} if tied else {}

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        choices = {"cls": "cls", "mean": "mean"}
        pooling = config.choice("classifier_pooling", "cls", choices) if task == SEQUENCE else "cls"
        activation = config.choice("classifier_activation", "gelu", _ACTIVATIONS)
        return Classifier(
            task,
            (),
            pooling=pooling,
            dense=DENSE,
            activation={"geglu-exact": "gelu-exact", "geglu": "gelu"}[activation],
            norm=NORM,
            norm_eps=config.number("norm_eps", 1e-5),
        )

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        yield from linear(DENSE, "head.dense", bias=config.flag("classifier_bias", False))
        yield from norm(NORM, "head.norm", bias=config.flag("norm_bias", False))
        yield from linear(OUT, "classifier")

    def classifier_config(
        self, classifier: Classifier, extras: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        activation = _OF_HEAD.get(classifier.activation or "")
        return {
            "classifier_pooling": classifier.pooling,
            "classifier_bias": f"{DENSE}/bias" in extras,
            **({} if activation is None else {"classifier_activation": activation}),
        }


def _global_every(config: ConfigReader, num_layers: int) -> int:
    """n where layers 0, n, 2n, ... are global; 1: all are."""
    types = config.values.get("layer_types")
    if types is None:
        return config.size("global_attn_every_n_layers", high=MAX_LAYERS, default=3)
    if not isinstance(types, list) or len(types) != num_layers:
        config.fail("layer_types", f"one name for each of {num_layers} layers is needed")
    for every in (3, *range(1, num_layers + 1)):
        if types == [_LOCAL if i % every else _GLOBAL for i in range(num_layers)]:
            return every
    config.fail("layer_types", "global layers must be every n-th, from the first")


def _base(config: ConfigReader, kind: str, older: str, default: float) -> float:
    """The base of the rotary positions in one kind of layers."""
    rope = config.values.get("rope_parameters")
    if rope is None:
        return config.number(older, default, low=1.0, high=_LARGEST_BASE)
    inner = rope.get(kind) if isinstance(rope, dict) else None
    if not isinstance(inner, dict):
        config.fail("rope_parameters", f"an object with {_GLOBAL} and {_LOCAL} is needed")
    reader = ConfigReader(inner, f"{config.where}: rope_parameters: {kind}")
    reader.only("rope_type", "default")
    return reader.number("rope_theta", default, low=1.0, high=_LARGEST_BASE)


def _queries(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    """Queries, keys and values below one another in one matrix `[3 d, d]`."""
    heads = config.num_heads
    yield pair(
        f"{path}/kernel",
        (f"{key}.weight",),
        lambda a: [a.reshape(len(a), -1).T],
        lambda parts: parts[0].T.reshape(parts[0].shape[1], 3, heads, -1),
    )
    if config.use_bias:
        yield pair(
            f"{path}/bias",
            (f"{key}.bias",),
            lambda a: [a.reshape(-1)],
            lambda parts: parts[0].reshape(3, heads, -1),
        )


def _gated(path: str, key: str, *, bias: bool) -> Iterator[Pair]:
    """Gate and expansion below one another in one matrix `[2 f, d]`; the gate comes first."""

    def to_file(values: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return [np.concatenate([value.T for value in values])]

    def to_model(parts: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return [half.T for half in np.split(parts[0], 2)]

    paths = (f"{path}/gate", f"{path}/expansion")
    yield Pair(tuple(f"{p}/kernel" for p in paths), (f"{key}.weight",), to_file, to_model)
    if bias:
        yield Pair(tuple(f"{p}/bias" for p in paths), (f"{key}.bias",), to_file, to_model)
