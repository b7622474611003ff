"""Where the variables of BERT-like models stand in HuggingFace's files, named without the family's prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tpu_tlm.errors import UsageError
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

# Path of the rows of RoBERTa's position table that no text reaches.
FIRST_POSITIONS = "positions/first"
POSITIONS = "embeddings.position_embeddings.weight"
DISCRIMINATOR = "discriminator_predictions"

# Dense, layer norm, bias and untied table of the head that predicts tokens.
_HEADS = {
    "bert": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
    ),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight"),
    "electra": (
        "generator_predictions.dense",
        "generator_predictions.LayerNorm",
        "generator_lm_head.bias",
        "generator_lm_head.weight",
    ),
}


def head_keys(family: str) -> tuple[str, str]:
    """The array by which one knows that a file has the token head, and the one that a tied head repeats."""
    dense, _, _, table = _HEADS[family]
    return f"{dense}.weight", table


def pairs(spec: ModelSpec, family: str) -> Iterator[Pair]:
    """Every variable of the model: that predicts tokens, that tells replaced tokens, or of the encoder alone."""
    config = spec.config
    yield rows("embeddings/x/table", "embeddings.word_embeddings.weight", spec.vocab_size)
    yield same("embeddings/x/positions", POSITIONS)
    yield same("embeddings/tt/table", "embeddings.token_type_embeddings.weight")
    yield from norm("embeddings/reduction", "embeddings.LayerNorm")
    if config.embedding_size not in (None, config.d_model):
        yield from linear("embeddings/projection", "embeddings_project")
    for layer in range(config.num_layers):
        path, key = f"encoder/{layer}", f"encoder.layer.{layer}"
        queries, names, values = (
            f"{key}.attention.self.{name}" for name in ("query", "key", "value")
        )
        yield from heads(f"{path}/attn/qkv", (queries, names, values), config.num_heads)
        yield from joined_heads(
            f"{path}/attn/w_O", f"{key}.attention.output.dense", config.num_heads
        )
        yield from norm(f"{path}/ln2", f"{key}.attention.output.LayerNorm")
        yield from linear(f"{path}/ffn/expansion", f"{key}.intermediate.dense")
        yield from linear(f"{path}/ffn/squeeze", f"{key}.output.dense")
        yield from norm(f"{path}/ln1", f"{key}.output.LayerNorm")
    dense, layer_norm, bias, table = _HEADS[family]
    if spec.kind == "discriminator":
        yield from linear("head/dense", f"{DISCRIMINATOR}.dense")
        yield from linear("head/unit", f"{DISCRIMINATOR}.dense_prediction")
    elif spec.kind == "mlm" and config.mlm_head == "bert":
        yield from linear("head/dense", dense)
        yield from norm("head/ln", layer_norm)
        yield rows("head/bias", bias, spec.vocab_size)
        if not config.tie_weights:
            yield rows("head/kernel", table, spec.vocab_size, transpose=True)


def pooler_pairs() -> Iterator[Pair]:
    """BERT's pooler."""
    yield from linear("pooler", "pooler.dense")


def next_sentence_pairs() -> Iterator[Pair]:
    """BERT's next-sentence head, on the pooler."""
    yield transposed("next_sentence/kernel", "cls.seq_relationship.weight")
    yield same("next_sentence/bias", "cls.seq_relationship.bias")


def completed(
    spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
) -> tuple[ModelSpec, Arrays, list[str]]:
    """The same model with the parts that BERT always has: zeros where ours has none; and what was added, in words.

    A model that predicts with the token table alone becomes an encoder. Raises `UsageError` for a bias on the logits, or a projection of
    its own, without BERT's head.
    """
    config, grown, added = spec.config, dict(values), []
    width = config.embedding_size or config.d_model
    if not config.type_vocab_size:
        grown["embeddings/tt/table"] = np.zeros((2, width), np.float32)
        config = replace(config, type_vocab_size=2)
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
                f"{where}: BERT has no token head but its own; such a model must be trained with --mlm_head bert"
            )
        # The head is the token table itself: nothing of the model is lost, but the other program does not predict with it.
        kind = "embed"
    return ModelSpec(**{**vars(spec), "config": config, "kind": kind}), grown, added


def reduced(spec: ModelSpec, values: Arrays, wanted: ModelSpec) -> tuple[ModelSpec, Arrays] | None:
    """What `completed` made, taken back to the spec it was made from; None when it is not that model any more."""
    from tpu_tlm.formats.compatibility import differences

    left = dict(values)
    config = spec.config
    if (
        not wanted.config.type_vocab_size
        and config.type_vocab_size
        and not left.pop("embeddings/tt/table").any()
    ):
        config = replace(config, type_vocab_size=0)
    if not wanted.config.output_bias and config.output_bias and not left.pop("head/bias").any():
        config = replace(config, output_bias=False)
    found = ModelSpec(**{**vars(spec), "config": config})
    same_sizes = (
        found.vocab_size == wanted.vocab_size
        and found.pad_id == wanted.pad_id
        and found.seq_length >= wanted.seq_length
    )
    if not same_sizes or [d for d in differences(found, wanted) if d.name != "mask_pad"]:
        return None
    return wanted, left
