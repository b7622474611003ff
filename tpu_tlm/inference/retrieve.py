"""Retrieval with a dual encoder: the candidates whose vectors are nearest to a text's."""

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
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.models.spec import ModelSpec

# Texts per batch; smaller batches are filled, so that there is one compiled program.
_ROWS = 64


class Response(NamedTuple):
    """A candidate: its text, its index among the candidates, and its cosine with the query."""

    text: str
    number: int
    score: float


def read_candidates(path: str) -> list[str]:
    """The lines of a text file that are not blank. Raises `UsageError` if there are none."""
    lines = [
        line.strip() for line in filesystem.read_bytes(path).decode("utf-8", "replace").splitlines()
    ]
    if not any(lines):
        raise UsageError(f"--candidates {path}: has no line of text")
    return [line for line in lines if line]


def rank(
    model: Any,
    spec: ModelSpec,
    tokenizer: Tokenizer,
    queries: Sequence[str],
    candidates: Sequence[str],
    top_k: int = 5,
) -> list[list[Response]]:
    """For each query its `top_k` candidates, nearest first. Raises `UsageError` as `Ranker`."""
    return Ranker(model, spec, tokenizer, candidates)(queries, top_k)


class Ranker:
    """Ranks fixed candidates for queries; the candidates' vectors are computed once.

    Texts are framed as the training pairs were (`framed_texts`): turns of a history are joined by
    `<EOU>`; pairs of an unknown kind are treated as histories and responses. Raises `UsageError`
    for a model that is not a dual encoder, and for a query without tokens.
    """

    def __init__(
        self, model: Any, spec: ModelSpec, tokenizer: Tokenizer, candidates: Sequence[str]
    ) -> None:
        if spec.kind != "dual":
            raise UsageError(
                "respond needs a dual encoder (--objective dual-encoder), this model is of kind"
                f" {spec.kind!r}"
            )
        if not candidates:
            raise UsageError("there are no candidates to rank")
        self.spec, self.tokenizer, self.candidates = spec, tokenizer, list(candidates)
        self._x = Packing(spec.seq_length, spec.pad_id, spec.prefix_id, spec.suffix_id)
        self._y = Packing(
            spec.seq_length_y or spec.seq_length, spec.pad_id, spec.y_prefix_id, spec.y_suffix_id
        )
        self._query = tf.function(lambda x: model.encode_query(x), autograph=False)
        self._response = tf.function(lambda y: model.encode_response(y), autograph=False)
        texts = [text.encode() for text in self.candidates]
        self._vectors = self._unit(self._response, framed_texts(texts, tokenizer, self._y))

    @classmethod
    def of(
        cls, saved: PretrainedModel, candidates: Sequence[str], tokenizer: str | None = None
    ) -> Ranker:
        """From a saved model. tokenizer: directory of another one than the model's."""
        return cls(saved.model(), saved.spec, saved.tokenizer(tokenizer), candidates)

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

    def __call__(
        self, texts: Sequence[str], top_k: int = 5, names: Sequence[str] = ()
    ) -> list[list[Response]]:
        """For each query its `top_k` candidates, nearest first, of equal ones the earlier first.

        names: what errors call the queries; by default "text 1" and so on.
        """
        if top_k < 1:
            raise UsageError(f"--top_k {top_k}: must be at least 1")
        if not texts:
            return []
        for number, text in enumerate(texts):
            # The vector of padding alone would be near to some candidate.
            if not self.tokenizer.encode(text):
                name = names[number] if names else f"text {number + 1}"
                raise UsageError(f"{name} ({text[:40]!r}) has no token to respond to; leave it out")
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
