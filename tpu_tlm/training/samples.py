"""Guesses for a few tokens of the validation data at every save: what a model learns, to read."""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.errors import TlmError
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training.callbacks import Callback, RunStart, SaveReport

if TYPE_CHECKING:
    import keras

NAME = "samples.jsonl"
# Tokens of context that are shown on each side, guesses per token, saves that are kept.
_CONTEXT, _GUESSES, _KEPT = 12, 3, 200
_LARGEST = 16 << 20


@dataclass(frozen=True)
class Question:
    """A token to guess. ids: int32 `[T]`, as the model gets them; at: the position whose logits
    are read; gold: the token's text; text: the sentence with the place marked.
    """

    ids: np.ndarray
    at: int
    gold: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One question and its most probable answers with their probabilities."""

    text: str
    gold: str
    guesses: tuple[tuple[str, float], ...]


def questions(
    dataset: Dataset, tokenizer: Tokenizer, spec: ModelSpec, count: int
) -> list[Question]:
    """One question from each of the first `count` examples of a dataset that has a place for one.

    Masked models: a token in the middle, a whole word where words are marked. Causal models: the
    token that follows. Other kinds of model have none.
    """
    if spec.kind not in ("mlm", "clm"):
        return []
    rows = min(4 * count, dataset.num_samples)
    from tpu_tlm.data.dataset.stream import in_order  # needs TensorFlow, which the report does not

    first = next(iter(in_order(dataset, rows).take(1).as_numpy_iterator()))
    found: list[Question] = []
    for row in range(rows):
        starts = np.unpackbits(first["w"][row], bitorder="little") if "w" in first else None
        made = _question(first["x"][row], starts, tokenizer, spec.kind)
        if made is not None:
            found.append(made)
        if len(found) == count:
            break
    return found


def _question(
    ids: np.ndarray, starts: np.ndarray | None, tokenizer: Tokenizer, kind: str
) -> Question | None:
    ids = np.asarray(ids, np.int32)
    maskable = ~np.isin(ids, (*tokenizer.special_ids, tokenizer.unk_id, tokenizer.pad_id))
    words = np.array([tokenizer.decode([int(i)]).strip().isalpha() for i in ids]) & maskable
    if starts is not None:
        whole = starts[: len(ids)].astype(bool)
        words &= whole & np.append(whole[1:], True)
    places = np.flatnonzero(words[1:]) + 1
    if not len(places):
        places = np.flatnonzero(maskable[1:]) + 1
    if not len(places):
        return None
    at = int(places[len(places) // 2])
    gold = tokenizer.decode([int(ids[at])]).strip()
    before = tokenizer.decode(ids[max(0, at - _CONTEXT) : at].tolist()).strip()
    if kind == "clm":
        return Question(ids, at - 1, gold, f"{before} ___")
    after = tokenizer.decode([int(i) for i in ids[at + 1 : at + 1 + _CONTEXT]]).strip()
    masked = ids.copy()
    masked[at] = tokenizer.mask_id
    return Question(masked, at, gold, f"{before} {tokenizer.tokens[tokenizer.mask_id]} {after}")


def answers(
    model: keras.Model, asked: Sequence[Question], spec: ModelSpec, tokenizer: Tokenizer
) -> list[Sample]:
    """The most probable tokens for each question, by one pass over all of them."""
    import tensorflow as tf

    with tf.device("/CPU:0"):
        logits = model(
            tf.constant(np.stack([question.ids for question in asked])),
            positions=tf.constant([[question.at] for question in asked], tf.int32),
        )
    # Rows beyond the tokenizer's tokens only pad the table.
    table = np.asarray(logits)[:, 0, : len(tokenizer.tokens)].astype(np.float64)
    table -= table.max(-1, keepdims=True)
    probabilities = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    found = []
    for question, row in zip(asked, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:_GUESSES]
        guesses = tuple((tokenizer.decode([int(i)]).strip(), float(row[i])) for i in best)
        found.append(Sample(question.text, question.gold, guesses))
    return found


class GuessSamples(Callback):
    """Answers the same questions at every save, and writes them to `samples.jsonl`.

    told: functions that get the step and the samples. What cannot be written is a warning. The
    values are those that were saved: no copy of the model is made.
    """

    background = True

    def __init__(
        self,
        run_dir: str,
        asked: Sequence[Question],
        spec: ModelSpec,
        tokenizer: Tokenizer,
        told: Sequence[Callable[[int, list[Sample]], None]] = (),
    ) -> None:
        self.path = posixpath.join(run_dir, NAME)
        self._asked, self._spec, self._tokenizer, self._told = asked, spec, tokenizer, told
        self._lines: list[str] = []
        self._model: keras.Model | None = None

    def on_start(self, start: RunStart) -> None:
        self._lines = [
            json.dumps(record) for record in read_samples(self.path) if record["step"] <= start.step
        ]

    def on_save(self, report: SaveReport) -> None:
        if not self._asked:
            return
        from tpu_tlm.models.layers.variables import substituted, unallocated
        from tpu_tlm.models.registry import build_model

        if self._model is None:
            with unallocated():
                self._model = build_model(self._spec)
        with substituted(self._model, report.tensors):
            found = answers(self._model, self._asked, self._spec, self._tokenizer)
        record = {
            "step": report.step,
            "samples": [
                {"text": s.text, "gold": s.gold, "guesses": [list(g) for g in s.guesses]}
                for s in found
            ],
        }
        self._lines = [*self._lines, json.dumps(record)][-_KEPT:]
        try:
            filesystem.write_bytes(self.path, ("\n".join(self._lines) + "\n").encode())
            for tell in self._told:
                tell(report.step, found)
        except (OSError, TlmError) as error:
            print(f"warning: {self.path}: cannot be written ({error})", file=sys.stderr)


def read_samples(path: str) -> list[dict[str, Any]]:
    """The records of a samples.jsonl in order: `step` and `samples`; what is none is left out."""
    if not filesystem.exists(path) or filesystem.file_size(path) > _LARGEST:
        return []
    found: list[dict[str, Any]] = []
    for line in filesystem.read_bytes(path).decode("utf-8", "replace").split("\n"):
        try:
            record = json.loads(line)
            samples = [_checked(one) for one in record["samples"]]
            step = record["step"]
            if isinstance(step, int) and not isinstance(step, bool):
                found.append({"step": step, "samples": samples})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _checked(one: Mapping[str, Any]) -> dict[str, Any]:
    guesses = [[str(token), float(share)] for token, share in one["guesses"]]
    return {"text": str(one["text"]), "gold": str(one["gold"]), "guesses": guesses}


def as_markdown(samples: Sequence[Sample]) -> str:
    """A Markdown table of samples, as TensorBoard shows it."""
    lines = ["| text | token | guesses |", "|---|---|---|"]
    for sample in samples:
        told = ", ".join(f"{token} {share:.2f}" for token, share in sample.guesses)
        cells = (text.replace("|", "\\|") for text in (sample.text, sample.gold, told))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
