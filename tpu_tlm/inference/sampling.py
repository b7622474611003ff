"""How a token is chosen from logits while writing."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.masks import MASKED


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: logits over `temperature` (0: the largest), the `top_k` most probable, the fewest that make up `top_p`."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0.0:
            raise UsageError(f"--temperature {self.temperature}: must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top_k {self.top_k}: at least one token must remain")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"--top_p {self.top_p}: must be above 0 and at most 1")


@dataclass(frozen=True)
class BeamSearch:
    """The most probable texts instead: `beam` of them are followed, and compare by log-probability / ((5 + tokens) / 6) ** length_penalty
    (arXiv 1609.08144, section 7)."""

    beam: int = 4
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UsageError(f"--beam {self.beam}: at least one text must be followed")
        if self.length_penalty < 0.0:
            raise UsageError(f"--length_penalty {self.length_penalty}: must not be negative")


def filtered(logits: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    """Logits `[B, V]` over the temperature, those that may not be drawn at -1e9."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        floor = tf.math.top_k(logits, k=min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits >= floor, logits, MASKED)
    if sampling.top_p < 1.0:
        ordered = tf.sort(logits, axis=-1, direction="DESCENDING")
        before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
        floor = tf.reduce_min(
            tf.where(before < sampling.top_p, ordered, float("inf")), axis=-1, keepdims=True
        )
        logits = tf.where(logits >= floor, logits, MASKED)
    return logits


def draw(logits: tf.Tensor, sampling: Sampling, key: Key) -> tf.Tensor:
    """One token per row: float32 `[B, V] -> int32 [B]`, from the softmax of the filtered logits (largest logit plus Gumbel noise)."""
    if sampling.temperature == 0.0:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.argmax(
        filtered(logits, sampling) + key.gumbel(logits.shape[-1]), axis=-1, output_type=tf.int32
    )
