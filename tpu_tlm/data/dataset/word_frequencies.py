"""The loss of word frequencies: what a model reaches that knows only how frequent each token is."""

from __future__ import annotations

import itertools

import numpy as np

from tpu_tlm.data.dataset.dataset import Dataset
from tpu_tlm.data.dataset.stream import in_order
from tpu_tlm.data.tokenizers.base import Tokenizer

_ROWS = 1024


def token_counts(dataset: Dataset, vocab_size: int, most: int | None = None) -> np.ndarray:
    """How often every id occurs in a dataset: int64 `[vocab_size]`.

    most: number of examples that are counted, from the first; None = all. Examples are in random
    order, so that a part of them stands for the whole.
    """
    total = np.zeros(vocab_size, np.int64)
    batches = in_order(dataset, _ROWS)
    for batch in itertools.islice(batches, None if most is None else -(-most // _ROWS)):
        ids = batch["x"].numpy()[batch["valid"].numpy() > 0]
        total += np.bincount(ids.ravel(), minlength=vocab_size)
    return total


def unigram_loss(
    train: Dataset, valid: Dataset, tokenizer: Tokenizer, most: int | None = None
) -> float:
    """Cross entropy (nats per token) of the unigram model of `train`, one added to every count,
    on the maskable tokens of `valid`; of at most about `most` examples of each.
    """
    maskable = np.ones(len(tokenizer.tokens), bool)
    maskable[list(tokenizer.special_ids)] = False
    known = (token_counts(train, len(maskable), most) + 1.0)[maskable]
    seen = known - 1.0 if valid is train else token_counts(valid, len(maskable), most)[maskable]
    return float(-(seen * np.log(known / known.sum())).sum() / max(seen.sum(), 1.0))
