"""Denoising examples made on the device: T5's span corruption and BART's text infilling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import tensorflow as tf

from tpu_tlm.config import DenoisingConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.spans import (
    LONGEST,
    Counts,
    infilling_counts,
    infilling_spans,
    marked,
    most,
    t5_counts,
    t5_spans,
)

# Default share of removed tokens, those of T5 and BART.
_DENSITY = {"spans": 0.15, "infilling": 0.3}
_COUNTS: Mapping[str, Counts] = {"spans": t5_counts, "infilling": infilling_counts}


class Example(NamedTuple):
    """A batch for an encoder-decoder.

    `source` int32 `[rows, S]`: encoder input; `given` int32 `[rows, T]`: decoder input; `labels`
    int32 `[rows, T]`: the next tokens; `weights` float32 `[rows, T]`: 0 where there is no label.
    """

    source: tf.Tensor
    given: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor


@dataclass(frozen=True)
class Denoiser:
    """Corrupts texts.

    `config`: from `resolved`. `vocab_size` includes the added ids: the last one starts and ends a
    target, the ones before it are sentinels, in the order of the spans. `mask_id`: replaces a span
    in infilling. `prefix`, `suffix`: whether texts are framed by one, which is never removed.
    """

    config: DenoisingConfig
    vocab_size: int
    pad_id: int
    mask_id: int | None = None
    prefix: bool = False
    suffix: bool = False

    @classmethod
    def of(cls, spec: ModelSpec, mask_id: int | None = None) -> Denoiser:
        """The denoiser of a model's spec. `mask_id`: replaces a span (infilling only)."""
        assert spec.denoising is not None
        return cls(
            spec.denoising,
            spec.vocab_size,
            spec.pad_id,
            mask_id,
            spec.prefix_id is not None,
            spec.suffix_id is not None,
        )

    @property
    def end(self) -> int:
        """The id that starts and ends a target."""
        return self.vocab_size - 1

    @property
    def first(self) -> int:
        """The sentinel of the first span."""
        return self.vocab_size - (self.config.sentinels or 0)

    def _size(self, seq_length: int) -> int:
        """Tokens of an example without prefix and suffix."""
        return seq_length - self.prefix - self.suffix

    @property
    def longest(self) -> int:
        """The longest supported example, in tokens.

        Positions of the text are drawn, or for infilling gaps, of which there is one more.
        """
        return LONGEST - (self.config.denoise == "infilling") + self.prefix + self.suffix

    def check_length(self, seq_length: int) -> None:
        """Raise `UsageError` for examples of more than `longest` tokens."""
        if seq_length > self.longest:
            raise UsageError(
                f"--denoise {self.config.denoise}: examples of {seq_length} tokens are too long,"
                f" at most {self.longest}"
            )

    def _numbers(self) -> tuple[float, float]:
        assert self.config.noise_density is not None
        return self.config.noise_density, self.config.mean_span

    def spans(self, seq_length: int) -> int:
        """The largest number of spans of an example."""
        return most(_COUNTS[self.config.denoise], self._size(seq_length), *self._numbers())[1]

    def lengths(self, seq_length: int) -> tuple[int, int]:
        """Tokens of source and target of examples of `seq_length` tokens.

        These are the lengths of a full example, so that only shorter ones are padded.
        """
        noise, spans, left = most(
            _COUNTS[self.config.denoise], self._size(seq_length), *self._numbers()
        )
        target = noise + spans + 1 if self.config.denoise == "spans" else self._size(seq_length) + 1
        return left + self.prefix + self.suffix, target

    def __call__(self, x: tf.Tensor, key: Key) -> Example:
        """Source and target of texts int32 `[rows, seq_length]`, a pure function of text and key.

        spans (T5, arXiv 1910.10683, 3.1.4): every span is replaced by a sentinel in the source; the
        target is sentinel, span, sentinel, span..., end. infilling (BART, arXiv 1910.13461): every
        span is replaced by one mask; the target is the whole text, then the end. A text too short
        to corrupt has weight 0. Raises `UsageError` for examples that are too long, or that have
        more spans than there are sentinels.
        """
        seq_length = x.shape[1]
        self.check_length(seq_length)
        size, (source_length, target_length) = self._size(seq_length), self.lengths(seq_length)
        if self.config.denoise == "spans" and self.spans(seq_length) >= (
            self.config.sentinels or 0
        ):
            raise UsageError(
                f"examples of {seq_length} tokens have {self.spans(seq_length)} spans, this model"
                f" has sentinels for {self._sentinels()}"
            )
        there = tf.not_equal(x, self.pad_id)
        lengths = tf.clip_by_value(
            tf.reduce_sum(tf.cast(there, tf.int32), axis=1) - self.prefix - self.suffix, 0, size
        )
        draw = t5_spans if self.config.denoise == "spans" else infilling_spans
        frame = ((0, 0), (int(self.prefix), int(self.suffix)))
        noise, starts = (tf.pad(t, frame) for t in draw(key, lengths, size, *self._numbers()))
        number = tf.cumsum(tf.cast(starts, tf.int32), axis=1)
        marks = (
            self.first + number - 1
            if self.config.denoise == "spans"
            else tf.fill(starts.shape, self.mask_id or 0)
        )
        source = marked(
            x, marks, starts, tf.logical_and(there, tf.logical_not(noise)), self.pad_id
        )[:, :source_length]
        place = tf.range(target_length)
        if self.config.denoise == "spans":
            end = number[:, -1:] + tf.reduce_sum(tf.cast(noise, tf.int32), axis=1, keepdims=True)
            labels = marked(x, marks, starts, noise, self.pad_id)
            labels = tf.pad(labels, ((0, 0), (0, max(0, target_length - labels.shape[1]))))[
                :, :target_length
            ]
        else:
            end = lengths[:, None]
            labels = tf.pad(x[:, int(self.prefix) : int(self.prefix) + size], ((0, 0), (0, 1)))
        labels = tf.where(
            place < end, labels, tf.where(tf.equal(place, end), self.end, self.pad_id)
        )
        counted = tf.logical_and(place <= end, number[:, -1:] > 0)
        given = tf.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=self.end)
        return Example(source, given, labels, tf.cast(counted, tf.float32))

    def _sentinels(self) -> int:
        return max(0, (self.config.sentinels or 0) - 1)

    def repaired(self, source: Sequence[int], written: Iterable[int]) -> list[int]:
        """Token ids of the text that a source with sentinels and its generated target describe.

        A span that the target does not contain is left empty.
        """
        spans: dict[int, list[int]] = {}
        current: list[int] = []
        for token in written:
            if self.first <= token < self.end:
                current = spans.setdefault(token, [])
            elif token != self.end:
                current.append(token)
        return [
            t
            for token in source
            for t in (spans.get(token, []) if token >= self.first else [token])
        ]

    def with_sentinels(self, ids: Sequence[int], mask_id: int) -> list[int]:
        """Token ids with every mask replaced by the next sentinel.

        Raises `UsageError` for more masks than sentinels.
        """
        if list(ids).count(mask_id) > self._sentinels():
            raise UsageError(
                f"the text has {list(ids).count(mask_id)} masks, this model has sentinels for"
                f" {self._sentinels()}"
            )
        numbers = iter(range(self.first, self.end))
        return [next(numbers) if token == mask_id else token for token in ids]


def resolved(config: DenoisingConfig, spec: ModelSpec) -> DenoisingConfig:
    """The options with every `None` replaced by its number, for examples as `spec` describes.

    Raises `UsageError` for shares and lengths that do not fit the examples, and for too few
    sentinels.
    """
    if config.sentinels is not None and config.sentinels < 0:
        raise UsageError(f"--sentinels {config.sentinels}: must not be negative")
    if config.denoise == "none":
        return replace(config, sentinels=config.sentinels or 0)
    density = _DENSITY[config.denoise] if config.noise_density is None else config.noise_density
    if not 0.0 < density < 1.0:
        raise UsageError(f"--noise_density {density}: must be above 0 and below 1")
    if config.mean_span < 1.0:
        raise UsageError(f"--mean_span {config.mean_span}: must be at least 1")
    full = replace(config, noise_density=density, sentinels=0)
    denoiser = Denoiser.of(replace(spec, denoising=full))
    denoiser.check_length(spec.seq_length)
    spans = denoiser.spans(spec.seq_length)
    if spans < 1:
        raise UsageError(
            f"--denoise {config.denoise}: examples of {spec.seq_length} tokens are too short to"
            " remove a span"
        )
    needed = spans + 1 if config.denoise == "spans" else 1
    if config.sentinels is not None and config.sentinels < needed:
        raise UsageError(
            f"--sentinels {config.sentinels}: examples of {spec.seq_length} tokens need at least"
            f" {needed}"
        )
    return replace(full, sentinels=config.sentinels or needed)
