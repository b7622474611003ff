"""Text generation: continuing a text (causal model), or a target for a source (encoder-decoder)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.pairs import framed_texts
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.inference.beam_transformers import beam_search as transformers_search
from tpu_tlm.inference.constraints import Constraints
from tpu_tlm.inference.decoding import FREE, Step, Texts, beam_search, repeated, sample
from tpu_tlm.inference.sampling import BeamSearch, Sampling
from tpu_tlm.models.language_models import TransformerLanguageModel
from tpu_tlm.models.layers.cache import Cache
from tpu_tlm.models.positions.registry import max_length
from tpu_tlm.models.seq2seq import Seq2SeqModel
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.denoising import Denoiser
from tpu_tlm.objectives.seq2seq import target_frame

# Lengths are rounded up to multiples of this, so that texts share a compiled program.
_ROUND = 64
# Texts per batch.
_ROWS = 16


class GeneratedText(NamedTuple):
    """A generated text.

    text: the whole text, of an encoder-decoder the target; ids: the new tokens; ended: whether they
    end with an end token, otherwise the length was reached; log_probability: of the new tokens,
    with beam search only.
    """

    text: str
    ids: list[int]
    ended: bool
    log_probability: float | None = None


def generate(
    model: Any,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    max_tokens: int = 64,
    how: Sampling | BeamSearch | None = None,
) -> list[GeneratedText]:
    """For each text its continuation or target, of at most `max_tokens` new tokens.

    how: None = sampling with its defaults. Raises `UsageError` as `Generator`.
    """
    return list(Generator(model, spec, tokenizer, how or Sampling())(texts, max_tokens))


class Generator:
    """Generates texts, framed as the training examples were, up to an end token.

    A causal model continues a text up to an end-of-line or suffix token. An encoder-decoder reads a
    text of at most the length of a training example (the first text of a pair is cut as in
    training) and generates its target; one trained by denoising repairs the text, with [MASK] where
    something is missing. One program of static shapes generates up to 16 texts together; a result
    depends on its own text, its number and the seed only. constraints: tokens that the model's
    own settings force or forbid. Raises `UsageError` for a model of another kind.
    """

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        how: Sampling | BeamSearch,
        constraints: Constraints = FREE,
    ) -> None:
        if not isinstance(model, TransformerLanguageModel | Seq2SeqModel):
            raise UsageError(
                "generate needs a causal model (--objective clm) or an encoder-decoder (seq2seq),"
                f" this one is of kind {spec.kind!r}"
            )
        self.spec, self.tokenizer, self.how, self.constraints = spec, tokenizer, how, constraints
        self.model: Any = model
        self.reads = isinstance(model, Seq2SeqModel)
        self.denoiser = (
            Denoiser.of(spec)
            if spec.denoising is not None and spec.denoising.denoise != "none"
            else None
        )
        if self.reads:
            self.start_id, end = target_frame(spec, tokenizer)
            self.ends: tuple[int, ...] = (end,)
        else:
            self.ends = tuple(i for i in (spec.eol_id, spec.suffix_id) if i is not None)
        # A causal model that attends to padding, such as GPT-2, has no token for it.
        own = self.reads or spec.config.mask_pad
        self.pad_id: int | None = spec.pad_id if own else None
        self._run = tf.function(
            self._generate, jit_compile=True, autograph=False, reduce_retracing=False
        )

    @classmethod
    def of(
        cls, saved: PretrainedModel, how: Sampling | BeamSearch, tokenizer: str | None = None
    ) -> Generator:
        """From a saved model. tokenizer: directory of another one than the model's."""
        constraints = Constraints.of(saved.generation)
        return cls(saved.model(), saved.spec, saved.tokenizer(tokenizer), how, constraints)

    def framed(self, text: str, max_tokens: int) -> list[int]:
        """Ids to continue: those of a text after the prefix, or the start of a target.

        Raises `UsageError` for an empty text without a prefix, and for too many tokens.
        """
        ids = (
            [self.start_id]
            if self.reads
            else [i for i in (self.spec.prefix_id,) if i is not None] + self.tokenizer.encode(text)
        )
        if not ids:
            raise UsageError(
                "an empty text: this model has no prefix token to start with, give at least one"
                " word (--text)"
            )
        limit = max_length(self.spec)
        if limit is not None and len(ids) + max_tokens > limit:
            raise UsageError(
                f"text {text[:40]!r} ({len(ids)} tokens) and --max_tokens {max_tokens}: the model"
                f" takes {limit} tokens in all, give fewer"
            )
        return ids

    def source(self, text: str) -> list[int]:
        """Ids of a source, framed as a training example; the first text of a pair is cut like one.

        Raises `UsageError` for any other text that is longer than an example.
        """
        spec = self.spec
        if self.denoiser is None and spec.pairs is not None:
            packing = Packing(spec.seq_length, spec.pad_id, spec.prefix_id, spec.suffix_id)
            (row,) = framed_texts(
                [text.encode()], self.tokenizer, packing, turn=spec.turn_id, first_of=spec.pairs
            )
            return [int(i) for i in row[row != spec.pad_id]]
        ids = self.tokenizer.encode(text)
        if self.denoiser is not None and self.denoiser.config.denoise == "spans":
            ids = self.denoiser.with_sentinels(ids, self.tokenizer.mask_id)
        ids = [i for i in (spec.prefix_id, *ids, spec.eol_id, spec.suffix_id) if i is not None]
        if len(ids) > spec.seq_length:
            raise UsageError(
                f"text {text[:40]!r}... has {len(ids)} tokens, the model was trained on"
                f" {spec.seq_length}"
            )
        return ids

    def _start(
        self, rows: int, size: int, source: tf.Tensor | None, copies: int
    ) -> tuple[Step, list[Cache]]:
        at = tf.constant(0)
        if source is None:
            return self.model.step, self.model.caches(rows * copies, size, at)
        caches, read = (
            repeated(self.model.caches(source, size, at), copies),
            tf.repeat(source, copies, axis=0),
        )
        return lambda y, at, current: self.model.step(read, y, at, current), caches

    def _generate(
        self,
        x: tf.Tensor,
        lengths: tf.Tensor,
        stops: tf.Tensor,
        number: tf.Tensor,
        source: tf.Tensor | None,
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Texts `x` int32 `[B, S]` filled from `lengths` to `stops`, and log-probabilities.

        `number`: int64 `[B]`, numbers of the texts; `source`: int32 `[B, R]`.
        """
        texts, pad, (rows, size) = Texts(x, lengths, stops), self.pad_id, x.shape
        if isinstance(self.how, Sampling):
            step, caches = self._start(rows, size, source, 1)
            found = sample(step, caches, texts, number, self.how, pad, self.ends, self.constraints)
            return found, None
        step, caches = self._start(rows, size, source, self.how.beam)
        search = transformers_search if self.how.rule == "transformers" else beam_search
        best = search(step, caches, texts, self.how, pad, self.ends, self.constraints)
        return best.x[:, 0], best.log_probability[:, 0]

    def _readable(self, source: Sequence[int], ids: Sequence[int]) -> str:
        """The text of generated ids, and of the source that they repair."""
        spec = self.spec
        if self.denoiser is not None and self.denoiser.config.denoise == "spans":
            ids = self.denoiser.repaired(source, ids)
        frame = {
            spec.prefix_id,
            spec.eol_id,
            spec.suffix_id,
            spec.pad_id,
            spec.y_prefix_id,
            *(self.ends if self.reads else ()),
        }
        return self.tokenizer.decode(
            [i for i in ids if i not in frame and i < spec.vocab_size - spec.sentinels]
        )

    def _batch(
        self,
        prompts: Sequence[list[int]],
        sources: Sequence[list[int]],
        first: int,
        max_tokens: int,
    ) -> Iterator[GeneratedText]:
        lengths = np.array([len(p) for p in prompts], np.int32)
        size = -(-int(lengths.max() + max_tokens) // _ROUND) * _ROUND
        size = min(size, max_length(self.spec) or size)
        number = np.arange(first, first + len(prompts), dtype=np.int64)
        x, source = (
            self._padded(prompts, size),
            self._padded(sources, self.spec.seq_length) if self.reads else None,
        )
        filled, scores = self._run(
            x, tf.constant(lengths), tf.constant(lengths + max_tokens), tf.constant(number), source
        )
        for i, (row, prompt) in enumerate(zip(filled.numpy(), prompts, strict=True)):
            new = self._new(row[len(prompt) : len(prompt) + max_tokens])
            text = (
                self._readable(sources[i], new)
                if self.reads
                else self._readable((), [*prompt, *new])
            )
            yield GeneratedText(
                text,
                new,
                bool(new) and new[-1] in self.ends,
                None if scores is None else float(scores[i]),
            )

    def _new(self, ids: np.ndarray) -> list[int]:
        """The new tokens up to the first end token."""
        found: list[int] = []
        for token in ids.tolist():
            if token == self.pad_id:
                continue
            found.append(token)
            if token in self.ends:
                break
        return found

    def _padded(self, texts: Sequence[list[int]], size: int) -> tf.Tensor:
        x = np.full((len(texts), size), self.spec.pad_id, np.int32)
        for row, ids in zip(x, texts, strict=True):
            row[: len(ids)] = ids
        return tf.constant(x)

    def __call__(self, texts: Sequence[str], max_tokens: int) -> Iterator[GeneratedText]:
        """For each text its result, in order. Raises `UsageError` as `framed` and `source`."""
        if max_tokens < 1:
            raise UsageError(f"--max_tokens {max_tokens}: must be at least 1")
        prompts = [self.framed(text, max_tokens) for text in texts]
        sources = [self.source(text) if self.reads else [] for text in texts]
        for first in range(0, len(prompts), _ROWS):
            yield from self._batch(
                prompts[first : first + _ROWS], sources[first : first + _ROWS], first, max_tokens
            )
