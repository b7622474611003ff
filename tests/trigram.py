"""A trigram model with interpolated Kneser-Ney smoothing, to compare language models with."""

from __future__ import annotations

import numpy as np

DISCOUNT = 0.75


class _Table:
    """Counts of integer keys."""

    def __init__(self, keys):
        self.keys, self.counts = np.unique(keys, return_counts=True)

    def __call__(self, keys):
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)


class Trigram:
    """Probabilities of a token after the two before it, within rows of ids `[N, T]` (Kneser and Ney
    1995; one discount of 0.75).

    p(c | a b) = (max(n(abc) - D, 0) + D types(ab) p(c | b)) / n(ab); below that, p(c | b) by the
    number of tokens that precede bc, and p(c) by the number of tokens that precede c, plus one
    half.
    """

    def __init__(self, rows, vocab):
        v = self.vocab = vocab
        a, b, c = (rows[:, i : rows.shape[1] - 2 + i].astype(np.int64).ravel() for i in range(3))
        self.abc, self.ab = _Table((a * v + b) * v + c), _Table(a * v + b)
        self.types_ab = _Table(self.abc.keys // v)
        self.before_bc = _Table(self.abc.keys % (v * v))
        tail = self.before_bc.keys // v
        self.before_b = np.bincount(tail, weights=self.before_bc.counts, minlength=v)
        self.types_b = np.bincount(tail, minlength=v)
        before_c = np.bincount(self.before_bc.keys % v, minlength=v) + 0.5
        self.one = before_c / before_c.sum()

    def after_one(self, b, c):
        """p(c | b)."""
        found = (
            np.maximum(self.before_bc(b * self.vocab + c) - DISCOUNT, 0.0)
            + DISCOUNT * self.types_b[b] * self.one[c]
        )
        return np.where(self.before_b[b] > 0, found / np.maximum(self.before_b[b], 1), self.one[c])

    def after_two(self, a, b, c):
        """p(c | a b)."""
        context, lower = a * self.vocab + b, self.after_one(b, c)
        seen, types = self.ab(context), self.types_ab(context)
        found = (
            np.maximum(self.abc(context * self.vocab + c) - DISCOUNT, 0.0)
            + DISCOUNT * types * lower
        )
        return np.where(seen > 0, found / np.maximum(seen, 1), lower)

    def loss(self, rows):
        """Mean negative logarithm over what a causal model predicts: every token of a row but
        the first, padding (0) left out.
        """
        rows = rows.astype(np.int64)
        a, b, c = (rows[:, i : rows.shape[1] - 2 + i] for i in range(3))
        logs = np.concatenate(
            [np.log(self.after_one(rows[:, :1], rows[:, 1:2])), np.log(self.after_two(a, b, c))],
            axis=1,
        )
        return float(-logs[rows[:, 1:] != 0].mean())
