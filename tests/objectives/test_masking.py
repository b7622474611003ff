"""Which positions are masked: rates, modes, what is never touched, and who it depends on."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import MlmConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.masking import choose, static_count, units_of, word_starts
from tpu_tlm.objectives.mlm import MaskedLanguageModeling, Specials

ROWS, LENGTH, VOCAB = 256, 128, 1000
SPECIALS = Specials(VOCAB, 0, 5, (0, 1, 2, 3, 4, 5))


def batch(seed=0, words=0.6, start=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(6, VOCAB, (ROWS, LENGTH)).astype(np.int32)
    x[:, 0] = 4
    x[:, 50] = 2
    x[: ROWS // 2, 100:] = 0
    begins = rng.random((ROWS, LENGTH)) < words
    begins[:, 0] = begins[:, 1] = begins[:, 51] = True
    begins[:, 50] = True
    packed = np.packbits(begins, axis=1, bitorder="little")
    return {
        "x": tf.constant(x),
        "w": tf.constant(packed),
        "position": tf.range(start, start + ROWS, dtype=tf.int64),
    }, begins


def mask(config, data, seed=0, training=True):
    objective = MaskedLanguageModeling(config, SPECIALS)

    @tf.function(jit_compile=True, autograph=False)
    def run(d):
        return objective.masked(d, Key.of(seed, d["position"]), training)

    return [t.numpy() for t in run(data)]


@pytest.mark.parametrize("mode", ["token", "whole-word", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_rate_and_untouchables(mode, rate):
    data, _ = batch()
    x = data["x"].numpy()
    changed, positions, labels, weights = mask(MlmConfig(mask_mode=mode, mask_rate=rate), data)
    chosen = weights > 0
    assert positions.shape == (ROWS, static_count(rate, LENGTH))
    np.testing.assert_array_equal(labels, np.take_along_axis(x, positions, 1))
    assert not np.isin(labels[chosen], SPECIALS.ids).any()
    for row in range(ROWS):
        taken = positions[row][chosen[row]]
        assert len(set(taken)) == len(taken) >= 1
        untouched = np.setdiff1d(np.arange(LENGTH), taken)
        np.testing.assert_array_equal(changed[row, untouched], x[row, untouched])
    maskable = ~np.isin(x, SPECIALS.ids)
    reached = chosen.sum() / maskable.sum()
    # Whole units stop short of the limit, by half a unit on average.
    assert rate * (1.0 if mode == "token" else 0.75) - 0.005 <= reached <= rate + 0.005


def test_eighty_ten_ten():
    data, _ = batch()
    counts = np.zeros(3)
    for seed in range(4):
        changed, positions, labels, weights = mask(MlmConfig(), data, seed)
        now = np.take_along_axis(changed, positions, 1)[weights > 0]
        was = labels[weights > 0]
        counts += [
            (now == SPECIALS.mask_id).sum(),
            ((now != SPECIALS.mask_id) & (now != was)).sum(),
            (now == was).sum(),
        ]
        assert not np.isin(now[now != SPECIALS.mask_id], SPECIALS.ids).any()
    share = counts / counts.sum()
    assert np.abs(share - [0.8, 0.1, 0.1]).max() < 0.01


def test_random_tokens_cover_the_vocabulary_evenly():
    specials = Specials(40, 0, 5, (0, 3, 5, 39))
    data, _ = batch()
    objective = MaskedLanguageModeling(
        MlmConfig(mask_token_rate=0.0, mask_random_rate=1.0), specials
    )
    x = tf.where(data["x"] > 5, 10, data["x"])
    changed, positions, _, weights = objective.masked(
        {**data, "x": x}, Key.of(0, data["position"]), True
    )
    drawn = np.take_along_axis(changed.numpy(), positions.numpy(), 1)[weights.numpy() > 0]
    counts = np.bincount(drawn, minlength=40)
    allowed = np.setdiff1d(np.arange(40), specials.ids)
    assert counts[list(specials.ids)].sum() == 0
    expected = counts.sum() / len(allowed)
    assert (np.abs(counts[allowed] - expected) < 5 * np.sqrt(expected)).all()


def test_whole_words_are_whole():
    data, begins = batch(words=0.5)
    _, positions, _, weights = mask(MlmConfig(mask_mode="whole-word"), data)
    word = np.cumsum(begins, axis=1)
    maskable = ~np.isin(data["x"].numpy(), SPECIALS.ids)
    for row in range(ROWS):
        taken = positions[row][weights[row] > 0]
        for w in set(word[row, taken]):
            members = np.flatnonzero((word[row] == w) & maskable[row])
            assert set(members) <= set(taken), (row, members, sorted(taken))


def test_a_word_longer_than_the_limit_is_masked_in_part():
    x = tf.constant(np.full((4, 40), 7, np.int32))
    starts = np.zeros((4, 40), bool)
    starts[:, 0] = True
    units = units_of(
        tf.constant(starts), "whole-word", MlmConfig(), Key.of(0, tf.range(4, dtype=tf.int64))
    )
    positions, weights = choose(x > 0, units, 0.15, Key.of(0, tf.range(4, dtype=tf.int64)))
    np.testing.assert_array_equal(positions, np.tile(np.arange(6), (4, 1)))
    assert (weights.numpy() == 1).all()


def test_span_lengths_are_geometric_and_capped():
    rows, length = 512, 256
    key = Key.of(1, tf.range(rows, dtype=tf.int64))
    config = MlmConfig(mask_mode="span", span_mean=4.0, span_max=10)
    units = units_of(tf.ones((rows, length), tf.bool), "span", config, key).numpy()
    lengths = np.concatenate([np.diff(np.unique(row))[1:] for row in units])
    assert lengths.max() == 10
    free = lengths[lengths < 10]
    share = np.bincount(free, minlength=10)[1:5] / len(lengths)
    np.testing.assert_allclose(share, [0.25, 0.1875, 0.1406, 0.1055], atol=0.02)


def test_masks_follow_the_example_not_the_batch():
    data, _ = batch()
    whole = mask(MlmConfig(mask_mode="span"), data, seed=3)
    half = mask(MlmConfig(mask_mode="span"), {k: v[100:200] for k, v in data.items()}, seed=3)
    for a, b in zip(whole, half, strict=True):
        np.testing.assert_array_equal(a[100:200], b)
    other = mask(MlmConfig(mask_mode="span"), data, seed=4)
    assert (other[1] != whole[1]).any()
    later = mask(
        MlmConfig(mask_mode="span"), {**data, "position": data["position"] + 2**33}, seed=3
    )
    assert (later[1] != whole[1]).any()


def test_evaluation_masks_are_fixed():
    data, _ = batch()
    first = mask(MlmConfig(mask_rate=0.3, mask_mode="span"), data, seed=1, training=False)
    second = mask(MlmConfig(mask_rate=0.6, mask_mode="token"), data, seed=2, training=False)
    assert first[1].shape[1] == static_count(0.15, LENGTH)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_to_mask():
    x = tf.zeros((2, 16), tf.int32)
    data = {"x": x, "w": tf.zeros((2, 2), tf.uint8), "position": tf.range(2, dtype=tf.int64)}
    changed, _, _, weights = mask(MlmConfig(), data)
    assert weights.sum() == 0
    np.testing.assert_array_equal(changed, x)


def test_word_start_bits():
    bits = np.random.default_rng(0).random((3, 21)) < 0.5
    packed = np.packbits(bits, axis=1, bitorder="little")
    np.testing.assert_array_equal(word_starts(tf.constant(packed), 21), bits)


def test_static_masks_of_other_programs_are_taken_as_they_are():
    x = tf.constant([[7, 5, 9, 0]])
    y = tf.constant([[0, 8, 0, 0]])
    objective = MaskedLanguageModeling(MlmConfig(), SPECIALS)
    changed, positions, labels, weights = objective.masked(
        {"x": x, "y": y}, Key.of(0, tf.constant([0], tf.int64)), True
    )
    np.testing.assert_array_equal(changed, x)
    np.testing.assert_array_equal(positions, [[0, 1, 2, 3]])
    np.testing.assert_array_equal(labels, y)
    np.testing.assert_array_equal(weights, [[0, 1, 0, 0]])


def test_static_masks_of_another_length_are_refused():
    objective = MaskedLanguageModeling(MlmConfig(), SPECIALS)
    records = {"x": tf.constant([[7, 5, 9]]), "y": tf.constant([[0, 8, 0, 0]])}
    with pytest.raises(UsageError, match="a y of 4 ids and an x of 3"):
        objective.masked(records, Key.of(0, tf.constant([0], tf.int64)), True)
