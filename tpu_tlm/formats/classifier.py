"""A classification head that was trained with another program, beside the model it reads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tpu_tlm.config import strict
from tpu_tlm.errors import TlmError

SEQUENCE, TOKEN = "sequence-classification", "token-classification"
# Where the arrays stand in `PretrainedModel.extras`.
OUT, DENSE, NORM = "classifier", "classifier/dense", "classifier/norm"


@dataclass(frozen=True)
class Classifier:
    """How `PretrainedModel.extras` turn hidden states `[B, T, d]` into class logits.

    The hidden states are the encoder's; for sequence-classification with an encoder-decoder those
    of the decoder (`Seq2SeqModel.decode_source`), and texts end with its end token.

    y = pooled hidden state (`pooling`: cls, mean, last) for `task` sequence-classification, every
    hidden state for token-classification; y = norm(activation(y @ dense)) where there is a dense
    layer (its path in the extras) and a norm; logits = y @ extras["classifier/kernel"] + bias.
    `labels`: names by class id; `problem_type`: HuggingFace's, or None; `pairs`: whether it was
    trained on pairs of texts, None where its file does not say it.
    """

    task: str
    labels: tuple[str, ...]
    pooling: str = "cls"
    dense: str | None = None
    activation: str | None = None
    norm: str | None = None
    norm_eps: float = 1e-5
    problem_type: str | None = None
    pairs: bool | None = None

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Classifier:
        """The description in a JSON text. Raises `TlmError` naming `where` when it is damaged."""
        try:
            values = strict.mapping(
                strict.read_json(text, where, error=TlmError), where, error=TlmError
            )
            return cls(**{**values, "labels": tuple(str(label) for label in values["labels"])})
        except (TypeError, KeyError) as error:
            raise TlmError(f"{where}: the classifier cannot be read ({error})") from None

    def logits(
        self, extras: Mapping[str, np.ndarray], hidden: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Class logits float32 `[B, labels]` (tokens: `[B, T, labels]`).

        `hidden`: float32 `[B, T, d]`; `mask`: `[B, T]`, 1 at tokens, 0 at padding.
        """
        y = hidden
        if self.task == SEQUENCE:
            lengths = mask.sum(1)
            if self.pooling == "mean":
                y = (hidden * mask[..., None]).sum(1) / np.maximum(lengths, 1)[:, None]
            elif self.pooling == "last":
                y = hidden[np.arange(len(hidden)), np.maximum(lengths, 1) - 1]
            else:
                y = hidden[:, 0]
        if self.dense is not None:
            y = y @ extras[f"{self.dense}/kernel"]
            if f"{self.dense}/bias" in extras:
                y = y + extras[f"{self.dense}/bias"]
            if self.activation is not None:
                y = _activate(y, self.activation)
        if self.norm is not None:
            y = y - y.mean(-1, keepdims=True)
            y = y / np.sqrt((y**2).mean(-1, keepdims=True) + self.norm_eps)
            y = y * extras[f"{self.norm}/gamma"]
            if f"{self.norm}/beta" in extras:
                y = y + extras[f"{self.norm}/beta"]
        y = y @ extras[f"{OUT}/kernel"]
        return y + extras[f"{OUT}/bias"] if f"{OUT}/bias" in extras else y


def _activate(y: np.ndarray, name: str) -> np.ndarray:
    if name == "tanh":
        return np.tanh(y)
    if name == "relu":
        return np.maximum(y, 0)
    from tpu_tlm.models.layers.core import ACTIVATIONS

    return np.asarray(ACTIVATIONS[name](y))
