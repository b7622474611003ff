"""Sequence to sequence: one text is read, another written, or a damaged text repaired (arXiv 1706.03762, 1910.10683, 1910.13461)."""

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
    """The ids that begin and end a target: the model's own; for a model that has none, `<GO>` or [CLS], and `<EOS>` or [SEP]."""
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
    """Cross entropy of every token of the target, given the source and the target before it; metric `accuracy`.

    The target is `y` of the records (`--denoise none`), or what repairs `x` (`objectives.denoising`). A `y` that does not begin or end with
    the model's start and end tokens gets them, the end where there is room. Padding is hidden in the source and not predicted in the
    target. The corruption of an evaluation depends on the example alone.
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
    def make(cls, setting: ObjectiveContext) -> SequenceToSequence:
        spec, tokenizer = setting.spec, setting.tokenizer
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
    def adapt(
        cls, spec: ModelSpec, options: ObjectiveOptions, lengths: Mapping[str, int]
    ) -> ModelSpec:
        """A vocabulary with sentinels behind the tokenizer's ids, and the length of the targets.

        Raises `UsageError` when there are no targets, or two kinds of them.
        """
        denoising = resolved(options.denoising, spec)
        spec = replace(
            spec, vocab_size=spec.vocab_size + (denoising.sentinels or 0), denoising=denoising
        )
        if denoising.denoise == "none":
            if "y" not in lengths:
                raise UsageError(
                    "--objective seq2seq: these records have no targets (y); preprocess with --pairs, or give --denoise spans or infilling"
                )
            return replace(spec, seq_length_y=lengths["y"])
        if "y" in lengths:
            raise UsageError(
                f"--denoise {denoising.denoise}: these records are pairs; give --denoise none, or records of plain text"
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
        """Source, target and weights of a batch; `key` draws the corruption."""
        if self.denoiser is not None:
            if "y" in batch:
                raise UsageError(
                    "this model was trained by --denoise: it needs records of plain text, these are pairs"
                )
            return self.denoiser(
                batch["x"], key if training else Key.of(EVALUATION_SEED, batch["position"])
            )
        if "y" not in batch:
            raise UsageError(
                "this model was trained on pairs: these records have no targets (y); preprocess with --pairs"
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
