"""Masked language modeling with masks made on the device (BERT, arXiv 1810.04805)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tpu_tlm.config import MlmConfig
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.base import Batch, LossSums, Objective, ObjectiveContext, cross_entropy
from tpu_tlm.objectives.masking import choose, static_count, units_of, word_starts

# Evaluation masks use this seed instead of the run's, so that figures of different runs compare.
EVALUATION_SEED = 20181011


@dataclass(frozen=True)
class Specials:
    """A tokenizer's special ids.

    `ids` are neither masked nor drawn as random tokens; they include `pad_id` and `mask_id`.
    """

    vocab_size: int
    pad_id: int
    mask_id: int
    ids: tuple[int, ...]


def specials_of(tokenizer: Tokenizer) -> Specials:
    """The special ids of a tokenizer."""
    return Specials(
        len(tokenizer.tokens), tokenizer.pad_id, tokenizer.mask_id, tuple(tokenizer.special_ids)
    )


def corrupt(
    x: tf.Tensor,
    positions: tf.Tensor,
    weights: tf.Tensor,
    specials: Specials,
    config: MlmConfig,
    key: Key,
) -> tf.Tensor:
    """Replace the tokens at `positions` int32 `[rows, N]` where `weights` is 1: int32 `[rows, T]`.

    By default 80 % become the mask token and 10 % a random token that is not special; 10 % are
    unchanged.
    """
    count = positions.shape[1]
    draw = key.fold("replace").uniform(count)
    random_token = key.fold("random").below(specials.vocab_size - len(specials.ids), count)
    for special in sorted(specials.ids):
        random_token += tf.cast(random_token >= special, tf.int32)
    original = tf.gather(x, positions, batch_dims=1)
    random_below = config.mask_token_rate + config.mask_random_rate
    replaced = tf.where(
        draw < config.mask_token_rate,
        specials.mask_id,
        tf.where(draw < random_below, random_token, original),
    )
    change = tf.where(weights > 0, replaced - original, 0)
    # Positions of a row are distinct, so the one-hot sum writes each at most once.
    return x + tf.reduce_sum(
        tf.one_hot(positions, x.shape[1], dtype=tf.int32) * change[:, :, None], axis=1
    )


def is_special(x: tf.Tensor, specials: Specials) -> tf.Tensor:
    """Boolean tensor of the shape of `x`, true at special ids."""
    return tf.reduce_any(tf.equal(x[..., None], tf.constant(specials.ids, x.dtype)), axis=-1)


class MaskedLanguageModeling(Objective):
    """Cross entropy of the original tokens at the masked positions.

    Metric `accuracy`: share predicted correctly. Evaluation always masks single tokens at
    `eval_mask_rate`, with masks that depend on the example alone. Records with static masks (MEAD's
    `x` and `y`) are used unchanged, with labels where `y` is not padding. Raises `UsageError` for
    datasets of pairs, and for whole-word or span masks on records without word starts.
    """

    name = "mlm"
    metrics = ("accuracy",)

    def __init__(self, config: MlmConfig, specials: Specials) -> None:
        self.config, self.specials = config, specials

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> MaskedLanguageModeling:
        return cls(context.options.mlm, specials_of(context.tokenizer))

    def predictions(self, seq_length: int) -> int:
        return static_count(self.config.mask_rate, seq_length)

    def masked(
        self, batch: Batch, key: Key, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Corrupted input int32 `[rows, T]`, positions int32 `[rows, N]`, labels int32 `[rows, N]`
        and weights float32 `[rows, N]`."""
        x = batch["x"]
        if "y" in batch:
            if "w" in batch:
                raise UsageError(
                    "--objective mlm: these examples are pairs; preprocess the text without --pairs"
                )
            y = batch["y"]
            positions = tf.broadcast_to(tf.range(x.shape[1], dtype=tf.int32), x.shape)
            return x, positions, y, tf.cast(tf.not_equal(y, self.specials.pad_id), tf.float32)
        rate = self.config.mask_rate if training else self.config.eval_mask_rate
        mode = self.config.mask_mode if training else "token"
        if not training:
            key = Key.of(EVALUATION_SEED, batch["position"])
        if "w" not in batch and mode != "token":
            raise UsageError(
                f"--mask_mode {mode}: these records do not say where words start; "
                "use --mask_mode token, or preprocess the text again"
            )
        starts = word_starts(batch["w"], x.shape[1]) if "w" in batch else tf.ones_like(x, tf.bool)
        units = units_of(starts, mode, self.config, key)
        positions, weights = choose(tf.logical_not(is_special(x, self.specials)), units, rate, key)
        labels = tf.gather(x, positions, batch_dims=1)
        return (
            corrupt(x, positions, weights, self.specials, self.config, key),
            positions,
            labels,
            weights,
        )

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        x, positions, labels, weights = self.masked(batch, key.fold("corruption"), training)
        if "valid" in batch:
            weights *= batch["valid"][:, None]
        features = {"x": x} | ({"tt": batch["tt"]} if "tt" in batch else {})
        logits = model(features, positions=positions, key=key.fold("dropout") if training else None)
        losses, right = cross_entropy(labels, logits)
        weight = tf.reduce_sum(weights)
        return LossSums(
            tf.reduce_sum(losses * weights),
            weight,
            {"accuracy": (tf.reduce_sum(right * weights), weight)},
        )
