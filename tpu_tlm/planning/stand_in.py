"""Placeholders for data: a dataset and a tokenizer of given sizes without content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import tensorflow as tf

from tpu_tlm.config import Config
from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.tokenizers.base import Encoded, Tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.training.setup import Datasets, spec_of

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FORMAT = 1


class Placeholder(Tokenizer):
    """A vocabulary of a given size that cannot tokenize: BERT's five special tokens and numbers."""

    kind = "placeholder"

    def __init__(self, size: int) -> None:
        if size <= len(SPECIALS):
            raise UsageError(
                f"--vocab_size {size}: must be more than the {len(SPECIALS)} special tokens"
            )
        super().__init__([*SPECIALS, *(f"t{i}" for i in range(len(SPECIALS), size))], True, {}, ())
        self.pad_id, self.unk_id, self.special_ids = 0, 1, tuple(range(len(SPECIALS)))

    @property
    def cls_id(self) -> int:
        """2."""
        return 2

    @property
    def sep_id(self) -> int:
        """3."""
        return 3

    @property
    def mask_id(self) -> int:
        """4."""
        return 4

    def _none(self) -> NoReturn:
        raise UsageError("a placeholder vocabulary has a size only: it cannot tokenize")

    def encode_lines(self, lines: Sequence[bytes]) -> Encoded:
        """Raises `UsageError`, as the two below."""
        self._none()

    def encode(self, text: str) -> list[int]:
        """Raises `UsageError`."""
        self._none()

    def decode(self, ids: Iterable[int]) -> str:
        """Raises `UsageError`."""
        self._none()


def stand_in(vocab_size: int, lengths: Mapping[str, int]) -> Datasets:
    """A dataset of format 1 and a tokenizer without content.

    `lengths`: tokens per feature ("x", for pairs also "y").
    """
    tokenizer = Placeholder(vocab_size)
    metadata = {"prefix": "[CLS]", "suffix": "[SEP]", "tok_on_eol": "[SEP]"}
    train = Dataset(
        "", 0, lengths["x"], FORMAT, (), tokenizer.description(), metadata, dict(lengths)
    )
    return Datasets(train, None, tokenizer)


def fitting(
    options: Config, vocab_size: int, seq_length: int, seq_length_y: int | None
) -> Datasets:
    """A `stand_in` for the objective, with a second text where it needs one.

    `seq_length_y`: tokens of the second text; None = as many as the first.
    """
    if seq_length_y is not None:
        return stand_in(vocab_size, {"x": seq_length, "y": seq_length_y})
    corpora = stand_in(vocab_size, {"x": seq_length})
    try:
        spec_of(options, corpora)
    except UsageError:
        corpora = stand_in(vocab_size, {"x": seq_length, "y": seq_length})
        spec_of(options, corpora)  # another fault is raised again
    return corpora


def batch_specs(dataset: Dataset, rows: int) -> dict[str, tf.TensorSpec]:
    """Specs of a batch of `rows` rows, as `data.dataset.stream.Stream` makes them."""
    specs = {
        name: tf.TensorSpec((rows, length), tf.int32) for name, length in dataset.lengths.items()
    }
    if dataset.format == FORMAT:
        specs["w"] = tf.TensorSpec((rows, -(-dataset.seq_length // 8)), tf.uint8)
    return {**specs, "position": tf.TensorSpec((rows,), tf.int64)}
