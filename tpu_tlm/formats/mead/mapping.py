"""MEAD's NPZ layout: the keys of every variable, by kind of model.

What MEAD has no key for has a key of ours, `tpu_tlm/...`, which its readers ignore.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import TlmError
from tpu_tlm.formats.mapping import Pair, pair, rows, same, transposed
from tpu_tlm.models.layers.core import GATED
from tpu_tlm.models.positions.base import Table
from tpu_tlm.models.positions.registry import absolute_encoding, relative_encoding
from tpu_tlm.models.spec import ModelSpec

OWN = "tpu_tlm/"
TEMPERATURE = f"{OWN}temperature"


def _dense(path: str, key: str, *, bias: bool = True) -> Iterator[Pair]:
    yield transposed(f"{path}/kernel", f"{key}/weights")
    if bias:
        yield same(f"{path}/bias", f"{key}/bias")


def _norm(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    yield same(f"{path}/gamma", f"{key}/weights")
    if config.norm_type == "layer-norm" and config.norm_bias:
        yield same(f"{path}/beta", f"{key}/bias")


def _heads(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    """Projections of an attention layer.

    MEAD has three matrices where ours are fused, and no w_O in a single head.
    """
    names = ("w_Q", "w_K", "w_V")
    if config.single_head:
        for part, name in zip("qkv", names, strict=True):
            yield from _dense(f"{path}/qkv/{part}", f"{key}/{name}")
        return
    heads = config.num_heads
    yield pair(
        f"{path}/qkv/kernel",
        tuple(f"{key}/{n}/weights" for n in names),
        lambda a: [a[:, i].reshape(a.shape[0], -1).T for i in range(3)],
        lambda parts: np.stack([p.T.reshape(p.shape[1], heads, -1) for p in parts], axis=1),
    )
    if config.use_bias:
        yield pair(
            f"{path}/qkv/bias",
            tuple(f"{key}/{n}/bias" for n in names),
            lambda a: [a[i].reshape(-1) for i in range(3)],
            lambda parts: np.stack([p.reshape(heads, -1) for p in parts]),
        )
    yield pair(
        f"{path}/w_O/kernel",
        (f"{key}/w_O/weights",),
        lambda a: [a.reshape(-1, a.shape[-1]).T],
        lambda parts: parts[0].T.reshape(heads, -1, parts[0].shape[0]),
    )
    if config.use_bias:
        yield same(f"{path}/w_O/bias", f"{key}/w_O/bias")


def _position_tables(tables: Iterable[Table], path: str, key: str) -> Iterator[Pair]:
    """The tables of a position encoding, under keys of our own where MEAD has none."""
    for table in tables:
        ours = f"{path}/{table.name}"
        yield same(ours, f"{key}/{table.mead_key}" if table.mead_key else f"{OWN}{ours}")


def _attention(
    path: str, key: str, config: ModelConfig, layer: int, *, cross: bool = False
) -> Iterator[Pair]:
    yield from _heads(path, key, config)
    encoding = relative_encoding(config)
    if encoding is not None and (encoding.in_cross_attention or not cross):
        yield from _position_tables(encoding.tables(config, layer, cross=cross), path, key)


def _ffn(path: str, key: str, config: ModelConfig) -> Iterator[Pair]:
    bias = config.use_bias
    yield from _dense(f"{path}/expansion", f"{key}/expansion", bias=bias)
    if config.activation in GATED:
        yield from _dense(f"{path}/gate", f"{OWN}{path}/gate", bias=bias)
    yield from _dense(f"{path}/squeeze", f"{key}/squeeze", bias=bias)


def _encoder(root: str, config: ModelConfig) -> Iterator[Pair]:
    stack = f"{root}/GatedMLPEncoderStack" if config.mlp else f"{root}/TransformerEncoderStack"
    for layer in range(1 if config.shared_layers else config.num_layers):
        path, key = f"encoder/{layer}", f"{stack}/{layer}"
        if config.mlp:
            yield from _norm(f"{path}/norm", f"{key}/norm", config)
            yield from _dense(f"{path}/to_ffn", f"{key}/to_ffn")
            yield from _norm(f"{path}/sgu/norm", f"{key}/spatial_gating_unit/norm", config)
            # A convolution of width 1 over positions, as PyTorch has it.
            proj = f"{key}/spatial_gating_unit/proj"
            yield pair(
                f"{path}/sgu/proj/kernel",
                (f"{proj}/weights",),
                lambda a: [a[:, :, None]],
                lambda parts: parts[0].squeeze(-1),
            )
            yield same(f"{path}/sgu/proj/bias", f"{proj}/bias")
            yield from _dense(f"{path}/from_sgu", f"{key}/from_sgu")
            continue
        if layer or not config.skip_first_norm:
            yield from _norm(f"{path}/ln1", f"{key}/ln1", config)
        yield from _norm(f"{path}/ln2", f"{key}/ln2", config)
        yield from _attention(f"{path}/attn", f"{key}/attn", config, layer)
        yield from _ffn(f"{path}/ffn", f"{key}/ffn", config)
    if config.transformer_type != "post-layer-norm" or config.mlp:
        yield from _norm("encoder/ln", f"{stack}/ln", config)


def _decoder(root: str, config: ModelConfig) -> Iterator[Pair]:
    stack = f"{root}/TransformerDecoderStack"
    for layer in range(config.num_decoder_layers or config.num_layers):
        path, key = f"decoder/{layer}", f"{stack}/{layer}"
        for name in ("ln1", "ln2", "ln3"):
            yield from _norm(f"{path}/{name}", f"{key}/{name}", config)
        yield from _attention(f"{path}/self_attn", f"{key}/self_attn", config, layer)
        yield from _attention(f"{path}/src_attn", f"{key}/src_attn", config, layer, cross=True)
        yield from _ffn(f"{path}/ffn", f"{key}/ffn", config)
    if config.transformer_type != "post-layer-norm":
        yield from _norm("decoder/ln", f"{stack}/ln", config)


def _twice(one: Pair, key: str) -> Pair:
    """A variable that the file holds under a second key too.

    Reading raises `TlmError` when the two arrays differ.
    """

    def to_model(parts: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        if not np.array_equal(parts[0], parts[1]):
            raise TlmError(
                f"{one.keys[0]!r} and {key!r} differ, but this model has one table for both"
            )
        return one.to_model(parts[:1])

    return Pair(one.paths, (*one.keys, key), lambda a: [*one.to_file(a)] * 2, to_model)


def _embeddings(root: str, spec: ModelSpec) -> Iterator[Pair]:
    config, seq2seq = spec.config, spec.kind == "seq2seq"
    key = f"{root}/SrcEmbeddings" if seq2seq else f"{root}/Embeddings"
    table = rows("embeddings/x/table", f"{key}/x/weights", spec.vocab_size)
    yield _twice(table, f"{root}/TgtEmbedding/y/weights") if seq2seq else table
    absolute = absolute_encoding(config)
    if absolute is not None:
        yield from _position_tables(absolute.tables(config), "embeddings/x", f"{key}/x")
    if "learned-with-bias" in config.position_encoding:
        # As MEAD's TensorFlow side writes it; `arrays` converts the form of its PyTorch side.
        yield same("embeddings/x/bias", f"{key}/x/bias")
    if config.type_vocab_size:
        yield same("embeddings/tt/table", f"{key}/tt/weights")
    if config.embeddings_reduction == "sum-layer-norm":
        yield from _norm("embeddings/reduction", f"{key}/reduction/ln", config)
    if _joined(config) != config.d_model:
        yield from _dense("embeddings/projection", f"{OWN}embeddings/projection")
    if seq2seq and config.target_embeddings:
        yield same("target/positions", f"{OWN}target/positions")
        if config.embeddings_reduction == "sum-layer-norm":
            yield from _norm("target/reduction", f"{OWN}target/reduction", config)


def _joined(config: ModelConfig) -> int:
    """Columns of the embeddings before a projection."""
    width = config.embedding_size or config.d_model
    return (
        width * 2 if config.embeddings_reduction == "concat" and config.type_vocab_size else width
    )


def _generator(spec: ModelSpec, config: ModelConfig) -> Iterator[Pair]:
    """ELECTRA's generator under keys of ours, named as a masked language model of MEAD's.

    Its embeddings are shared with the discriminator and are not repeated.
    """
    own = replace(spec, kind="mlm", config=config, generator=None)
    pairs = [*_encoder("TLM", config), *_head(own)]
    if _joined(config) != config.d_model:
        pairs += _dense("projection", "embeddings/projection")
    for one in pairs:
        yield one._replace(
            paths=tuple(f"generator/{path}" for path in one.paths),
            keys=tuple(f"{OWN}generator/{key.removeprefix(OWN)}" for key in one.keys),
        )


def _head(spec: ModelSpec) -> Iterator[Pair]:
    config = spec.config
    key = f"{OWN}head"
    if spec.kind in ("discriminator", "electra"):
        if config.mlm_head == "bert":
            yield from _dense("head/dense", f"{key}/dense")
        yield from _dense("head/unit", f"{key}/unit")
        return
    if config.mlm_head == "bert":
        yield from _dense("head/dense", f"{key}/dense", bias=config.use_bias)
        yield from _norm("head/ln", f"{key}/ln", config)
    elif config.tie_weights and config.embedding_size not in (None, config.d_model):
        yield from _dense("head/to_dsz", f"{key}/to_dsz")
    if not config.tie_weights:
        yield rows("head/kernel", f"{key}/weights", spec.vocab_size, transpose=True)
    if config.output_bias:
        yield rows("head/bias", f"{key}/bias", spec.vocab_size)


def _dual(config: ModelConfig) -> Iterator[Pair]:
    yield same("temperature", TEMPERATURE)
    kind = config.reduction_type.partition("_")[0]
    count = {"sha": 1, "2ha": 2}.get(kind, 0)
    for i in range(1, count + 1):
        key = f"TLM/ReductionLayer/reduction{i}" if count == 2 else "TLM/ReductionLayer"
        yield from _dense(f"reduction/head{i}/q", f"{key}/w_Q")
        yield from _dense(f"reduction/head{i}/k", f"{key}/w_K")
    width = config.d_model * max(1, count)
    for name in ("ff1", "ff2"):
        if config.stacking_layers:
            # MEAD cannot write these: they have keys of ours.
            yield from _norm(f"{name}/ln_in", f"{OWN}{name}/ln_in", config)
            for i in range(len(config.stacking_layers)):
                yield from _dense(f"{name}/dense{i}", f"{OWN}{name}/dense{i}")
                yield from _norm(f"{name}/ln{i}", f"{OWN}{name}/ln{i}", config)
            yield from _dense(f"{name}/out", f"{OWN}{name}/out")
            if width != config.d_out:
                yield from _dense(f"{name}/skip", f"{OWN}{name}/skip")
            yield from _norm(f"{name}/ln", f"{OWN}{name}/ln", config)
        elif width != config.d_out:
            yield from _dense(name, f"TLM/{name}")


def pairs_of(spec: ModelSpec) -> Iterator[Pair]:
    """Every variable of a model with its keys in the file."""
    root = "Seq2Seq" if spec.kind == "seq2seq" else "TLM"
    yield from _encoder(root, spec.config)
    yield from _embeddings(root, spec)
    if spec.kind == "seq2seq":
        yield from _decoder(root, spec.config)
    if spec.kind == "dual":
        yield from _dual(spec.config)
    elif spec.kind != "embed":
        yield from _head(spec)
    if spec.generator is not None:
        yield from _generator(spec, spec.generator)
