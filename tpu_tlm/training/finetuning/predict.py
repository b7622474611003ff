"""Predictions of a fine-tuned model for new text."""

from __future__ import annotations

import json
import posixpath
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import OUT, TOKEN
from tpu_tlm.formats.load import load
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.positions.registry import max_length as longest
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.base import Task
from tpu_tlm.tasks.batches import bucket_lengths
from tpu_tlm.tasks.examples import Framer
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import HEAD, build_task_model, task_spec
from tpu_tlm.tasks.read import Row
from tpu_tlm.tasks.registry import TASKS
from tpu_tlm.training.finetuning.outputs import Outputs
from tpu_tlm.training.finetuning.prepare import FORMAT

# Texts that are read, predicted and given back together.
CHUNK = 1024


@dataclass(frozen=True)
class Prediction:
    """The prediction for one text.

    guess: label, list of labels (multilabel: those from probability 0.5 on; tag: one per word), or
    number. probability: of the guess, of each label (multilabel) or of each word's tag (tag); None
    for a number. scores: probability of every label; of tags not given.
    """

    text: str | list[str]
    guess: Any
    probability: Any = None
    scores: dict[str, float] = field(default_factory=dict)
    text2: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values without what is empty."""
        found: dict[str, Any] = {"text": self.text}
        if self.text2 is not None:
            found["text2"] = self.text2
        found["guess"] = self.guess
        if self.probability is not None:
            found["probability"] = self.probability
        return found | ({"scores": self.scores} if self.scores else {})


class TaskPredictor:
    """A model with a task's head, called with texts; made by `load_predictor`.

    values: of the encoder by path, and of the head as `task/...`. framer: makes ids of texts.
    source: what errors name. either: the model does not say whether it takes texts or pairs, and
    is given what it is called with.
    """

    def __init__(
        self,
        task: Task,
        head: HeadSpec,
        framer: Framer,
        values: Mapping[str, np.ndarray],
        source: str,
        *,
        batch: int = 64,
        either: bool = False,
    ) -> None:
        self.task, self.head, self.framer, self.source = task, head, framer, source
        self.either = either
        self.spec, self.tokenizer, self.pairs = framer.spec, framer.tokenizer, framer.pairs
        self.batch = batch
        self.model = build_task_model(self.spec, head)
        for path, variable in named_variables(self.model).items():
            variable.assign(values[path])

    def rows(self, texts: Iterable[Any]) -> list[Row]:
        """Rows of texts; of pairs `(text, text2)`; of tagging words, or a text split at spaces.

        Raises `UsageError` naming the number of a text that is empty, no pair, or a pair where
        the model takes single texts.
        """
        rows = []
        for number, given in enumerate(texts, 1):
            first, second = given, None
            if self.task.per_token:
                first = given.split() if isinstance(given, str) else given
            elif self.pairs is None:
                if not isinstance(given, str):
                    raise UsageError(f"text {number}: this model takes single texts, no pairs")
            elif not (self.either and isinstance(given, str)):
                if isinstance(given, str) or len(given) != 2:
                    raise UsageError(f"text {number}: this model takes pairs of texts")
                first, second = given
            empty = not first or (isinstance(first, str) and not first.strip())
            if empty or second == "":
                raise UsageError(f"text {number}: is empty; leave it out")
            rows.append(Row(first, second, None, number))
        return rows

    def logits(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """The head's outputs of each row: float32 `[outputs]`, or `[words, outputs]`."""
        examples = self.framer(rows)
        spec = self.spec
        lengths = bucket_lengths(
            examples.lengths(),
            4,
            self.framer.max_length,
            spec.seq_length if spec.config.mlp else None,
        )
        outputs = Outputs(
            self.model,
            lengths=lengths,
            limit=self.framer.max_length,
            pad_id=spec.pad_id,
            batch=self.batch,
        )
        return outputs.rows(examples)

    def __call__(self, texts: Iterable[Any]) -> list[Prediction]:
        """The prediction of each text (or pair, or sentence), in order."""
        rows = self.rows(texts)
        return [
            self._prediction(row, values)
            for row, values in zip(rows, self.logits(rows) if rows else [], strict=True)
        ]

    def stream(self, texts: Iterable[Any]) -> Iterator[Prediction]:
        """The same for any number of texts, of which a thousand are held at a time."""
        waiting: list[Any] = []
        for text in texts:
            waiting.append(text)
            if len(waiting) == CHUNK:
                yield from self(waiting)
                waiting = []
        yield from self(waiting)

    def _prediction(self, row: Row, values: np.ndarray) -> Prediction:
        task = self.task
        guess, probabilities = task.decode(values)
        if task.name == "regress":
            return Prediction(row.text, guess, text2=row.text2)
        if task.per_token:
            return Prediction(row.text, guess, [float(p) for p in probabilities.max(-1)])
        scores = {label: float(p) for label, p in zip(task.labels, probabilities, strict=True)}
        chosen = (
            {label: scores[label] for label in guess}
            if task.name == "multilabel"
            else float(probabilities.max())
        )
        return Prediction(row.text, guess, chosen, scores, row.text2)


def load_predictor(path: str, *, batch: int = 64) -> TaskPredictor:
    """The predictor of a run of `tpu_tlm.finetune`, or of a HuggingFace model with a
    classification head.

    Raises `UsageError` where the path has neither.
    """
    if not filesystem.is_directory(posixpath.join(path, "checkpoints")):
        names = filesystem.list_names(path) if filesystem.is_directory(path) else []
        seeds = [n for n in names if n.startswith("seed-")]
        if seeds:
            raise UsageError(f"{path}: has several runs; give one, such as {path}/{seeds[0]}")
        return _foreign(path, batch)
    found = RunCheckpoints(posixpath.join(path, "checkpoints")).newest()
    state = found.state.get("task") if found is not None else None
    if found is None or state is None:
        raise UsageError(f"{path}: is no run of tpu_tlm.finetune")
    if state["format"] != FORMAT:
        raise TlmError(f"{path}: was written by a newer version")
    scale = float(state["scale"][0]), float(state["scale"][1])
    framer = Framer(
        ModelSpec.from_json(json.dumps(found.state["spec"]), found.path),
        load_tokenizer(posixpath.join(path, "tokenizer")),
        max_length=state["max_length"],
        stride=state["stride"],
        pairs=state["pairs"],
        rules=state.get("rules", 1),
    )
    values = {name.removeprefix("model/"): value for name, value in found.load().items()}
    task = TASKS[state["task"]](state["labels"], None, scale)
    head = HeadSpec.from_dict(state["head"])
    return TaskPredictor(task, head, framer, values, path, batch=batch)


def _foreign(path: str, batch: int) -> TaskPredictor:
    """The predictor of a model with `PretrainedModel.classifier`.

    Raises `UsageError` where there is none, and for several numbers of one regression.
    """
    saved = load(path)
    given = saved.classifier
    if given is None:
        raise UsageError(f"{path}: is no run of tpu_tlm.finetune, and has no classification head")
    kind = {"multi_label_classification": "multilabel", "regression": "regress"}.get(
        given.problem_type or "", "regress" if len(given.labels) == 1 else "classify"
    )
    if given.task == TOKEN:
        kind = "tag"
    elif given.pairs and kind == "classify":
        kind = "pair"
    if kind == "regress" and len(given.labels) != 1:
        raise UsageError(
            f"{path}: is a regression of {len(given.labels)} numbers; predict takes models of one"
        )
    task = TASKS[kind]([] if kind == "regress" else given.labels)
    head = HeadSpec(
        task.outputs,
        tokens=task.per_token,
        pooling=given.pooling,
        pooler=given.dense is not None,
        activation=given.activation or "linear",
        norm=given.norm_eps if given.norm is not None else None,
        bias=f"{OUT}/bias" in saved.extras,
        pooler_bias=f"{given.dense}/bias" in saved.extras,
        norm_bias=f"{given.norm}/beta" in saved.extras,
    )
    values = dict(saved.values)
    for ours, theirs in (("out", OUT), ("pooler", given.dense), ("norm", given.norm)):
        for name in ("kernel", "bias", "gamma", "beta"):
            if f"{theirs}/{name}" in saved.extras:
                values[f"{HEAD}{ours}/{name}"] = saved.extras[f"{theirs}/{name}"]
    # A file of another program does not say whether it takes pairs.
    pairs = None if task.per_token or given.pairs is False else "joint"
    spec = task_spec(saved.spec, None, training=False)
    # As long as the model takes: another program does not cut at our own default.
    framer = Framer(spec, saved.tokenizer(), pairs=pairs, max_length=longest(spec))
    if saved.spec.kind == "seq2seq" and (fault := framer.end_fault()):
        raise UsageError(f"{path}: {fault}")
    either = pairs is not None and given.pairs is None
    return TaskPredictor(task, head, framer, values, path, batch=batch, either=either)


# What `predict` calls a task, and the tasks that it serves.
VERBS = {"classify": ("classify", "multilabel", "pair"), "tag": ("tag",), "score": ("regress",)}


def check_verb(verb: str, predictor: TaskPredictor) -> None:
    """Raise `UsageError` where a run is of another task than `predict VERB` asks for."""
    if predictor.task.name not in VERBS[verb]:
        right = next(v for v, tasks in VERBS.items() if predictor.task.name in tasks)
        raise UsageError(
            f"{predictor.source}: was trained with --task {predictor.task.name}; "
            f"use predict {right}"
        )


def predicted_lines(verb: str, path: str, texts: Iterable[str], *, as_json: bool) -> Iterator[str]:
    """The lines that `predict classify|tag|score` prints; the texts of a pair are separated by a
    tab."""
    predictor = load_predictor(path)
    check_verb(verb, predictor)

    def parted() -> Iterator[Any]:
        said = not predictor.either
        for number, text in enumerate(texts, 1):
            if predictor.pairs is None or (predictor.either and "\t" not in text):
                yield text
                continue
            if not said:
                said = True
                print(f"{path}: lines with a tab are read as pairs of texts", file=sys.stderr)
            parts = text.split("\t")
            if len(parts) != 2:
                raise UsageError(f"text {number}: needs two texts with a tab between them")
            yield parts

    for found in predictor.stream(parted()):
        if as_json:
            yield json.dumps(found.to_dict(), ensure_ascii=False)
        elif verb == "tag":
            yield " ".join(f"{w}/{t}" for w, t in zip(found.text, found.guess, strict=True))
        elif verb == "score":
            yield f"{found.guess:.4f}\t{found.text}"
        else:
            labels = found.guess if isinstance(found.guess, list) else [found.guess]
            shown = ", ".join(f"{label} {found.scores[label]:.1%}" for label in labels) or "(none)"
            text = found.text if found.text2 is None else f"{found.text}\t{found.text2}"
            yield f"{shown}\t{text}"
