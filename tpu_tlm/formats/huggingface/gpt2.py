"""Where the variables of a causal model stand in GPT-2's HuggingFace files; its `Conv1D` kernels are `[in, out]`, as ours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tpu_tlm.formats.mapping import Pair, norm, rows, same
from tpu_tlm.models.spec import ModelSpec


def pairs(spec: ModelSpec) -> Iterator[Pair]:
    """Every variable, named without the prefix `transformer.`."""
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


def _queries(path: str, key: str, count: int) -> Iterator[Pair]:
    """Queries, keys and values side by side in one kernel `[d, 3 d]`."""

    def join(parts: list[np.ndarray]) -> np.ndarray:
        return parts[0].reshape(*parts[0].shape[:-1], 3, count, -1)

    yield Pair(f"{path}/kernel", (f"{key}.weight",), lambda a: [a.reshape(a.shape[0], -1)], join)
    yield Pair(f"{path}/bias", (f"{key}.bias",), lambda a: [a.reshape(-1)], join)


def _joined(path: str, key: str, count: int) -> Iterator[Pair]:
    yield Pair(
        f"{path}/kernel",
        (f"{key}.weight",),
        lambda a: [a.reshape(-1, a.shape[-1])],
        lambda parts: parts[0].reshape(count, -1, parts[0].shape[-1]),
    )
    yield same(f"{path}/bias", f"{key}.bias")
