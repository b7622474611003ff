"""GPT-2; its `Conv1D` kernels are `[in, out]`, as ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import OUT, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.family import (
    ACTIVATIONS,
    MAX_FFN,
    MAX_LAYERS,
    MAX_POSITIONS,
    MAX_VOCAB,
    MAX_WIDTH,
    THEIR_ACTIVATION,
    Family,
    divided,
)
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Pair, linear, norm, pair, rows, same
from tpu_tlm.models.spec import ModelSpec


class Gpt2(Family):
    """GPT-2: causal, learned positions, norms before the sub-layers, gelu in the tanh form."""

    name, class_name, prefix = "gpt2", "GPT2", "transformer."
    body = ("wte.", "wpe.", "h.", "ln_f.")
    suffixes = {"clm": "LMHeadModel"}

    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        config.only("scale_attn_weights", True)
        config.only("scale_attn_by_inverse_layer_idx", False)
        config.only("reorder_and_upcast_attn", False)
        config.only("add_cross_attention", False)
        d_model = config.size("n_embd", "hidden_size", high=MAX_WIDTH)
        num_heads = config.size("n_head", "num_attention_heads", high=MAX_WIDTH)
        divided(config, d_model, num_heads)
        vocab = config.size("vocab_size", high=MAX_VOCAB)
        positions = config.size(
            "n_positions", "max_position_embeddings", "n_ctx", high=MAX_POSITIONS
        )
        return ModelSpec(
            ModelConfig(
                d_model=d_model,
                d_ff=config.size("n_inner", high=MAX_FFN, default=4 * d_model, null=True),
                num_heads=num_heads,
                num_layers=config.size("n_layer", "num_hidden_layers", high=MAX_LAYERS),
                position_encoding=["learned"],
                max_positions=positions,
                embeddings_reduction="sum",
                type_vocab_size=0,
                transformer_type="pre-layer-norm",
                layer_norm_eps=config.number("layer_norm_epsilon", 1e-5),
                activation=config.choice("activation_function", "gelu_new", ACTIVATIONS),
                tie_weights=config.flag("tie_word_embeddings", True),
                output_bias=False,
                mlm_head="none",
                mask_pad=False,
                dropout=config.number("resid_pdrop", 0.1),
                embeddings_dropout=config.number("embd_pdrop", 0.1),
                weight_std=config.number("initializer_range", 0.02, high=100.0),
            ),
            vocab_size=vocab,
            seq_length=positions,
            pad_id=config.token("pad_token_id", vocab) or 0,
            kind=kind,
        )

    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        ours = spec.config
        if ours.activation not in THEIR_ACTIVATION:
            raise UsageError(f"--activation {ours.activation} has no place in a gpt2 model")
        return {
            "vocab_size": spec.vocab_size,
            "n_embd": ours.d_model,
            "n_layer": ours.num_layers,
            "n_head": ours.num_heads,
            "n_inner": None if ours.d_ff == 4 * ours.d_model else ours.d_ff,
            "n_positions": ours.max_positions or spec.seq_length,
            "activation_function": THEIR_ACTIVATION[ours.activation],
            "layer_norm_epsilon": ours.layer_norm_eps,
            "initializer_range": ours.weight_std,
            "tie_word_embeddings": ours.tie_weights,
            "resid_pdrop": ours.dropout,
            "attn_pdrop": ours.dropout,
            "embd_pdrop": ours.embeddings_dropout,
            # GPT-2 begins a text with the token that ends one.
            "bos_token_id": spec.eol_id if spec.prefix_id is None else spec.prefix_id,
            "eos_token_id": spec.eol_id,
            **({"pad_token_id": spec.pad_id} if spec.pad_id else {}),
        }

    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        config = spec.config
        count = config.num_heads
        yield rows("embeddings/x/table", "wte.weight", spec.vocab_size)
        yield same("embeddings/x/positions", "wpe.weight")
        for layer in range(config.num_layers):
            path, key = f"encoder/{layer}", f"h.{layer}"
            yield from norm(f"{path}/ln1", f"{key}.ln_1")
            yield from _queries(f"{path}/attn/qkv", f"{key}.attn.c_attn", count)
            yield from _joined(f"{path}/attn/w_O", f"{key}.attn.c_proj", count)
            yield from norm(f"{path}/ln2", f"{key}.ln_2")
            for ours, theirs in (("expansion", "c_fc"), ("squeeze", "c_proj")):
                yield same(f"{path}/ffn/{ours}/kernel", f"{key}.mlp.{theirs}.weight")
                yield same(f"{path}/ffn/{ours}/bias", f"{key}.mlp.{theirs}.bias")
        yield from norm("encoder/ln", "ln_f")
        if not config.tie_weights:
            yield rows("head/kernel", "lm_head.weight", spec.vocab_size, transpose=True)

    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        return "clm"

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        return {"lm_head.weight": "wte.weight"} if spec.config.tie_weights else {}

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        return Classifier(task, (), pooling="last")

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        if task == SEQUENCE:
            yield from linear(OUT, "score", bias=False)
        else:
            yield from linear(OUT, "classifier")


def _queries(path: str, key: str, count: int) -> Iterator[Pair]:
    """Queries, keys and values side by side in one kernel `[d, 3 d]`."""

    def to_model(parts: Sequence[np.ndarray]) -> np.ndarray:
        return parts[0].reshape(*parts[0].shape[:-1], 3, count, -1)

    yield pair(f"{path}/kernel", (f"{key}.weight",), lambda a: [a.reshape(len(a), -1)], to_model)
    yield pair(f"{path}/bias", (f"{key}.bias",), lambda a: [a.reshape(-1)], to_model)


def _joined(path: str, key: str, count: int) -> Iterator[Pair]:
    yield pair(
        f"{path}/kernel",
        (f"{key}.weight",),
        lambda a: [a.reshape(-1, a.shape[-1])],
        lambda parts: parts[0].reshape(count, -1, parts[0].shape[-1]),
    )
    yield same(f"{path}/bias", f"{key}.bias")
