"""Writing a SavedModel that takes raw strings: tokenizer, frame, padding and model in one graph."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from typing import Any

import tensorflow as tf

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError
from tpu_tlm.filesystem.tensorflow_files import translating
from tpu_tlm.formats.pretrained import PretrainedModel, assign
from tpu_tlm.formats.tensorflow.graph_tokenizers import GraphTokenizer
from tpu_tlm.formats.tensorflow.saved_model_read import EXTRAS, SPEC, TOKENIZER, VALUES
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

# Kinds of models whose input is one text.
_KINDS = ("mlm", "clm", "embed", "discriminator")


class Served(tf.Module):
    """A model behind strings.

    `serving_default`: string `[B]` -> `input_ids` int32 `[B, T]`, `hidden` float32 `[B, T, d]`,
    `logits` float32 `[B, T, V]` (`[B, T]` for a discriminator, none for an encoder), `pooled`
    `[B, d]` where the model has BERT's pooler. `features` gives the same without logits; `tokens`
    takes int32 ids `[B, T]`. Texts are framed as in training, cut and padded to T tokens.
    """

    def __init__(self, saved: PretrainedModel, length: int) -> None:
        super().__init__(name="served")
        # Padding is masked even if training attended to it: a short text then has the numbers
        # that it has without padding.
        spec = ModelSpec(
            **{**vars(saved.spec), "config": replace(saved.spec.config, mask_pad=True)}
        )
        self.spec, self.length = spec, length
        self.model = build_model(spec)
        assign(self.model, saved.values, saved.source)
        setattr(
            self,
            VALUES,
            {path: variable.value for path, variable in named_variables(self.model).items()},
        )
        setattr(
            self,
            EXTRAS,
            {
                path: tf.Variable(array, trainable=False, name=path)
                for path, array in saved.extras.items()
            },
        )
        self.tokenizer = GraphTokenizer(saved.tokenizer())
        frame = (
            (spec.prefix_id,),
            (
                spec.eol_id if spec.kind != "clm" else None,
                spec.suffix_id if spec.kind != "clm" else None,
            ),
        )
        self.before, self.after = ([i for i in ids if i is not None] for ids in frame)

    def framed(self, texts: tf.Tensor) -> tf.Tensor:
        """Ids int32 `[B, T]` of strings `[B]`."""
        room = self.length - len(self.before) - len(self.after)
        ids = self.tokenizer(texts)[:, :room]
        rows = tf.shape(texts)[0]
        ends = [
            tf.tile(tf.constant([end], tf.int32), [rows, 1])
            for end in (self.before, self.after)
            if end
        ]
        parts = [*ends[: bool(self.before)], ids, *ends[bool(self.before) :]]
        return tf.concat(parts, axis=1).to_tensor(self.spec.pad_id, shape=[None, self.length])

    def run(self, ids: tf.Tensor, *, logits: bool) -> dict[str, tf.Tensor]:
        """The outputs by name, of ids int32 `[B, T]`."""
        ids = tf.ensure_shape(ids, [None, self.length])
        hidden = self.model.encode(ids)
        found = {"input_ids": ids, "hidden": tf.cast(hidden, tf.float32)}
        extras = getattr(self, EXTRAS)
        if "pooler/kernel" in extras:
            found["pooled"] = tf.tanh(
                tf.matmul(found["hidden"][:, 0], extras["pooler/kernel"]) + extras["pooler/bias"]
            )
        if logits and self.spec.kind == "discriminator":
            found["logits"] = self.model.head(hidden)
        elif logits and self.spec.kind != "embed":
            found["logits"] = self.model.head(hidden, self.model.embeddings.table)[
                ..., : self.spec.vocab_size
            ]
        return found

    def signatures(self) -> dict[str, Any]:
        """The traced functions by name."""
        text = tf.TensorSpec([None], tf.string, name="text")
        ids = tf.TensorSpec([None, self.length], tf.int32, name="input_ids")

        def traced(function: Any, given: tf.TensorSpec) -> Any:
            return tf.function(function, autograph=False).get_concrete_function(given)

        return {
            "serving_default": traced(lambda text: self.run(self.framed(text), logits=True), text),
            "features": traced(lambda text: self.run(self.framed(text), logits=False), text),
            "tokens": traced(lambda input_ids: self.run(input_ids, logits=True), ids),
        }


def write_saved_model(
    saved: PretrainedModel, directory: str, length: int | None = None
) -> tuple[dict[str, bytes], list[str]]:
    """Write the SavedModel into a directory; gives its other files by name, and notes.

    `length`: tokens of a text; None for the longest of the training. Raises `UsageError` for a
    model of a kind that takes no single text, without a tokenizer, or with too short a length.
    """
    if saved.spec.kind not in _KINDS:
        raise UsageError(
            f"{saved.source}: a model of kind {saved.spec.kind!r} takes no single text and cannot "
            "be served"
        )
    longest = saved.spec.seq_length
    if length is not None and not 4 <= length <= longest:
        raise UsageError(
            f"--length {length}: must be between 4 and the {longest} tokens of the model"
        )
    served = Served(saved, length or longest)
    with filesystem.naming(directory), translating():
        tf.saved_model.save(served, directory, signatures=served.signatures())
    found = {
        SPEC: (
            json.dumps(
                {
                    "spec": json.loads(saved.spec.to_json()),
                    "length": served.length,
                    "family": saved.family,
                    "generation": saved.generation,
                    "classifier": json.loads(saved.classifier.to_json())
                    if saved.classifier is not None
                    else None,
                }
            )
            + "\n"
        ).encode()
    }
    with tempfile.TemporaryDirectory() as temporary:
        saved.tokenizer().save(temporary)
        for name in filesystem.list_names(temporary):
            found[f"{TOKENIZER}/{name}"] = filesystem.read_bytes(os.path.join(temporary, name))
    notes = [f"texts are cut and padded to {served.length} tokens (--length)"]
    if saved.tokenizer().kind == "wordpiece":
        notes.append(
            "a program that loads it must import tensorflow_text (TensorFlow Serving has it built "
            "in)"
        )
    return found, notes
