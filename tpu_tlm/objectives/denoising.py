"""From a text to a damaged source and the target that repairs it, on the device: T5's way and BART's."""

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

# Share of the tokens that T5 and BART take away.
_DENSITY = {"spans": 0.15, "infilling": 0.3}
_COUNTS: Mapping[str, Counts] = {"spans": t5_counts, "infilling": infilling_counts}


class Example(NamedTuple):
    """What an encoder-decoder is trained on: `source` int32 `[rows, S]`; what the decoder is `given` and the `labels` of the tokens after,
    int32 `[rows, T]`; `weights` float32 `[rows, T]`, 0 where there is nothing to predict."""

    source: tf.Tensor
    given: tf.Tensor
    labels: tf.Tensor
    weights: tf.Tensor


@dataclass(frozen=True)
class Denoiser:
    """Damages texts. `config`: resolved; `vocab_size`: with the added ids, of which the last begins and ends a target and the others are
    sentinels, the first span's first; `prefix`, `suffix`: whether the texts have them: they are never taken away."""

    config: DenoisingConfig
    vocab_size: int
    pad_id: int
    mask_id: int | None = None
    prefix: bool = False
    suffix: bool = False

    @classmethod
    def of(cls, spec: ModelSpec, mask_id: int | None = None) -> Denoiser:
        """The one of a model's spec. `mask_id`: what stands for a span (infilling)."""
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
        """The id at both ends of a target."""
        return self.vocab_size - 1

    @property
    def first(self) -> int:
        """The first span's sentinel."""
        return self.vocab_size - (self.config.sentinels or 0)

    def _size(self, seq_length: int) -> int:
        """Tokens of text in an example."""
        return seq_length - self.prefix - self.suffix

    @property
    def longest(self) -> int:
        """The most tokens of an example: places in its text are drawn, for infilling gaps, of which there is one more."""
        return LONGEST - (self.config.denoise == "infilling") + self.prefix + self.suffix

    def check_length(self, seq_length: int) -> None:
        """Raise `UsageError` for examples of more than `longest` tokens."""
        if seq_length > self.longest:
            raise UsageError(
                f"--denoise {self.config.denoise}: examples of {seq_length} tokens are too long, at most {self.longest}"
            )

    def _numbers(self) -> tuple[float, float]:
        assert self.config.noise_density is not None
        return self.config.noise_density, self.config.mean_span

    def spans(self, seq_length: int) -> int:
        """The most spans of an example."""
        return most(_COUNTS[self.config.denoise], self._size(seq_length), *self._numbers())[1]

    def lengths(self, seq_length: int) -> tuple[int, int]:
        """Tokens of source and target of examples of `seq_length` tokens: what a full one has, so that only short ones are padded."""
        noise, spans, left = most(
            _COUNTS[self.config.denoise], self._size(seq_length), *self._numbers()
        )
        target = noise + spans + 1 if self.config.denoise == "spans" else self._size(seq_length) + 1
        return left + self.prefix + self.suffix, target

    def __call__(self, x: tf.Tensor, key: Key) -> Example:
        """Source and target of texts int32 `[rows, nctx]`, a pure function of text and key.

        spans (T5, arXiv 1910.10683, 3.1.4): every span is one sentinel in the source; the target is sentinel, span, sentinel, span..., end.
        infilling (BART, arXiv 1910.13461): every span is one mask; the target is the whole text, then the end. A text with nothing to take
        away has weight 0. Raises `UsageError` for examples that are too long, or of more spans than there are sentinels.
        """
        seq_length = x.shape[1]
        self.check_length(seq_length)
        size, (source_length, target_length) = self._size(seq_length), self.lengths(seq_length)
        if self.config.denoise == "spans" and self.spans(seq_length) >= (
            self.config.sentinels or 0
        ):
            raise UsageError(
                f"examples of {seq_length} tokens have {self.spans(seq_length)} spans, this model has sentinels for {self._sentinels()}"
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
        """The text out of a source with sentinels and the target written for it; a span that was not written stays empty."""
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
        """Ids of a text whose masks are sentinels, in their order. Raises `UsageError` for more masks than sentinels."""
        if list(ids).count(mask_id) > self._sentinels():
            raise UsageError(
                f"the text has {list(ids).count(mask_id)} masks, this model has sentinels for {self._sentinels()}"
            )
        numbers = iter(range(self.first, self.end))
        return [next(numbers) if token == mask_id else token for token in ids]


def resolved(config: DenoisingConfig, spec: ModelSpec) -> DenoisingConfig:
    """The options with every number that was left open, for texts framed as `spec` says.

    Raises `UsageError` for shares and lengths that do not go together with the examples, or too few sentinels.
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
            f"--denoise {config.denoise}: examples of {spec.seq_length} tokens are too short to take something away"
        )
    needed = spans + 1 if config.denoise == "spans" else 1
    if config.sentinels is not None and config.sentinels < needed:
        raise UsageError(
            f"--sentinels {config.sentinels}: examples of {spec.seq_length} tokens need at least {needed}"
        )
    return replace(full, sentinels=config.sentinels or needed)
