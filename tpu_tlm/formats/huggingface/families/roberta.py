"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that start past the padding id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tpu_tlm.errors import UsageError
from tpu_tlm.formats.classifier import DENSE, SEQUENCE, Classifier
from tpu_tlm.formats.huggingface.families.bert import Bert
from tpu_tlm.formats.huggingface.families.family import dense_classifier
from tpu_tlm.formats.json_files import ConfigReader
from tpu_tlm.formats.mapping import Arrays, Pair, linear
from tpu_tlm.models.spec import ModelSpec

# Extra: the rows of the position table that no text reaches.
FIRST_POSITIONS = "positions/first"


class Roberta(Bert):
    """RoBERTa (arXiv 1907.11692) and the models with its code and other names."""

    prefix = "roberta."
    head = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder")
    head_activation: str | None = "gelu-exact"
    bos_is_prefix = True

    def __init__(self, name: str = "roberta", class_name: str = "Roberta") -> None:
        self.name, self.class_name = name, class_name

    def offset(self, config: ConfigReader | None, pad_id: int) -> int:
        return pad_id + 1

    def pad_of(self, config: ConfigReader, vocab: int) -> int:
        pad = config.token("pad_token_id", vocab, 1)
        if pad is None:
            config.fail("pad_token_id", f"{self.name} counts positions from it: an id is needed")
        return pad

    def from_file(self, arrays: Arrays, config: ConfigReader) -> tuple[Arrays, Arrays]:
        arrays, extras = super().from_file(arrays, config)
        key = f"{self.positions}.weight"
        offset = self.offset(
            config, self.pad_of(config, len(arrays.get(f"{self.words}.weight", ())))
        )
        if key in arrays and arrays[key].ndim == 2:
            extras[FIRST_POSITIONS] = np.array(arrays[key][:offset], np.float32)
            arrays[key] = arrays[key][offset:]
        return arrays, extras

    def to_file(self, arrays: Arrays, spec: ModelSpec, extras: Mapping[str, np.ndarray]) -> Arrays:
        arrays = super().to_file(arrays, spec, extras)
        key, count = f"{self.positions}.weight", self.offset(None, spec.pad_id)
        width = arrays[key].shape[1]
        first = extras.get(FIRST_POSITIONS, np.zeros((count, width), np.float32))
        if first.shape != (count, width):
            raise UsageError(
                f"padding id {spec.pad_id} needs {count} position rows before the first token, the "
                f"model has {len(first)}"
            )
        return {**arrays, key: np.concatenate([first, arrays[key]])}

    def own_extras(self, spec: ModelSpec) -> tuple[str, ...]:
        return (FIRST_POSITIONS,)

    def classifier(self, task: str, config: ConfigReader) -> Classifier | None:
        if task == SEQUENCE:
            return Classifier(task, (), dense=DENSE, activation="tanh")
        return Classifier(task, ())

    def classifier_pairs(self, task: str, config: ConfigReader) -> Iterator[Pair]:
        if task == SEQUENCE:
            yield from dense_classifier("classifier")
        else:
            yield from linear("classifier", "classifier")
