"""The interface of a HuggingFace model family: its config.json, its arrays, its heads."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import DENSE, OUT, SEQUENCE, TOKEN, Classifier
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays, Pair, linear
from tpu_tlm.models.spec import ModelSpec

# Sizes beyond these are refused before anything is built; no published model comes near.
MAX_LAYERS, MAX_WIDTH, MAX_FFN = 1_000, 65_536, 1_048_576
MAX_VOCAB, MAX_POSITIONS, MAX_TYPES = 16_777_216, 4_194_304, 65_536

# config.json's name of an activation -> ours.
ACTIVATIONS: dict[str, Any] = {
    "gelu": "gelu-exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_python": "gelu-exact",
    "relu": "relu",
}
THEIR_ACTIVATION = {"gelu-exact": "gelu", "gelu": "gelu_new", "relu": "relu"}


class Family(abc.ABC):
    """One model family. An instance of a subclass in `families.FAMILIES` registers it.

    Array names are HuggingFace's without the family's prefix (`canonical` names), so that a file
    with and without a head is described once.
    """

    # `model_type` of config.json.
    name: str
    # Start of the names of `transformers`' classes, such as `Bert`.
    class_name: str
    # Prefix of the encoder's arrays in a file with a head.
    prefix: str
    # Starts of the canonical names of the encoder's arrays, which get the prefix.
    body: tuple[str, ...]
    # Kind of our model -> end of the class name.
    suffixes: Mapping[str, str]
    # Starts of the canonical names of the token head's arrays, which a classifier's file has not.
    token_head: tuple[str, ...] = ()
    # Whether config.json names the tokens around a text as bos_token_id and eos_token_id.
    bos_is_prefix = False

    # Configuration

    @abc.abstractmethod
    def read_config(self, config: ConfigReader, kind: str) -> ModelSpec:
        """The spec of the model that a config.json describes, for the kind that the arrays show.

        Raises `UsageError` naming the file and a setting that is not supported.
        """

    @abc.abstractmethod
    def write_config(self, spec: ModelSpec) -> dict[str, Any]:
        """The settings of config.json that describe the spec; `read_config` reads them back."""

    # Arrays

    @abc.abstractmethod
    def pairs(self, spec: ModelSpec) -> Iterator[Pair]:
        """Every variable of the model, by canonical names."""

    @abc.abstractmethod
    def kind_of(self, arrays: Mapping[str, np.ndarray], config: ConfigReader) -> str:
        """The kind of model, by the head that the file has."""

    def repeats(self, spec: ModelSpec) -> dict[str, str]:
        """Arrays that repeat another one and need not be read: name -> the one that counts."""
        return {}

    def optional(self, spec: ModelSpec) -> list[list[Pair]]:
        """Parts that our model has not, kept as extras where a file has them: a pooler."""
        return []

    def from_file(self, arrays: Arrays, config: ConfigReader) -> tuple[Arrays, Arrays]:
        """Arrays as the pairs expect them, and extras that a pair cannot describe."""
        return arrays, {}

    def to_file(self, arrays: Arrays, spec: ModelSpec, extras: Mapping[str, np.ndarray]) -> Arrays:
        """The inverse of `from_file`; raises `UsageError` when the extras do not fit the spec."""
        return arrays

    def complete(
        self, spec: ModelSpec, values: Mapping[str, np.ndarray], where: str
    ) -> tuple[ModelSpec, Arrays, list[str]]:
        """The same model with what the family always has, and what was added, in words."""
        return spec, dict(values), []

    def own_extras(self, spec: ModelSpec) -> tuple[str, ...]:
        """Extras that `to_file` writes."""
        return ()

    # Heads

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        """How the family's classification head computes; None where it has none for the task.

        `labels` stay empty: the reader fills them in.
        """
        return None

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        """The arrays of the classification head, without those of a pooler."""
        yield from linear(OUT, "classifier")

    def classifier_config(
        self, classifier: Classifier, extras: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Settings of config.json that describe the classification head."""
        return {}

    def prefix_in(self, model_class: str) -> str:
        """What the encoder's arrays begin with in a file of one of `transformers`' classes."""
        return "" if model_class == self.class_name + "Model" else self.prefix

    def class_of(self, spec: ModelSpec, task: str | None, extras: Mapping[str, Any]) -> str:
        """The name of `transformers`' class for such a model."""
        if task is not None:
            return (
                self.class_name
                + {SEQUENCE: "ForSequenceClassification", TOKEN: "ForTokenClassification"}[task]
            )
        return self.class_name + self.suffixes[spec.kind]

    def notes(self, model_class: str, extras: Mapping[str, Any]) -> list[str]:
        """What a user of the written directory should know."""
        return []


def divided(config: ConfigReader, width: int, heads: int) -> None:
    """Raise `UsageError` when the heads do not share the width evenly."""
    if width % heads:
        raise UsageError(
            f"{config.where}: hidden size {width} cannot be divided among {heads} heads"
        )


def named_class(config: ConfigReader) -> str:
    """The first of `transformers`' classes that config.json names, or nothing."""
    named = config.values.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return first if isinstance(first, str) else ""


def named_head(config: ConfigReader, ends: tuple[str, ...], key: str) -> None:
    """Raise `TlmError` when config.json names a class with a head whose array is missing."""
    first = named_class(config)
    if first.endswith(ends):
        raise TlmError(f"{config.where}: names {first}, but there is no array {key!r}")


def dense_classifier(key: str) -> Iterator[Pair]:
    """A head `KEY.dense`, `KEY.out_proj`, as in RoBERTa, ELECTRA and BART."""
    yield from linear(DENSE, f"{key}.dense")
    yield from linear(OUT, f"{key}.out_proj")


def tied_tokens(config: ConfigReader) -> bool:
    """Whether the token table gives the logits too: always where there are none, in a classifier
    of an encoder-decoder."""
    tied = config.flag("tie_word_embeddings", True)
    return tied or named_class(config).endswith("ForSequenceClassification")
