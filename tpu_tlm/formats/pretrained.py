"""A trained model as the formats hand it round: values, spec, tokenizer, and what else its files held."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec


@dataclass(frozen=True)
class PretrainedModel:
    """A trained model. `source`: the checkpoint or file it was read from; `fingerprint`: of the tokenizer it was trained with.

    `extras`: trained arrays that our model has no part for (a pooler, BERT's next-sentence head), by a path of ours, so that they can be
    written again. `unused`: names in the source that were not read. `carried`: files of a tokenizer that is none of our kinds.
    `hashes`: file -> SHA-256 of what was read. `notes`: what a user should know of the reading.
    """

    values: dict[str, np.ndarray]
    spec: ModelSpec
    source: str
    fingerprint: str | None = None
    tokenizer_dir: str | None = None
    own_tokenizer: Tokenizer | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    carried: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def model(self, *, precision: str = "float32") -> keras.Model:
        """The Keras model with these values. Raises `TlmError` when they do not fit the spec."""
        model = build_model(self.spec, precision=precision)
        assign(model, self.values, self.source)
        return model

    def tokenizer(self, directory: str | None = None) -> Tokenizer:
        """The tokenizer in `directory`, or the one of the model. Raises `UsageError` when there is none or it is another one."""
        if directory is None and self.tokenizer_dir is None and self.own_tokenizer is None:
            kind = (
                "its tokenizer is of a kind that is not covered"
                if self.carried
                else "no tokenizer lies beside it"
            )
            raise UsageError(f"{self.source}: {kind}; give a directory with --tokenizer")
        if directory is None and self.own_tokenizer is not None:
            tokenizer, where = self.own_tokenizer, self.source
        else:
            where = directory or self.tokenizer_dir or ""
            tokenizer = load_tokenizer(where)
        if self.fingerprint and tokenizer.fingerprint() != self.fingerprint:
            raise UsageError(f"{where}: is not the tokenizer that {self.source} was trained with")
        expected = self.spec.vocab_size - self.spec.sentinels
        if len(tokenizer.tokens) != expected:
            raise UsageError(
                f"{where}: has {len(tokenizer.tokens)} tokens, {self.source} was trained with {expected}"
            )
        return tokenizer

    def checked(self) -> PretrainedModel:
        """Itself, when the values have the shapes of the spec's model; raises `TlmError` otherwise."""
        check_shapes(named_variables(build_model(self.spec)), self.values, self.source)
        return self

    def replaced(self, **changes: object) -> PretrainedModel:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def check_shapes(
    variables: Mapping[str, keras.Variable], values: Mapping[str, np.ndarray], source: str
) -> None:
    """Raise `TlmError` naming a variable that is missing, is left over or has another shape than the model's."""
    if missing := sorted(set(variables) ^ set(values)):
        raise TlmError(f"{source}: variable {missing[0]!r} is not in both the file and the model")
    for path, variable in variables.items():
        if tuple(values[path].shape) != tuple(variable.shape):
            raise TlmError(
                f"{source}: {path!r} has shape {list(values[path].shape)}, the model needs {list(variable.shape)}"
            )


def assign(model: keras.Model, values: Mapping[str, np.ndarray], source: str) -> None:
    """Give a model these values by path. Raises `TlmError` naming a variable that is missing, is left over or has another shape."""
    variables = named_variables(model)
    check_shapes(variables, values, source)
    for path, variable in variables.items():
        variable.assign(values[path])
