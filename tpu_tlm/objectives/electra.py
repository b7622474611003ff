"""Replaced-token detection with a generator and a discriminator (ELECTRA, arXiv 2003.10555)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tpu_tlm.config import ElectraConfig, MlmConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.flops import binary_flops_per_example, flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.masks import MASKED
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import (
    Batch,
    LossSums,
    Objective,
    ObjectiveContext,
    ObjectiveOptions,
    cross_entropy,
)
from tpu_tlm.objectives.mlm import EVALUATION_SEED, MaskedLanguageModeling, Specials, specials_of
from tpu_tlm.objectives.replaced_tokens import METRICS, detection

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def generator_of(config: ModelConfig, options: ElectraConfig) -> ModelConfig:
    """Configuration of the generator that belongs to a discriminator's.

    Width, feed-forward width and heads are those of the discriminator times `gen_fraction`, unless
    given; both share one token table. Raises `UsageError` for a fraction that is not above 0, or a
    size below 1.
    """
    if not options.gen_fraction > 0.0:
        raise UsageError(f"--gen_fraction {options.gen_fraction}: must be above 0")
    for name in ("gen_d_model", "gen_d_ff", "gen_num_heads", "gen_num_layers"):
        size = getattr(options, name)
        if size is not None and size < 1:
            raise UsageError(f"--{name} {size}: must be at least 1, or none")
    heads = options.gen_num_heads or max(1, int(config.num_heads * options.gen_fraction))
    width = max(1, int(config.d_model * options.gen_fraction))
    return replace(
        config,
        d_model=options.gen_d_model or -(-width // heads) * heads,
        d_ff=options.gen_d_ff or max(1, int(config.d_ff * options.gen_fraction)),
        num_heads=heads,
        num_layers=options.gen_num_layers or config.num_layers,
        embedding_size=config.embedding_size or config.d_model,
    )


def sample(logits: tf.Tensor, specials: Specials, key: Key) -> tf.Tensor:
    """Tokens int32 `[B, N]` sampled from softmax(logits `[B, N, V]`), without gradient.

    Special tokens are never drawn: one inside a text is trivially a replacement, and padding would
    hide its position.
    """
    vocabulary = logits.shape[-1]
    allowed = tf.constant([MASKED if i in specials.ids else 0.0 for i in range(vocabulary)])
    scores = tf.stop_gradient(logits) + allowed + key.gumbel(*logits.shape[1:])
    # Two reductions instead of an argmax, into which XLA fuses the noise without vectorizing it:
    # 28 against 138 ms on a CPU for 32 * 10 draws among 8,192.
    largest = tf.equal(scores, tf.reduce_max(scores, axis=-1, keepdims=True))
    return tf.reduce_min(tf.where(largest, tf.range(vocabulary), vocabulary - 1), axis=-1)


class ReplacedTokenDetection(Objective):
    """Generator's cross entropy (mean over masked tokens) plus `disc_weight` times the
    discriminator's (mean over tokens that are not padding).

    The generator's input is masked as in masked language modeling. The discriminator's input is the
    original text with a sample of the generator at each masked position; it classifies every token
    as original or replaced, where a sample equal to the original counts as original. No gradient
    flows through the sample; the two models share the embeddings.

    Metrics: generator_loss, generator_accuracy; discriminator_loss (unweighted) and
    discriminator_accuracy; precision and recall of the predicted replacements; replaced, the share
    of replaced tokens.
    """

    name = "electra"
    kind = "electra"
    perplexity = False
    metrics = ("generator_loss", "generator_accuracy", *METRICS)
    loss_terms = (GENERATOR, DISCRIMINATOR)

    def __init__(self, mlm: MlmConfig, specials: Specials, disc_weight: float) -> None:
        self.mlm, self.specials, self.disc_weight = (
            MaskedLanguageModeling(mlm, specials),
            specials,
            disc_weight,
        )

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> ReplacedTokenDetection:
        return cls(
            context.options.mlm, specials_of(context.tokenizer), context.options.electra.disc_weight
        )

    @classmethod
    def configure_model(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """Add the generator.

        Raises `UsageError` for impossible sizes of it, or a negative `disc_weight`.
        """
        if not options.electra.disc_weight >= 0.0:
            raise UsageError(f"--disc_weight {options.electra.disc_weight}: must not be negative")
        return replace(spec, generator=generator_of(spec.config, options.electra))

    def predictions(self, seq_length: int) -> int:
        return self.mlm.predictions(seq_length)

    def flops(self, spec: ModelSpec) -> float:
        """Floating-point operations of one example in both models."""
        assert spec.generator is not None
        generator = flops_per_example(
            spec.generator, spec.seq_length, self.predictions(spec.seq_length), spec.vocab_size
        )
        return generator + binary_flops_per_example(spec.config, spec.seq_length)

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        x, positions, labels, weights = self.mlm.masked(batch, key.fold("corruption"), training)
        valid = batch["valid"] if "valid" in batch else tf.ones_like(weights[:, 0])
        more = {"tt": batch["tt"]} if "tt" in batch else {}
        logits = model.generate(
            {"x": x, **more}, positions, key=key.fold("generator") if training else None
        )
        losses, right = cross_entropy(labels, logits)
        counted = weights * valid[:, None]
        loss, count = tf.reduce_sum(losses * counted), tf.reduce_sum(counted)

        draws = key if training else Key.of(EVALUATION_SEED, batch["position"])
        original = (
            tf.where(tf.not_equal(batch["y"], self.specials.pad_id), batch["y"], x)
            if "y" in batch
            else batch["x"]
        )
        drawn = sample(logits, self.specials, draws.fold("sample"))
        change = tf.where(weights > 0, drawn - labels, 0)
        # Positions of a row are distinct, so the one-hot sum writes each at most once.
        text = original + tf.reduce_sum(
            tf.one_hot(positions, x.shape[1], dtype=tf.int32) * change[:, :, None], axis=1
        )

        scores = model({"x": text, **more}, key=key.fold("dropout") if training else None)
        tokens = tf.cast(tf.not_equal(original, self.specials.pad_id), tf.float32) * valid[:, None]
        found = detection(scores, tf.cast(tf.not_equal(text, original), tf.float32), tokens)
        accuracy = (tf.reduce_sum(right * counted), count)
        return LossSums(
            {GENERATOR: loss, DISCRIMINATOR: self.disc_weight * found.loss},
            {GENERATOR: count, DISCRIMINATOR: found.weight},
            {"generator_loss": (loss, count), "generator_accuracy": accuracy, **found.metrics},
        )
