"""Choosing responses: the candidates whose vectors are nearest to a text's, by a dual encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tpu_tlm import filesystem
from tpu_tlm.data.preprocessing.packing import Packing
from tpu_tlm.data.preprocessing.pairs import framed_texts
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec

# Texts that are encoded together; fewer are filled up, so that there is one compiled program.
_ROWS = 64


class Response(NamedTuple):
    """A candidate: its text, its line's number among the candidates from 0, and its cosine with the text, -1..1."""

    text: str
    number: int
    score: float


def read_candidates(path: str) -> list[str]:
    """The lines of a text file that are not blank. Raises `UsageError` when there is none."""
    lines = [
        line.strip() for line in filesystem.read_bytes(path).decode("utf-8", "replace").splitlines()
    ]
    if not any(lines):
        raise UsageError(f"--candidates {path}: holds no line of text")
    return [line for line in lines if line]


class Respond:
    """Ranks candidates for texts; their vectors are computed once, when it is made.

    Texts are framed as the training pairs were (`data.pairs.framed_texts`): turns of a history are joined by `<EOU>`; where it is not known
    what the pairs were, they count as histories and responses. Raises `UsageError` for a model that is no dual encoder.
    """

    def __init__(
        self, model: Any, spec: ModelSpec, tokenizer: Tokenizer, candidates: Sequence[str]
    ) -> None:
        if spec.kind != "dual":
            raise UsageError(
                f"respond needs a dual encoder (--objective dual-encoder), this model is of kind {spec.kind!r}"
            )
        self.spec, self.tokenizer, self.candidates = spec, tokenizer, list(candidates)
        self._x = Packing(spec.seq_length, spec.pad_id, spec.prefix_id, spec.suffix_id)
        self._y = Packing(
            spec.seq_length_y or spec.seq_length, spec.pad_id, spec.y_prefix_id, spec.y_suffix_id
        )
        self._query = tf.function(lambda x: model.encode_query(x), autograph=False)
        self._response = tf.function(lambda y: model.encode_response(y), autograph=False)
        texts = [text.encode() for text in self.candidates]
        self._vectors = self._unit(self._response, framed_texts(texts, tokenizer, self._y))

    @staticmethod
    def _unit(
        encode: Callable[[tf.Tensor], tf.Tensor], ids: NDArray[np.uint32]
    ) -> NDArray[np.float32]:
        """Unit vectors of framed texts, float32 `[n, d_out]`."""
        filled = np.concatenate([ids, np.repeat(ids[:1], -len(ids) % _ROWS, axis=0)]).astype(
            np.int32
        )
        rows = [
            encode(tf.constant(filled[at : at + _ROWS])).numpy()
            for at in range(0, len(filled), _ROWS)
        ]
        vectors = np.concatenate(rows)[: len(ids)]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def __call__(self, texts: Sequence[str], top_k: int) -> list[list[Response]]:
        """For each text its `top_k` candidates, nearest first; of equally near ones the earlier line."""
        if not texts:
            return []
        kind = self.spec.pairs or "ntp"
        queries = framed_texts(
            [t.encode() for t in texts],
            self.tokenizer,
            self._x,
            turn=self.spec.turn_id,
            first_of=kind,
        )
        cosines = self._unit(self._query, queries) @ self._vectors.T
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
        return [
            [Response(self.candidates[i], int(i), float(row[i])) for i in order]
            for row, order in zip(cosines, best, strict=True)
        ]
