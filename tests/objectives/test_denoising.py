"""Denoising examples: against plain Python, exactly repairable, of static shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.config import DenoisingConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.denoising import Denoiser, resolved
from tpu_tlm.objectives.spans import infilling_counts, infilling_spans, t5_counts, t5_spans

VOCAB, PREFIX, SUFFIX, MASK, EOL = 60, 1, 2, 5, 3


def make(mode, seq_length=40, **options):
    frame = {name: options.pop(name) for name in ("prefix_id", "suffix_id") if name in options}
    spec = ModelSpec(ModelConfig(), VOCAB, seq_length, kind="seq2seq", **frame)
    config = resolved(DenoisingConfig(denoise=mode, **options), spec)
    return Denoiser.of(replace(spec, vocab_size=VOCAB + config.sentinels, denoising=config), MASK)


def texts(denoiser, seq_length=40, rows=24, seed=0):
    """Texts of every length, the last ones full, line ends in them."""
    x = np.random.default_rng(seed).integers(6, VOCAB, (rows, seq_length)).astype(np.int32)
    x[:, 7::9] = EOL
    contents = []
    for row in range(rows):
        size = seq_length - denoiser.prefix - denoiser.suffix
        content = x[row, : min(size, row * 2)].tolist()
        ids = [PREFIX] * denoiser.prefix + content + [SUFFIX] * denoiser.suffix
        x[row] = ids + [0] * (seq_length - len(ids))
        contents.append(content)
    return x, contents


def run(denoiser, x, seed=0, first=0, xla=False):
    @(tf.function(jit_compile=True, autograph=False) if xla else lambda f: f)
    def compiled(x, position):
        example = denoiser(x, Key.of(seed, position))
        assert all(t.shape.is_fully_defined() for t in example)
        return example

    example = compiled(tf.constant(x), tf.range(first, first + len(x), dtype=tf.int64))
    return type(example)(*(t.numpy() for t in example))


def plain(denoiser, content, noise, starts):
    """Source and target of one text in Python: T5's sentinels in order, or one mask per span and
    the whole text."""
    source, target, spans = [], [], 0
    for at in range(len(content) + 1):
        if starts[at]:
            source.append(denoiser.first + spans if denoiser.config.denoise == "spans" else MASK)
            target.append(denoiser.first + spans)
            spans += 1
        if at < len(content):
            (target if noise[at] else source).append(content[at])
    if not spans:
        return source, None
    return source, [*(target if denoiser.config.denoise == "spans" else content), denoiser.end]


FRAMES = [{}, {"prefix_id": PREFIX}, {"prefix_id": PREFIX, "suffix_id": SUFFIX}]


@pytest.mark.parametrize("frame", FRAMES, ids=["bare", "prefix", "both"])
@pytest.mark.parametrize("mode", ["spans", "infilling"])
def test_it_is_the_plain_rule(mode, frame):
    denoiser = make(mode, noise_density=0.3, **frame)
    x, contents = texts(denoiser)
    example = run(denoiser, x, seed=4, xla=True)
    size = 40 - len(frame)
    lengths = tf.constant([len(c) for c in contents])
    draw = t5_spans if mode == "spans" else infilling_spans
    noise, starts = (
        t.numpy()
        for t in draw(Key.of(4, tf.range(len(x), dtype=tf.int64)), lengths, size, 0.3, 3.0)
    )
    assert (example.source.shape[1], example.labels.shape[1]) == denoiser.lengths(40)
    for row, content in enumerate(contents):
        source, target = plain(denoiser, content, noise[row], starts[row])
        source = [PREFIX] * denoiser.prefix + source + [SUFFIX] * denoiser.suffix
        assert example.source[row].tolist() == source + [0] * (
            example.source.shape[1] - len(source)
        )
        assert example.weights[row].sum() == (len(target) if target else 0)
        if target:
            rest = [0] * (example.labels.shape[1] - len(target))
            assert example.labels[row].tolist() == target + rest
            assert example.given[row].tolist() == [denoiser.end, *target, *rest][:-1]
            assert (np.flatnonzero(example.weights[row]) == np.arange(len(target))).all()


@pytest.mark.parametrize("frame", FRAMES, ids=["bare", "prefix", "both"])
def test_source_and_target_give_the_text_back(frame):
    denoiser = make("spans", noise_density=0.4, mean_span=2.0, **frame)
    x, _ = texts(denoiser, seed=2)
    example = run(denoiser, x)
    for row, source, labels, weights in zip(
        x, example.source, example.labels, example.weights, strict=True
    ):
        repaired = denoiser.repaired(source[source > 0].tolist(), labels[weights > 0].tolist())
        assert repaired == row[row > 0].tolist()


def test_lengths_are_those_of_a_full_text():
    denoiser = make("spans", seq_length=568)
    # T5 counts an end token in its source too.
    assert (
        denoiser.lengths(568) == (512 - 1, 114)
        and denoiser.config.sentinels == 29
        and denoiser.vocab_size == VOCAB + 29
    )
    x = np.random.default_rng(0).integers(6, VOCAB, (4, 568)).astype(np.int32)
    example = run(denoiser, x)
    assert (example.source > 0).all() and (example.weights == 1).all()
    for row in example.source:
        assert row[row >= VOCAB].tolist() == list(range(VOCAB, VOCAB + 28))
    infilling = make("infilling", seq_length=512)
    assert infilling.lengths(512) == (512 - 154 + 51, 513) and infilling.vocab_size == VOCAB + 1
    assert infilling_counts(512, 0.3, 3.0) == (154, 51)


@pytest.mark.parametrize("mode", ["spans", "infilling"])
@pytest.mark.parametrize("seq_length", [2, 3, 5])
def test_tiny_examples(mode, seq_length):
    denoiser = make(mode, seq_length=seq_length)
    x = np.tril(np.full((seq_length + 1, seq_length), 7, np.int32), -1)
    example = run(denoiser, x)
    for row, (source, weights) in enumerate(zip(example.source, example.weights, strict=True)):
        spans = (t5_counts if mode == "spans" else infilling_counts)(
            row, denoiser.config.noise_density, 3.0
        )[1]
        assert (source >= VOCAB).sum() + (source == MASK).sum() == spans and bool(
            weights.sum()
        ) == bool(spans)
    assert (example.source[0] == 0).all()


@pytest.mark.parametrize("mode", ["spans", "infilling"])
def test_it_follows_the_example_not_the_batch(mode):
    denoiser = make(mode)
    x, _ = texts(denoiser)
    whole, part = run(denoiser, x, first=0), run(denoiser, x[8:20], first=8)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[8:20], b)
    later = run(denoiser, x, first=2**33)
    assert (later.source != whole.source).any()


def test_masks_of_a_text_to_repair_become_sentinels():
    denoiser = make("spans", sentinels=4)
    assert denoiser.with_sentinels([7, MASK, 8, MASK], MASK) == [7, VOCAB, 8, VOCAB + 1]
    with pytest.raises(UsageError, match="4 masks, this model has sentinels for 3"):
        denoiser.with_sentinels([MASK] * 4, MASK)
    assert denoiser.repaired(
        [7, VOCAB, 8, VOCAB + 1, 9], [VOCAB, 20, 21, VOCAB + 1, denoiser.end]
    ) == [7, 20, 21, 8, 9]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"denoise": "spans", "noise_density": 0.0}, "noise_density"),
        ({"denoise": "infilling", "noise_density": 1.0}, "noise_density"),
        ({"denoise": "spans", "mean_span": 0.5}, "mean_span"),
        ({"denoise": "spans", "seq_length": 1}, "too short"),
        ({"denoise": "spans", "seq_length": 9000}, "at most 8192"),
        ({"denoise": "infilling", "seq_length": 8192}, "of 8192 tokens are too long, at most 8191"),
        ({"denoise": "spans", "sentinels": 2}, "need at least 3"),
        ({"denoise": "none", "sentinels": -1}, "sentinels -1"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    spec = ModelSpec(ModelConfig(), VOCAB, options.pop("seq_length", 40), kind="seq2seq")
    with pytest.raises(UsageError, match=message):
        resolved(DenoisingConfig(**options), spec)


@pytest.mark.parametrize("frame", FRAMES, ids=["bare", "prefix", "both"])
@pytest.mark.parametrize("mode", ["spans", "infilling"])
def test_the_longest_examples_are_damaged_and_longer_ones_refused(mode, frame):
    denoiser = make(mode, seq_length=8191 + (mode == "spans") + len(frame), **frame)

    def traced(seq_length):
        return tf.function(denoiser, autograph=False).get_concrete_function(
            tf.TensorSpec((1, seq_length), tf.int32), Key.of(0, tf.range(1, dtype=tf.int64))
        )

    traced(denoiser.longest)
    with pytest.raises(UsageError, match=f"at most {denoiser.longest}$"):
        traced(denoiser.longest + 1)


def test_examples_of_more_spans_than_sentinels_are_refused():
    denoiser = make("spans", seq_length=40)
    with pytest.raises(UsageError, match="sentinels for 2"):
        denoiser(tf.ones((2, 400), tf.int32), Key.of(0, tf.range(2, dtype=tf.int64)))
