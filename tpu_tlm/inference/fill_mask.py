"""Filling masks: the most probable tokens at the masked places of a text."""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec


class Guess(NamedTuple):
    """One candidate for a mask. `sentence`: the text with this mask filled and the others left."""

    token: str
    probability: float
    id: int
    sentence: str


class FillMask:
    """Guesses for the masks of texts, framed as the model's training examples were."""

    def __init__(self, model: keras.Model, spec: ModelSpec, tokenizer: Tokenizer) -> None:
        if spec.kind != "mlm":
            raise UsageError(
                f"fill-mask needs a masked language model (--objective mlm), this one is of kind {spec.kind!r}"
            )
        self.spec, self.tokenizer = spec, tokenizer
        # Traced for each length: the layers want static shapes, which `reduce_retracing` would take away at the second text.
        self._logits = tf.function(lambda x: model(x), autograph=False)

    def framed(self, text: str) -> list[int]:
        """Ids of a text between the prefix, the end of its line and the suffix of the training examples.

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
                f"text {text[:40]!r}... is {len(ids)} tokens long, the model was trained on {spec.seq_length}"
            )
        return ids

    def __call__(self, text: str, top_k: int) -> list[list[Guess]]:
        """For each mask, in order, its `top_k` guesses, most probable first."""
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
