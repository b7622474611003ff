"""Which spans are taken away: counts, all choices equally likely, and what the draws depend on."""

from __future__ import annotations

import itertools
from collections import Counter
from math import comb

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.objectives.spans import (
    compact_left,
    counted,
    distinct,
    infilling_counts,
    infilling_spans,
    marked,
    most,
    t5_counts,
    t5_spans,
)

ROWS = 3000


def keys(rows=ROWS, seed=0):
    return Key.of(seed, tf.range(rows, dtype=tf.int64))


def runs(mask):
    """Beginnings and lengths of the runs of true places."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
    return list(zip(edges[::2].tolist(), (edges[1::2] - edges[::2]).tolist(), strict=True))


def even(seen: Counter, possible: dict, rows: int = ROWS) -> bool:
    """Whether what was seen is what the probabilities say, within five standard deviations."""
    assert set(seen) <= set(possible) and sum(possible.values()) == pytest.approx(1.0)
    return all(
        abs(seen[k] - rows * p) < 5 * (rows * p * (1 - p)) ** 0.5 + 1 for k, p in possible.items()
    )


def test_counts_are_those_of_the_papers():
    # T5's examples: 512 tokens of input and 114 of target are made from 568 tokens of text.
    assert t5_counts(568, 0.15, 3.0) == (85, 28)
    assert 568 - 85 + 28 + 1 == 512 and 85 + 28 + 1 == 114
    assert [t5_counts(n, 0.15, 3.0) for n in (0, 1, 2, 3, 20)] == [
        (0, 0),
        (0, 0),
        (1, 1),
        (1, 1),
        (3, 1),
    ]
    assert t5_counts(10, 0.9, 1.0) == (9, 1), "a token must stay before every span"
    assert [infilling_counts(n, 0.3, 3.0) for n in (0, 1, 2, 512)] == [
        (0, 0),
        (1, 1),
        (1, 1),
        (154, 51),
    ]
    assert most(t5_counts, 568, 0.15, 3.0) == (85, 28, 511)


def test_the_table_is_the_rule():
    lengths = tf.range(65)
    noise, spans = counted(t5_counts, lengths, 64, 0.3, 2.5)
    assert list(zip(noise.numpy(), spans.numpy(), strict=True)) == [
        t5_counts(n, 0.3, 2.5) for n in range(65)
    ]


def test_distinct_numbers_are_all_choices_alike():
    drawn = distinct(keys(), tf.fill(ROWS, 6), tf.fill(ROWS, 3), 9, 4).numpy()
    assert (drawn[:, 3] == 9).all()
    choices = list(itertools.combinations(range(6), 3))
    assert even(
        Counter(map(tuple, drawn[:, :3].tolist())), dict.fromkeys(choices, 1 / len(choices))
    )


def test_distinct_numbers_of_each_row_are_its_own_many():
    below, count = tf.constant([0, 1, 5, 5]), tf.constant([0, 1, 2, 5])
    drawn = distinct(keys(4), below, count, 5, 6).numpy()
    assert drawn.shape == (4, 6)
    for row, n, k in zip(drawn, below.numpy(), count.numpy(), strict=True):
        assert (
            len(set(row[:k])) == k
            and (row[:k] < max(n, 1)).all()
            and (np.sort(row) == row).all()
            and (row[k:] == 5).all()
        )
    assert distinct(keys(4), below, count * 0, 5, 0).shape == (4, 0)
    with pytest.raises(ValueError, match="at most 8192"):
        distinct(keys(4), below, count, 8193, 2)


def test_t5_spans_are_all_ways_alike():
    n, (noise, spans) = 10, t5_counts(10, 0.4, 2.0)
    assert (noise, spans) == (4, 2)
    got = t5_spans(keys(), tf.fill(ROWS, n), 12, 0.4, 2.0)
    seen = Counter(tuple(runs(row)) for row in got.noise.numpy())
    ways = {}
    for kept in range(1, n - noise):  # tokens before the first span
        for first in range(1, noise):
            ways[(kept, first), (first + n - noise, noise - first)] = 1 / (
                comb(n - noise - 1, 1) * comb(noise - 1, 1)
            )
    assert even(seen, ways)
    for mask, starts in zip(got.noise.numpy()[:50], got.starts.numpy()[:50], strict=True):
        assert [begin for begin, _ in runs(mask)] == np.flatnonzero(starts).tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 64])
@pytest.mark.parametrize("density, mean", [(0.15, 3.0), (0.5, 1.0), (0.9, 4.0)])
def test_t5_spans_have_the_counts_begin_with_text_and_end_with_a_span(length, density, mean):
    got = t5_spans(keys(40), tf.fill(40, length), 64, density, mean)
    noise, spans = t5_counts(length, density, mean)
    for mask, starts in zip(got.noise.numpy(), got.starts.numpy(), strict=True):
        found = runs(mask)
        assert (
            mask.sum() == noise
            and len(found) == spans
            and [b for b, _ in found] == np.flatnonzero(starts).tolist()
        )
        assert not found or (not mask[0] and sum(found[-1]) == length)


def test_infilling_lengths_are_poisson_of_a_given_sum_and_places_alike():
    n, (noise, spans) = 6, infilling_counts(6, 0.5, 1.5)
    assert (noise, spans) == (3, 2)
    got = infilling_spans(keys(), tf.fill(ROWS, n), 8, 0.5, 1.5)
    seen = Counter(
        (tuple(np.flatnonzero(s)), tuple(np.flatnonzero(m)))
        for s, m in zip(got.starts.numpy(), got.noise.numpy(), strict=True)
    )
    ways: dict = {}
    for a, b in itertools.combinations(
        range(n - noise + 1), 2
    ):  # tokens that stay before each span
        for first in range(noise + 1):
            begins = (a, b + first)
            taken = (*range(a, a + first), *range(b + first, b + noise))
            ways[begins, taken] = ways.get((begins, taken), 0) + comb(
                noise, first
            ) / 2**noise / comb(n - noise + 1, 2)
    assert even(seen, ways)


def test_infilling_rates():
    got = infilling_spans(keys(500), tf.fill(500, 512), 512, 0.3, 3.0)
    assert (got.noise.numpy().sum(1) == 154).all() and (got.starts.numpy().sum(1) == 51).all()
    noise, starts = got.noise.numpy(), got.starts.numpy()
    empty = starts & ~np.pad(noise, ((0, 0), (0, 1)))
    # Poisson with mean 3 has 5 % empty spans; of 154 tokens in 51 spans (1 - 1/51) ** 154 = 4.7 %.
    assert empty.sum() / starts.sum() == pytest.approx((1 - 1 / 51) ** 154, abs=0.006)


@pytest.mark.parametrize("draw", [t5_spans, infilling_spans])
def test_draws_follow_the_example_not_the_batch(draw):
    lengths = tf.constant(np.random.default_rng(0).integers(0, 65, 40), tf.int32)
    whole = draw(keys(40), lengths, 64, 0.3, 3.0)
    part = draw(Key.of(0, tf.range(10, 30, dtype=tf.int64)), lengths[10:30], 64, 0.3, 3.0)
    other = draw(keys(40, seed=1), lengths, 64, 0.3, 3.0)
    for a, b, c in zip(whole, part, other, strict=True):
        np.testing.assert_array_equal(a[10:30], b)
        assert (a.numpy() != c.numpy()).any()


@pytest.mark.parametrize("length", [1, 2, 7, 8, 33])
def test_squeezed_is_what_python_keeps(length):
    rng = np.random.default_rng(length)
    values, keep = rng.integers(0, 99, (60, length)), rng.random((60, length)) < rng.random((60, 1))
    got = compact_left(tf.constant(values, tf.int32), tf.constant(keep), -1).numpy()
    for row, mask, out in zip(values, keep, got, strict=True):
        assert out.tolist() == [*row[mask], *[-1] * (length - mask.sum())]


def test_marks_stand_before_their_tokens():
    x, starts = tf.constant([[5, 6, 7]]), tf.constant([[True, False, True, True]])
    keep, marks = tf.constant([[True, True, False]]), tf.constant([[100, 101, 102, 103]])
    assert marked(x, marks, starts, keep, 0).numpy().tolist() == [[100, 5, 6, 102, 103, 0, 0, 0]]
