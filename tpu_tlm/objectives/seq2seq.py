"""Sequence-to-sequence training: pairs of texts, or denoising (arXiv 1706.03762, 1910.10683)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.flops import seq2seq_flops_per_example
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import (
    Batch,
    LossSums,
    Objective,
    ObjectiveContext,
    ObjectiveOptions,
    cross_entropy,
)
from tpu_tlm.objectives.denoising import Denoiser, Example, resolved
from tpu_tlm.objectives.mlm import EVALUATION_SEED


def target_frame(spec: ModelSpec, tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids that start and end a target.

    Those of the model's spec; where it has none, `<GO>` or [CLS], and `<EOS>` or [SEP].
    """
    go = tokenizer.id_of("<GO>")
    start = (
        spec.y_prefix_id
        if spec.y_prefix_id is not None
        else go
        if go is not None
        else tokenizer.cls_id
    )
    return start, spec.y_suffix_id if spec.y_suffix_id is not None else tokenizer.sep_id


class SequenceToSequence(Objective):
    """Cross entropy of every target token, given the source and the target tokens before it.

    Metric `accuracy`: share of labels whose logit is the largest. The target is `y` of the records
    (`--denoise none`), or is made from `x` (`tpu_tlm.objectives.denoising`). Start and end tokens
    are added to a `y` without them, the end token only where there is room. Padding is masked in
    the source and not predicted in the target. In evaluation the corruption depends on the example
    alone. Raises `UsageError` for records without the features that this needs.
    """

    name = "seq2seq"
    kind = "seq2seq"
    metrics = ("accuracy",)

    def __init__(
        self, pad_id: int, start: int, end: int, seq_length_y: int, denoiser: Denoiser | None = None
    ) -> None:
        self.pad_id, self.start, self.end, self.seq_length_y, self.denoiser = (
            pad_id,
            start,
            end,
            seq_length_y,
            denoiser,
        )

    @classmethod
    def from_config(cls, context: ObjectiveContext) -> SequenceToSequence:
        spec, tokenizer = context.spec, context.tokenizer
        denoiser = None
        if spec.denoising is not None and spec.denoising.denoise != "none":
            denoiser = Denoiser.of(
                spec, tokenizer.mask_id if spec.denoising.denoise == "infilling" else None
            )
        return cls(
            spec.pad_id,
            *target_frame(spec, tokenizer),
            spec.seq_length_y or spec.seq_length,
            denoiser,
        )

    @classmethod
    def configure_model(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """Add sentinels after the tokenizer's ids, and set the length of targets.

        Raises `UsageError` when records have no targets, or targets as well as `--denoise`.
        """
        denoising = resolved(options.denoising, spec)
        spec = replace(
            spec, vocab_size=spec.vocab_size + (denoising.sentinels or 0), denoising=denoising
        )
        if denoising.denoise == "none":
            if "y" not in lengths:
                raise UsageError(
                    "--objective seq2seq: these records have no targets (y); preprocess with "
                    "--pairs, or give --denoise spans or infilling"
                )
            return replace(spec, seq_length_y=lengths["y"])
        if "y" in lengths:
            raise UsageError(
                f"--denoise {denoising.denoise}: these records are pairs; give --denoise none, or"
                " records of plain text"
            )
        end = spec.vocab_size - 1
        return replace(
            spec,
            seq_length_y=Denoiser.of(spec).lengths(spec.seq_length)[1],
            y_prefix_id=end,
            y_suffix_id=end,
        )

    def predictions(self, seq_length: int) -> int:
        return self.seq_length_y

    def _lengths(self, spec: ModelSpec) -> tuple[int, int]:
        return (
            self.denoiser.lengths(spec.seq_length)
            if self.denoiser is not None
            else (spec.seq_length, self.seq_length_y)
        )

    def flops(self, spec: ModelSpec) -> float:
        return seq2seq_flops_per_example(spec.config, *self._lengths(spec), spec.vocab_size)

    def tokens(self, spec: ModelSpec) -> int:
        return spec.seq_length if self.denoiser is not None else spec.seq_length + self.seq_length_y

    def example(self, batch: Batch, key: Key, training: bool) -> Example:
        """Source, target and weights of a batch, corrupted with random numbers from `key`."""
        if self.denoiser is not None:
            if "y" in batch:
                raise UsageError(
                    "this model was trained with --denoise: it needs records of plain text, "
                    "these are pairs"
                )
            return self.denoiser(
                batch["x"], key if training else Key.of(EVALUATION_SEED, batch["position"])
            )
        if "y" not in batch:
            raise UsageError(
                "this model was trained on pairs: these records have no targets (y); "
                "preprocess with --pairs"
            )
        y, one = batch["y"], ((0, 0), (0, 1))
        begun = tf.equal(y[:, :1], self.start)
        labels = tf.where(begun, tf.pad(y[:, 1:], one, constant_values=self.pad_id), y)
        there = tf.not_equal(labels, self.pad_id)
        count = tf.reduce_sum(tf.cast(there, tf.int32), axis=1, keepdims=True)
        place = tf.range(y.shape[1])
        ended = tf.reduce_any(
            tf.logical_and(tf.equal(place, count - 1), tf.equal(labels, self.end)),
            axis=1,
            keepdims=True,
        )
        ends = tf.logical_and(
            tf.equal(place, count), tf.logical_and(count > 0, tf.logical_not(ended))
        )
        labels = tf.where(ends, self.end, labels)
        given = tf.concat([tf.fill((y.shape[0], 1), self.start), labels[:, :-1]], axis=1)
        return Example(batch["x"], given, labels, tf.cast(tf.logical_or(there, ends), tf.float32))

    def __call__(self, model: Any, batch: Batch, key: Key, *, training: bool) -> LossSums:
        source, given, labels, weights = self.example(batch, key.fold("corruption"), training)
        if "valid" in batch:
            weights *= batch["valid"][:, None]
        logits = model({"x": source, "y": given}, key=key.fold("dropout") if training else None)
        losses, right = cross_entropy(labels, logits)
        weight = tf.reduce_sum(weights)
        return LossSums(
            tf.reduce_sum(losses * weights),
            weight,
            {"accuracy": (tf.reduce_sum(right * weights), weight)},
        )
