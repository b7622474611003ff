"""Position tables of another length than the model was trained with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.formats.load import load
from tpu_tlm.formats.positions import TABLE, with_positions, with_positions_of

BERT = str(DATA_FILES / "hf_golden" / "bert")


@pytest.mark.parametrize(("count", "word"), [(12, "cropped"), (50, "repeated")])
def test_texts_that_fit_both_tables_keep_their_outputs(count, word):
    saved = load(BERT)
    rows = len(saved.values[TABLE])
    other = with_positions(saved, count)
    assert len(other.checked().values[TABLE]) == count
    assert f"{rows} learned positions {word} to {count}" in other.notes[-1]
    x = tf.constant([[2, 7, 8, 9, 3]])
    np.testing.assert_allclose(other.model()(x), saved.model()(x), atol=1e-6)
    if count > rows:
        np.testing.assert_array_equal(other.values[TABLE][rows : 2 * rows], saved.values[TABLE])
        assert other.model().encode(tf.ones((1, count), tf.int32)).shape == (1, count, 32)


def test_a_run_without_a_table_or_of_the_same_length_changes_nothing():
    saved = load(BERT)
    assert with_positions(saved, len(saved.values[TABLE])) is saved
    rotary = replace(saved.spec, config=replace(saved.spec.config, position_encoding=["rotary"]))
    assert with_positions_of(saved, rotary) is saved
    longer = replace(
        saved.spec, seq_length=64, config=replace(saved.spec.config, max_positions=None)
    )
    assert len(with_positions_of(saved, longer).values[TABLE]) == 64
