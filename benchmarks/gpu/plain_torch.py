"""The same model and update in plain PyTorch: its fused attention, autocast, its fused AdamW.

The masked positions come ready, where the package's step makes them on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu.exported import Exported, Manifest
from benchmarks.gpu.program import Program, plain_only, serve

BIG, IGNORED = -1e9, -100


class Block(nn.Module):
    """Self attention and feed-forward, norms after."""

    def __init__(self, width: int, inner: int, heads: int, rate: float, epsilon: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, rate
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.drop = nn.Dropout(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.rate if self.training else 0.0
        )
        x = self.norm1(x + self.drop(self.out(mixed.transpose(1, 2).reshape(rows, length, width))))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x), approximate="tanh"))))


class Bert(nn.Module):
    """Masked language model whose forward pass is the mean loss at the masked places."""

    def __init__(self, m: Manifest) -> None:
        super().__init__()
        config, epsilon = m.config, m.config.layer_norm_eps
        rows = {a.name: a.shape[0] for a in m.of("value")}
        self.table = nn.Embedding(rows["embeddings/x/table"], config.d_model)
        self.positions = nn.Embedding(rows["embeddings/x/positions"], config.d_model)
        self.norm = nn.LayerNorm(config.d_model, epsilon)
        sizes = (config.d_model, config.d_ff, config.num_heads, config.dropout, epsilon)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(config.num_layers))
        self.dense, self.head_norm = (
            nn.Linear(config.d_model, config.d_model),
            nn.LayerNorm(config.d_model, epsilon),
        )
        self.bias = nn.Parameter(torch.zeros(rows["embeddings/x/table"]))

    def forward(self, x: torch.Tensor, places: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """x, places int64 [rows, tokens], [rows, N]; labels int64 [rows, N], -100 where there is
        none.
        """
        h = self.norm(self.table(x) + self.positions.weight[: x.shape[1]])
        for block in self.blocks:
            h = block(h)
        h = h.gather(1, places[:, :, None].expand(-1, -1, h.shape[-1]))
        h = self.head_norm(F.gelu(self.dense(h), approximate="tanh"))
        logits = F.linear(h, self.table.weight, self.bias)
        return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def state_of(values: dict[str, np.ndarray], m: Manifest) -> dict[str, torch.Tensor]:
    """The exported values as the module calls and lays them."""
    found: dict[str, np.ndarray] = {}

    def linear(name: str, path: str, width: int) -> None:
        kernel = values[f"{path}/kernel"]
        found[f"{name}.weight"] = kernel.reshape(width, -1).T
        found[f"{name}.bias"] = values[f"{path}/bias"].reshape(-1)

    def norm(name: str, path: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (
            values[f"{path}/gamma"],
            values[f"{path}/beta"],
        )

    config = m.config
    found["table.weight"], found["positions.weight"] = (
        values["embeddings/x/table"],
        values["embeddings/x/positions"],
    )
    norm("norm", "embeddings/reduction")
    for i in range(config.num_layers):
        block, path = f"blocks.{i}", f"encoder/{i}"
        linear(f"{block}.qkv", f"{path}/attn/qkv", config.d_model)
        linear(f"{block}.out", f"{path}/attn/w_O", config.d_model)
        linear(f"{block}.up", f"{path}/ffn/expansion", config.d_model)
        linear(f"{block}.down", f"{path}/ffn/squeeze", config.d_ff)
        norm(f"{block}.norm1", f"{path}/ln2")
        norm(f"{block}.norm2", f"{path}/ln1")
    linear("dense", "head/dense", config.d_model)
    norm("head_norm", "head/ln")
    found["bias"] = values["head/bias"].copy()
    found["bias"][m.vocab_size :] = BIG  # rows that fill up the vocabulary are never predicted
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


class PlainTorch(Program):
    """Forward, backward, clipping and AdamW; `compiled`: the forward and backward pass through
    `torch.compile`.
    """

    def __init__(self, exported: Exported, compiled: bool = False) -> None:
        plain_only(exported)
        m = exported.manifest
        torch.manual_seed(m.seed)
        torch.set_float32_matmul_precision("high")  # TF32, as XLA does
        self.where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = Bert(m)
        model.load_state_dict(state_of(exported.values(), m))
        model.to(self.where).train()
        self.parameters = list(model.parameters())
        o = self.o = m.optimizer
        decayed = [p for p in self.parameters if p.ndim > 1]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": o["weight_decay"]},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], fused=True
        )
        self.model = torch.compile(model) if compiled else model
        self.autocast = m.precision == "bfloat16"
        self.batches = [self._placed(b) for b in exported.batches()]
        self.taken = 0

    def _placed(self, batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, ...]:
        labels = np.where(batch["masked/weights"] > 0, batch["masked/labels"], IGNORED)
        arrays = (batch["masked/x"], batch["masked/places"], labels)
        return tuple(torch.from_numpy(a.astype(np.int64)).to(self.where) for a in arrays)

    def step(self) -> Any:
        with torch.autocast(self.where.type, torch.bfloat16, enabled=self.autocast):
            self.loss = self.model(*self.batches[self.taken % len(self.batches)])
        self.loss.backward()
        self.taken += 1
        if self.o["clip"]:
            nn.utils.clip_grad_norm_(self.parameters, self.o["clip"])
        for group in self.optimizer.param_groups:
            # The package (and Keras) adds epsilon before the bias correction, PyTorch after it.
            group["eps"] = self.o["eps"] / math.sqrt(1.0 - self.o["beta2"] ** self.taken)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.loss.detach()

    def wait(self) -> None:
        if self.where.type == "cuda":
            torch.cuda.synchronize()

    @property
    def device(self) -> tuple[str, str]:
        return (
            ("gpu", torch.cuda.get_device_name()) if self.where.type == "cuda" else ("cpu", "cpu")
        )

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.where.type == "cuda" else None

    def versions(self) -> str:
        return f"torch {torch.__version__}"


def build(
    directory: str, report: str, first: int, compiled: bool = False
) -> Callable[[int], float]:
    """For the harness."""
    return serve(partial(PlainTorch, compiled=compiled), directory, report, first)
