"""The step of the same model written with KerasHub's layers and Keras's own trainer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workloads import WORKLOADS


def build(workload: str) -> Callable[[int], float]:
    """A callable(calls) -> seconds per step of a compiled `keras.Model`: `BertBackbone`,
    `MaskedLMHead` on the masked positions, Keras's AdamW, dropout, XLA, ten steps in one call.

    Masked ids, positions and labels come ready-made; there is no clipping and no schedule.
    """
    import keras
    import keras_hub
    import tensorflow as tf

    load = WORKLOADS[workload]
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=load.vocab,
        num_layers=load.layers,
        num_heads=load.heads,
        hidden_dim=load.d_model,
        intermediate_dim=load.d_ff,
        dropout=load.dropout,
        max_sequence_length=load.tokens,
    )
    inputs = {**backbone.input, "mask_positions": keras.Input((load.predictions,), dtype="int32")}
    head = keras_hub.layers.MaskedLMHead(
        vocabulary_size=load.vocab,
        token_embedding=backbone.token_embedding,
        intermediate_activation="gelu",
    )
    hidden = backbone(backbone.input)["sequence_output"]
    model = keras.Model(inputs, head(hidden, mask_positions=inputs["mask_positions"]))
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=load.steps_per_call,
        jit_compile=True,
    )
    iterator = iter(tf.data.Dataset.from_tensors(_batch(load)).repeat().prefetch(2))
    model.make_train_function()

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            logs = model.train_function(iterator)
        float(logs["loss"])  # waits for the last step
        return (time.perf_counter() - began) / (calls * load.steps_per_call)

    run(1)
    return run


def _batch(load: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (load.rows, load.tokens)
    positions = np.stack(
        [rng.choice(load.tokens, load.predictions, replace=False) for _ in range(load.rows)]
    )
    inputs = {
        "token_ids": rng.integers(5, load.vocab, shape),
        "padding_mask": np.ones(shape),
        "segment_ids": np.zeros(shape),
        "mask_positions": np.sort(positions),
    }
    labels = rng.integers(5, load.vocab, (load.rows, load.predictions))
    return {name: value.astype(np.int32) for name, value in inputs.items()}, labels
