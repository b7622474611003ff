"""How generation chooses tokens: sampling, or beam search."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.masks import MASKED


@dataclass(frozen=True)
class Sampling:
    """Sampling from logits divided by `temperature` (0: the most probable token).

    `top_k`: only from so many most probable tokens; `top_p`: only from the fewest tokens whose
    probabilities add up to it. Raises `UsageError` for impossible numbers.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0.0:
            raise UsageError(f"--temperature {self.temperature}: must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"--top_k {self.top_k}: must be at least 1")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"--top_p {self.top_p}: must be above 0 and at most 1")


@dataclass(frozen=True)
class BeamSearch:
    """Search for the most probable text with `beam` hypotheses.

    rule: "gnmt" compares them by log-probability / ((5 + tokens) / 6) ** length_penalty (arXiv
    1609.08144, section 7); "transformers" by log-probability / tokens ** length_penalty, and stops
    as `generate` of `transformers` does with `early_stopping` false, true or never. Raises
    `UsageError` for impossible numbers.
    """

    beam: int = 4
    length_penalty: float = 0.6
    rule: str = "gnmt"
    early_stopping: str = "false"

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise UsageError(f"--beam {self.beam}: must be at least 1")
        if self.rule not in ("gnmt", "transformers"):
            raise UsageError(f"--beam_rule {self.rule}: must be gnmt or transformers")
        if self.early_stopping not in ("false", "true", "never"):
            raise UsageError(
                f"--early_stopping {self.early_stopping}: must be false, true or never"
            )
        if self.rule == "gnmt" and self.length_penalty < 0.0:
            raise UsageError(f"--length_penalty {self.length_penalty}: must not be negative")
        if self.rule == "gnmt" and self.early_stopping != "false":
            raise UsageError(
                f"--early_stopping {self.early_stopping}: needs --beam_rule transformers"
            )


def decoding(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    beam: int = 0,
    length_penalty: float | None = None,
    rule: str = "gnmt",
    early_stopping: str = "false",
) -> Sampling | BeamSearch:
    """Beam search where `beam` is not 0, else sampling.

    Raises `UsageError` for options of sampling together with a beam.
    """
    if not beam:
        return Sampling(temperature, top_k, top_p, seed)
    if (temperature, top_k, top_p) != (1.0, None, 1.0):
        raise UsageError(
            f"--beam {beam}: beam search does not sample; leave out --temperature, --top_k and"
            " --top_p"
        )
    if length_penalty is None:
        length_penalty = 0.6 if rule == "gnmt" else 1.0
    return BeamSearch(beam, length_penalty, rule, early_stopping)


def filtered(logits: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    """Logits `[B, V]` divided by the temperature, with -1e9 for tokens that are excluded."""
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
    """One token per row, float32 `[B, V] -> int32 [B]`, drawn from the filtered logits' softmax.

    The draw is the largest of logits plus Gumbel noise.
    """
    if sampling.temperature == 0.0:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.argmax(
        filtered(logits, sampling) + key.gumbel(logits.shape[-1]), axis=-1, output_type=tf.int32
    )
