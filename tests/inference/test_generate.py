"""Writing on: the compiled program against the plain rule, and the draws."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.inference.generate import Generator
from tpu_tlm.inference.sampling import Sampling, draw, filtered
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

VOCAB, EOL = 30, 2


class Words:
    """A tokenizer of numbers."""

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(i) for i in ids)


def make(kind="clm", embed_type="default", sampling=None, **frame):
    config = ModelConfig(
        d_model=16,
        d_ff=32,
        num_heads=2,
        num_layers=1,
        rpr_k=[4],
        weight_std=0.6,
        embed_type=embed_type,
    )
    spec = ModelSpec(config, VOCAB, 16, kind=kind, eol_id=EOL, **frame)
    model = build_model(spec, seed=3)
    return model, Generator(model, spec, Words(), sampling or Sampling(temperature=0.0))


def test_the_greedy_text_is_the_argmax_of_the_full_pass():
    model, generate = make(prefix_id=1)
    texts = ["5 6 7", "8", "9 10 11 12 13"]
    for text, written in zip(texts, generate(texts, 10), strict=True):
        ids = [1, *Words().encode(text)]
        expected = []
        while len(expected) < 10 and (not expected or expected[-1] != EOL):
            logits = model(tf.constant([ids + expected]))[0, -1, :VOCAB].numpy()
            logits[0] = -np.inf  # padding is never written
            expected.append(int(logits.argmax()))
        assert written.ids == expected
        assert written.ended == (expected[-1] == EOL)
        assert written.text == " ".join(
            str(i) for i in [*Words().encode(text), *expected] if i != EOL
        )


def test_draws_depend_on_the_seed_and_the_text_only():
    first, again, other = (
        list(make(sampling=Sampling(seed=s))[1](["5 6", "7"], 12)) for s in (0, 0, 1)
    )
    assert first == again and first != other
    together = list(make(sampling=Sampling(seed=0))[1](["5 6", "9 9 9 9 9 9", "3"], 12))
    assert together[0] == first[0]


def test_few_choices_are_the_largest_logit():
    greedy = [w.ids for w in make()[1](["5 6", "7"], 8)]
    for sampling in (Sampling(top_k=1), Sampling(top_p=1e-6)):
        assert [w.ids for w in make(sampling=sampling)[1](["5 6", "7"], 8)] == greedy


def test_filters_keep_what_they_promise():
    logits = tf.math.log(tf.constant([[0.5, 0.25, 0.15, 0.07, 0.03]]))
    kept = lambda **options: (filtered(logits, Sampling(**options)).numpy()[0] > -1e8).tolist()  # noqa: E731
    assert kept(top_k=2) == [True, True, False, False, False]
    assert kept(top_p=0.75) == [True, True, False, False, False]
    assert kept(top_p=0.76) == [True, True, True, False, False]
    assert kept(top_k=1, top_p=0.9) == [True, False, False, False, False]
    np.testing.assert_allclose(filtered(logits, Sampling(temperature=2.0)), logits / 2)


def test_draws_follow_the_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    logits = tf.tile(tf.math.log(tf.constant([probabilities], tf.float32)), (20000, 1))
    drawn = draw(logits, Sampling(), Key.of(0, tf.range(20000, dtype=tf.int64))).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 20000, probabilities, atol=0.015)


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda: make(kind="mlm"), "causal model"),
        (lambda: list(make(embed_type="learned-positional")[1](["5 6 7"], 14)), "16 tokens in all"),
        (lambda: list(make()[1]([""], 4)), "no prefix token"),
        (lambda: list(make()[1](["5"], 0)), "at least one"),
        (lambda: Sampling(temperature=-1), "--temperature"),
        (lambda: Sampling(top_k=0), "--top_k"),
        (lambda: Sampling(top_p=0.0), "--top_p"),
    ],
)
def test_wrong_use(run, message):
    with pytest.raises(UsageError, match=message):
        run()
