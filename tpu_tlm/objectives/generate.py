"""Writing on from a text with a causal language model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tpu_tlm.data.tokenizers import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.attention import Cache
from tpu_tlm.models.lm import TransformerLanguageModel
from tpu_tlm.models.masks import MASKED
from tpu_tlm.models.random import Key
from tpu_tlm.models.spec import ModelSpec, longest

# Lengths are rounded up to multiples of this, so that texts of different lengths share a compiled program.
_ROUND = 64
# Texts that are written on together.
_ROWS = 16


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


def filtered(logits: tf.Tensor, sampling: Sampling) -> tf.Tensor:
    """Logits `[B, V]` over the temperature, those that may not be drawn at -1e9."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        floor = tf.math.top_k(logits, k=min(sampling.top_k, logits.shape[-1])).values[:, -1:]
        logits = tf.where(logits >= floor, logits, MASKED)
    if sampling.top_p < 1.0:
        ordered = tf.sort(logits, axis=-1, direction="DESCENDING")
        before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
        floor = tf.reduce_min(tf.where(before < sampling.top_p, ordered, float("inf")), axis=-1, keepdims=True)
        logits = tf.where(logits >= floor, logits, MASKED)
    return logits


def draw(logits: tf.Tensor, sampling: Sampling, key: Key) -> tf.Tensor:
    """One token per row: float32 `[B, V] -> int32 [B]`, from the softmax of the filtered logits (largest logit plus Gumbel noise)."""
    if sampling.temperature == 0.0:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    noise = -tf.math.log(-tf.math.log(key.uniform(logits.shape[-1]) + 2.0**-25))
    return tf.argmax(filtered(logits, sampling) + noise, axis=-1, output_type=tf.int32)


class Written(NamedTuple):
    """What came out: the whole text, the new ids, and whether they end with an end token (else the length was used up)."""

    text: str
    ids: list[int]
    ended: bool


class Generate:
    """Writes on from texts, framed as the beginning of a training example was, up to an end-of-line or suffix token.

    One program of static shapes: every step computes one position of every row from the cached keys and values. While a row is still
    in its prompt, the prompt's token is taken instead of the drawn one. Draws depend on the seed and a text's number alone. Raises
    `UsageError` for a model that is not causal.
    """

    def __init__(self, model: Any, spec: ModelSpec, tokenizer: Tokenizer, sampling: Sampling) -> None:
        if not isinstance(model, TransformerLanguageModel):
            raise UsageError(f"generate needs a causal model (--objective clm), this one is of kind {spec.kind!r}")
        self.model, self.spec, self.tokenizer, self.sampling = model, spec, tokenizer, sampling
        self.ends = tuple(i for i in (spec.eol_id, spec.suffix_id) if i is not None)
        self._run = tf.function(self._write, jit_compile=True, autograph=False, reduce_retracing=False)

    def framed(self, text: str, max_tokens: int) -> list[int]:
        """Ids of a text behind the prefix of the training examples. Raises `UsageError` when nothing is there, or there is no room."""
        ids = [i for i in (self.spec.prefix_id,) if i is not None] + self.tokenizer.encode(text)
        if not ids:
            raise UsageError("an empty text: this model has no prefix token to begin with, give at least one word (--text)")
        limit = longest(self.spec)
        if limit is not None and len(ids) + max_tokens > limit:
            raise UsageError(
                f"text {text[:40]!r} ({len(ids)} tokens) and --max_tokens {max_tokens}: the model takes {limit} tokens in all, give fewer"
            )
        return ids

    def _write(self, x: tf.Tensor, lengths: tf.Tensor, stops: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Fill up `x` int32 `[B, S]` (prompts of `lengths`, then padding) until place `stops` of each row; `number`: int64 `[B]`."""
        rows, size = x.shape
        caches = [(c.keys, c.values) for c in self.model.caches(rows, size, tf.constant(0))]

        def unfinished(at: tf.Tensor, x: tf.Tensor, done: tf.Tensor, caches: Any) -> tf.Tensor:
            return tf.logical_not(tf.reduce_all(done))

        def body(at: tf.Tensor, x: tf.Tensor, done: tf.Tensor, caches: Any) -> tuple[Any, ...]:
            current = [Cache(at, k, v) for k, v in caches]
            logits = self.model.step(x, at, current)
            logits = tf.where(tf.equal(tf.range(logits.shape[-1]), self.spec.pad_id), MASKED, logits)
            key = Key.of(self.sampling.seed, number * (1 << 32) + tf.cast(at, tf.int64))
            place = at + 1
            here = tf.equal(tf.range(size), place)[None, :]
            in_prompt = place < lengths
            token = tf.where(in_prompt, tf.reduce_sum(tf.where(here, x, 0), axis=1), draw(logits, self.sampling, key))
            x = tf.where(tf.logical_and(here, tf.logical_not(done)[:, None]), token[:, None], x)
            ended = tf.reduce_any(tf.equal(token[:, None], tf.constant(self.ends or (-1,))), axis=1)
            ended = tf.logical_and(ended, tf.logical_not(in_prompt))
            done = tf.logical_or(done, tf.logical_or(ended, place + 1 >= stops))
            return place, x, done, [(c.keys, c.values) for c in current]

        start = (tf.constant(0), x, lengths >= stops, caches)
        return tf.while_loop(unfinished, body, start, maximum_iterations=size)[1]

    def _batch(self, prompts: Sequence[list[int]], first: int, max_tokens: int) -> Iterator[Written]:
        lengths = np.array([len(p) for p in prompts], np.int32)
        size = -(-int(lengths.max() + max_tokens) // _ROUND) * _ROUND
        size = min(size, longest(self.spec) or size)
        x = np.full((len(prompts), size), self.spec.pad_id, np.int32)
        for row, prompt in zip(x, prompts, strict=True):
            row[: len(prompt)] = prompt
        number = np.arange(first, first + len(prompts), dtype=np.int64)
        filled = self._run(tf.constant(x), tf.constant(lengths), tf.constant(lengths + max_tokens), tf.constant(number)).numpy()
        frame = {self.spec.prefix_id, self.spec.eol_id, self.spec.suffix_id, self.spec.pad_id}
        for row, prompt in zip(filled, prompts, strict=True):
            new = [int(i) for i in row[len(prompt) : len(prompt) + max_tokens] if i != self.spec.pad_id]
            text = self.tokenizer.decode([i for i in [*prompt, *new] if i not in frame])
            yield Written(text, new, bool(new) and new[-1] in self.ends)

    def __call__(self, texts: Sequence[str], max_tokens: int) -> Iterator[Written]:
        """Each text written on by at most `max_tokens` tokens, in order. Raises `UsageError` as `framed`."""
        if max_tokens < 1:
            raise UsageError(f"--max_tokens {max_tokens}: at least one token must be asked for")
        prompts = [self.framed(text, max_tokens) for text in texts]
        for first in range(0, len(prompts), _ROWS):
            yield from self._batch(prompts[first : first + _ROWS], first, max_tokens)
