"""The same model and update in plain JAX, as one writes it by hand for BERT alone.

Parameters in float32, products in the compute dtype, norms, softmax and loss in float32; XLA's own
generator for dropout; the masked positions come ready, where the package's step makes them on the
device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu.exported import Exported
from benchmarks.gpu.lowered import JaxProgram
from benchmarks.gpu.program import plain_only, serve

BIG = -1e9


def layer_norm(x: Any, scale: Any, shift: Any, epsilon: float) -> Any:
    """Over the last axis, in float32; back in the dtype of x."""
    y = x.astype(jnp.float32)
    y = (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + epsilon)
    return (y * scale + shift).astype(x.dtype)


def dense(x: Any, kernel: Any, bias: Any) -> Any:
    """x @ kernel + bias in the dtype of x."""
    return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)


def dropped(x: Any, rate: float, key: Any) -> Any:
    """Inverted dropout."""
    if rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0).astype(
        x.dtype
    )


class PlainJax(JaxProgram):
    """Forward, backward, clipping and AdamW in one jitted function with donated state."""

    def __init__(self, exported: Exported) -> None:
        plain_only(exported)
        m = exported.manifest
        self.config, self.optimizer, self.vocab = m.config, m.optimizer, m.vocab_size
        self.dtype = jnp.dtype(m.precision)
        values = exported.values()
        values["head/bias"][m.vocab_size :] = (
            BIG  # rows that fill up the vocabulary are never predicted
        )
        self.state = {
            path: tuple(jnp.asarray(a) for a in (v, 0 * v, 0 * v)) for path, v in values.items()
        }
        self.count = jnp.zeros((), jnp.int32)
        names = ("x", "places", "labels", "weights")
        self.batches = [
            tuple(jnp.asarray(b[f"masked/{name}"]) for name in names) for b in exported.batches()
        ]
        self.taken = 0
        self._update = jax.jit(
            partial(self._updated, jax.random.key(m.seed, impl="rbg")), donate_argnums=(0, 1)
        )

    def _attention(self, x: Any, p: Any, key: Any) -> Any:
        rows, length, width = x.shape
        heads = self.config.num_heads
        kernel, bias = p("attn/qkv/kernel").reshape(width, -1), p("attn/qkv/bias").reshape(-1)
        q, k, v = jnp.moveaxis(dense(x, kernel, bias).reshape(rows, length, 3, heads, -1), 2, 0)
        scores = jnp.einsum("bthk,bshk->bhts", q * q.shape[-1] ** -0.5, k).astype(jnp.float32)
        weights = dropped(jax.nn.softmax(scores).astype(x.dtype), self.config.dropout, key)
        mixed = jnp.einsum("bhts,bshk->bthk", weights, v).reshape(rows, length, -1)
        return dense(mixed, p("attn/w_O/kernel").reshape(-1, width), p("attn/w_O/bias"))

    def loss_of(self, values: dict[str, Any], batch: tuple[Any, ...], key: Any) -> Any:
        """Mean cross entropy at the masked places: x int32 [rows, tokens], places, labels int32
        and weights float32 [rows, N].
        """
        x, places, labels, weights = batch
        rate, epsilon = self.config.dropout, self.config.layer_norm_eps

        def norm(y: Any, name: str) -> Any:
            return layer_norm(y, values[f"{name}/gamma"], values[f"{name}/beta"], epsilon)

        table = values["embeddings/x/table"]
        h = norm(
            table[x] + values["embeddings/x/positions"][: x.shape[1]], "embeddings/reduction"
        ).astype(self.dtype)
        for i in range(self.config.num_layers):
            here = f"encoder/{i}"
            keys = jax.random.split(jax.random.fold_in(key, i), 3)
            p = partial(lambda at, name: values[f"{at}/{name}"], here)
            h = norm(h + dropped(self._attention(h, p, keys[0]), rate, keys[1]), f"{here}/ln2")
            inner = jax.nn.gelu(
                dense(h, p("ffn/expansion/kernel"), p("ffn/expansion/bias")), approximate=True
            )
            h = norm(
                h
                + dropped(
                    dense(inner, p("ffn/squeeze/kernel"), p("ffn/squeeze/bias")), rate, keys[2]
                ),
                f"{here}/ln1",
            )
        h = jnp.take_along_axis(h, places[:, :, None], axis=1)
        h = norm(
            jax.nn.gelu(
                dense(h, values["head/dense/kernel"], values["head/dense/bias"]), approximate=True
            ),
            "head/ln",
        )
        logits = (h @ table.astype(h.dtype).T).astype(jnp.float32) + values["head/bias"]
        losses = (
            jax.nn.logsumexp(logits, axis=-1)
            - jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        )
        return (losses * weights).sum() / weights.sum()

    def _updated(
        self, key: Any, state: dict[str, Any], count: Any, batch: tuple[Any, ...]
    ) -> tuple[dict[str, Any], Any, Any]:
        o = self.optimizer
        values = {path: parts[0] for path, parts in state.items()}
        loss, grads = jax.value_and_grad(self.loss_of)(
            values, batch, jax.random.fold_in(key, count)
        )
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in grads.values()))
        scale = jnp.minimum(1.0, o["clip"] / norm) if o["clip"] else 1.0
        t = (count + 1).astype(jnp.float32)
        rate = o["lr"] * jnp.sqrt(1.0 - o["beta2"] ** t) / (1.0 - o["beta1"] ** t)
        new = {}
        for path, (value, first, second) in state.items():
            g = grads[path] * scale
            first = o["beta1"] * first + (1.0 - o["beta1"]) * g
            second = o["beta2"] * second + (1.0 - o["beta2"]) * g * g
            decay = (
                o["lr"] * o["weight_decay"]
                if path.endswith(("kernel", "table", "positions"))
                else 0.0
            )
            new[path] = (
                value * (1.0 - decay) - rate * first / (jnp.sqrt(second) + o["eps"]),
                first,
                second,
            )
        return new, count + 1, loss

    def step(self) -> Any:
        self.state, self.count, self.loss = self._update(
            self.state, self.count, self.batches[self.taken % len(self.batches)]
        )
        self.taken += 1
        return self.loss


def build(directory: str, report: str, first: int) -> Callable[[int], float]:
    """For the harness."""
    return serve(PlainJax, directory, report, first)
