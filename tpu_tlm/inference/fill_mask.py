"""Filling masks: the most probable tokens at the masked positions of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.devices.quiet_logs import quiet_logs
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.electra_parts import GENERATOR, part_of
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec


class Guess(NamedTuple):
    """One candidate for a mask. `sentence`: the text with this mask filled and the others kept."""

    token: str
    probability: float
    id: int
    sentence: str


def fill_mask(
    model: keras.Model, spec: ModelSpec, tokenizer: Tokenizer, texts: Iterable[str], top_k: int = 5
) -> list[list[list[Guess]]]:
    """For each text, for each of its masks in order, the `top_k` candidates, most probable first.

    Raises `UsageError` as `FillMask`.
    """
    fill = FillMask(model, spec, tokenizer)
    return [fill(text, top_k) for text in texts]


class FillMask:
    """Candidates for the masks of texts, framed as the model's training examples were.

    Raises `UsageError` for a model of another kind than mlm.
    """

    def __init__(self, model: keras.Model, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        if spec.kind != "mlm":
            raise UsageError(
                "fill-mask needs a masked language model (--objective mlm), this one is of kind"
                f" {spec.kind!r}"
            )
        quiet_logs()  # of retracing: every length is a program of its own
        self.spec, self.tokenizer = spec, tokenizer
        # Traced for each length: the layers need static shapes, which `reduce_retracing` removes
        # at the second text.
        self._logits = tf.function(lambda x: model(x), autograph=False)

    @classmethod
    def of(cls, saved: PretrainedModel, tokenizer: str | None = None) -> FillMask:
        """From a saved model, of an ELECTRA its generator. tokenizer: directory of another one."""
        if saved.spec.kind == "electra":
            saved = part_of(saved, GENERATOR)
        return cls(saved.model(), saved.spec, saved.tokenizer(tokenizer))

    def framed(self, text: str) -> list[int]:
        """Ids of a text with the prefix, end of line and suffix of the training examples.

        Raises `UsageError` when the text has no mask or is longer than a training example.
        """
        spec = self.spec
        ids = [i for i in (spec.prefix_id,) if i is not None]
        ids += self.tokenizer.encode(text)
        ids += [i for i in (spec.eol_id, spec.suffix_id) if i is not None]
        if self.tokenizer.mask_id not in ids:
            raise UsageError(
                f"text {text!r} has no {self.tokenizer.tokens[self.tokenizer.mask_id]}"
            )
        if len(ids) > spec.seq_length:
            raise UsageError(
                f"text {text[:40]!r}... has {len(ids)} tokens, the model was trained on"
                f" {spec.seq_length}"
            )
        return ids

    def __call__(self, text: str, top_k: int = 5) -> list[list[Guess]]:
        """For each mask, in order, its `top_k` candidates, most probable first."""
        if top_k < 1:
            raise UsageError(f"--top_k {top_k}: must be at least 1")
        ids = self.framed(text)
        logits = (
            self._logits(tf.constant([ids], tf.int32))[0, :, : self.spec.vocab_size]
            .numpy()
            .astype(np.float64)
        )
        return [
            self._guesses(ids, at, logits[at], top_k)
            for at, token in enumerate(ids)
            if token == self.tokenizer.mask_id
        ]

    def _guesses(self, ids: list[int], at: int, logits: np.ndarray, top_k: int) -> list[Guess]:
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        # Rows beyond the tokenizer's tokens only pad the table.
        real = probabilities[: len(self.tokenizer.tokens)]
        best = np.argsort(-real, kind="stable")[:top_k]
        frame = {self.spec.prefix_id, self.spec.eol_id, self.spec.suffix_id}
        guesses = []
        for token in best:
            filled = [
                int(token) if i == at else t for i, t in enumerate(ids) if i == at or t not in frame
            ]
            guesses.append(
                Guess(
                    self.tokenizer.tokens[token],
                    float(probabilities[token]),
                    int(token),
                    self.tokenizer.decode(filled),
                )
            )
        return guesses
