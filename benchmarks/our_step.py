"""This package's own training step, as its loop runs it, for timing beside the reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks.workloads import WORKLOADS, Workload
from tpu_tlm.config import MlmConfig, ModelConfig, OptimConfig
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives import mlm
from tpu_tlm.objectives.base import Batch
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials
from tpu_tlm.training.loop import Loop
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.schedules import make_schedule
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import TrainStep

STEPS = 1_000_000


class _FixedPositions(MaskedLanguageModeling):
    """Masked language modeling of the same positions of every example, which nothing replaces."""

    def masked(
        self, batch: Batch, key: Key, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        x, count = batch["x"], self.predictions(batch["x"].shape[1])
        positions = tf.range(count, dtype=tf.int32) * (x.shape[1] // count)
        positions = tf.broadcast_to(positions, (x.shape[0], count))
        return x, positions, tf.gather(x, positions, batch_dims=1), tf.ones(positions.shape)


def _without_accuracy() -> None:
    """Let the loss count no label as correct, which saves looking for the largest logit's place."""
    plain = mlm.cross_entropy

    def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        losses, right = plain(labels, logits)
        return losses, tf.zeros_like(right)

    mlm.cross_entropy = cross_entropy


def build(
    workload: str,
    rpr_k: int = 0,
    without: Sequence[str] = (),
    precision: str = "float32",
    xla: bool = True,
) -> Callable[[int], float]:
    """A callable(calls) -> seconds per step of the whole step: masks made on the device, dropout,
    clipping, AdamW, schedule.

    The model is the reference's (learned positions, norms after); with `rpr_k` relative positions
    take the place of learned ones. `without`: parts (`workloads.PARTS`) that are left out.
    `precision`, `xla`: as the options of training.
    """
    if "accuracy" in without:
        _without_accuracy()
    load = WORKLOADS[workload]
    config = ModelConfig(
        d_model=load.d_model,
        d_ff=load.d_ff,
        num_heads=load.heads,
        num_layers=load.layers,
        position_encoding=["shaw"] if rpr_k else ["learned"],
        embeddings_reduction="sum-layer-norm",
        rpr_k=[rpr_k],
        transformer_type="post-layer-norm",
        mask_pad=False,
        dropout=0.0 if "dropout" in without else load.dropout,
        mlm_head="bert",
        output_bias=True,
    )
    optim = OptimConfig(clip=0.0) if "clipping" in without else OptimConfig()
    kind = _FixedPositions if "masks" in without else MaskedLanguageModeling
    return timed(config, load, optim, kind, precision=precision, xla=xla)


def timed(
    config: ModelConfig,
    load: Workload,
    optim: OptimConfig,
    kind: type[MaskedLanguageModeling] = MaskedLanguageModeling,
    *,
    precision: str = "float32",
    xla: bool = True,
) -> Callable[[int], float]:
    """A callable(calls) -> seconds per step of a masked language model; of the workload, only its
    vocabulary, batch and steps per call count."""
    model = build_model(ModelSpec(config, load.vocab, load.tokens), precision=precision, seed=0)
    objective = kind(
        MlmConfig(mask_rate=load.predictions / load.tokens),
        Specials(load.vocab, 0, 4, (0, 1, 2, 3, 4)),
    )
    schedule = make_schedule(optim, STEPS)
    step = TrainStep(model, objective, make_optimizer(optim), schedule, optim.clip, 0)
    loop = Loop(step, TrainState(step), xla=xla)
    ids = (
        np.random.default_rng(0).integers(5, load.vocab, (load.rows, load.tokens)).astype(np.int32)
    )
    batch = {
        "x": ids,
        "w": np.full((load.rows, load.tokens // 8), 255, np.uint8),
        "position": np.arange(load.rows, dtype=np.int64),
    }
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat().prefetch(2))

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            loop.train(iterator, load.steps_per_call)
        return (time.perf_counter() - began) / (calls * load.steps_per_call)

    run(1)
    return run
