"""The unigram model against a count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toy import WORDS, toy_dataset
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.dataset.word_frequencies import token_counts as counts
from tpu_tlm.data.dataset.word_frequencies import unigram_loss


def test_cross_entropy_of_frequencies(tmp_path):
    train, valid = (
        open_dataset(str(toy_dataset(tmp_path / n, examples=e, seed=e, shards=1)))
        for n, e in (("train", 30), ("valid", 7))
    )
    tokenizer = train.load_tokenizer()
    frequency = counts(train, len(tokenizer.tokens))
    assert frequency.sum() == 30 * 16 and frequency[:5].sum() == 0
    assert counts(valid, len(tokenizer.tokens)).sum() == 7 * 16
    p = (frequency[5:] + 1) / (frequency[5:] + 1).sum()
    expected = -np.sum(counts(valid, len(tokenizer.tokens))[5:] * np.log(p)) / (7 * 16)
    assert unigram_loss(train, valid, tokenizer) == pytest.approx(expected)
    assert abs(expected - np.log(WORDS)) < 0.3
