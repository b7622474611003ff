"""A block of a MEAD user's YAML, read option by option, and what becomes of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm.config import strict
from tpu_tlm.config.suggest import did_you_mean
from tpu_tlm.errors import UsageError

# Why an option is not applied; of all others it is said that they have no meaning here.
WHY = {
    "warmup_steps": "is not applied: --warmup is a share of the steps, 0.1 of them",
    "crf": "is not applied: the tag of each word is decided by itself",
    "constrain_decode": "is not applied: the tag of each word is decided by itself",
    "span_type": "is not applied: the scheme is read off the tags",
    "dataset": "is not looked up: give --train, --valid and --test",
    "loader": "is not applied: name columns with --text, --text2 and --label",
    "mom": "is not applied: --optimizer sgd has its own momentum",
    "skip_restore_embeddings": "is not applied: everything is read from the model",
    "reduction_d_k": "is not applied: the heads of --pooling 2ha have 64 units",
    "transform_fn": "is not applied: the vocabulary shows whether texts are lower-cased",
    "transform": "is not applied: the vocabulary shows whether texts are lower-cased",
    "vocab_file": "is not applied: the vocabulary is the tokenizer's",
    "hsz": "is not applied: only a model of type fine-tune has hidden layers",
}


@dataclass
class MeadOptions:
    """Options by our names, MEAD's hyper-parameters of the model, and lines for the user."""

    values: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Block:
    """A mapping of the file, taken apart option by option; what is left is noted.

    name: its path in the file, "" for the top. An option that is null counts as not given.
    """

    def __init__(self, value: Any, name: str, path: str, found: MeadOptions) -> None:
        self.name, self.path, self.found = name, path, found
        where = f"{path}: {name}" if name else path
        given = {} if value is None else strict.mapping(value, where)
        self.left = {key: one for key, one in given.items() if one is not None}

    def __contains__(self, key: str) -> bool:
        return key in self.left

    def where(self, key: str) -> str:
        """File and key, for errors."""
        return f"{self.path}: {self.name}.{key}" if self.name else f"{self.path}: {key}"

    def note(self, key: str, value: Any, why: str = "has no meaning here") -> None:
        """A line for the user about an option."""
        shown = json.dumps(value, default=str)
        self.found.notes.append(f"{self.where(key)} ({shown}) {why}")

    def block(self, key: str) -> Block:
        """A mapping inside, empty where it is not given."""
        name = f"{self.name}.{key}" if self.name else key
        return Block(self.left.pop(key, None), name, self.path, self.found)

    def raw(self, key: str) -> Any:
        """The value, whatever it is; None where it is not given."""
        return self.left.pop(key, None)

    def text(self, key: str) -> str | None:
        """The value, which must be text."""
        value = self.raw(key)
        if value is not None and not isinstance(value, str):
            raise UsageError(f"{self.where(key)}: must be text, not {strict.kind_of(value)}")
        return value

    def flag(self, key: str) -> bool | None:
        """The value, which must be true or false."""
        value = self.raw(key)
        if value is not None and not isinstance(value, bool):
            raise UsageError(
                f"{self.where(key)}: must be true or false, not {strict.kind_of(value)}"
            )
        return value

    def number(self, key: str, kind: type) -> Any:
        """The value, which must be a number (whole for `int`); YAML reads 1e-5 as text."""
        value = self.raw(key)
        if value is None:
            return None
        try:
            found = math.nan if isinstance(value, bool | list | dict) else float(value)
        except (ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found) or (kind is int and found != int(found)):
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{self.where(key)}: must be {what}, not {strict.kind_of(value)}")
        return int(found) if kind is int else value

    def choice(self, key: str, known: Iterable[str], default: str | None = None) -> str | None:
        """The value, which must be one of `known`."""
        names, value = list(known), self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in names:
            near = did_you_mean(value, names) if isinstance(value, str) else ""
            shown = strict.kind_of(value)
            raise UsageError(f"{self.where(key)}: {shown}: known are {', '.join(names)}{near}")
        return value

    def rest(self) -> None:
        """Note every option that is left; one that says no loses nothing."""
        for key, value in self.left.items():
            if key not in WHY:
                self.note(key, value)
            elif value is not False and value != 0:
                self.note(key, value, WHY[key])
        self.left = {}
