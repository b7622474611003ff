"""Encoder-decoder generation and beam search of both kinds of model, against plain Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.inference.test_generate import Words
from tpu_tlm.config import DenoisingConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.inference.generate import Generator
from tpu_tlm.inference.sampling import BeamSearch, Sampling
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

VOCAB, START, END, SEQ_LENGTH = 12, 1, 2, 10
GREEDY = Sampling(temperature=0.0)


class Numbers(Words):
    """A tokenizer of numbers; `m` is the mask."""

    mask_id, cls_id, sep_id = 3, START, END

    def encode(self, text):
        return [self.mask_id if word == "m" else int(word) for word in text.split()]

    def id_of(self, token):
        return None


def make(how=GREEDY, kind="seq2seq", seed=3, vocab=VOCAB, std=0.6, denoising=None, **options):
    config = ModelConfig(
        d_model=16, d_ff=32, num_heads=2, num_layers=1, rpr_k=[4], weight_std=std, **options
    )
    frame = (
        {"y_prefix_id": START, "y_suffix_id": END, "seq_length_y": 8}
        if kind == "seq2seq"
        else {"eol_id": END}
    )
    spec = ModelSpec(config, vocab, SEQ_LENGTH, kind=kind, **frame, denoising=denoising)
    model = build_model(spec, seed=seed)
    return model, Generator(model, spec, Numbers(), how)


def log_probabilities(model, ids, texts, vocab=VOCAB):
    """Log-probabilities of the next token at every position of texts, by one full pass.

    Returns `[n, length + 1, vocab]`.

    `ids`: the source, or the text to write on from.
    """
    texts = np.array(
        [[*t, *[0] * (max(map(len, texts)) - len(t))] for t in texts], np.int32
    ).reshape(len(texts), -1)
    if hasattr(model, "decoder"):
        source = np.array([ids + [0] * (SEQ_LENGTH - len(ids))] * len(texts))
        logits, begun = (
            model(
                {
                    "x": tf.constant(source),
                    "y": tf.constant(np.pad(texts, ((0, 0), (1, 0)), constant_values=START)),
                }
            ),
            1,
        )
    else:
        logits, begun = (
            model(tf.constant(np.concatenate([[ids] * len(texts), texts], axis=1), tf.int32)),
            len(ids),
        )
    return tf.nn.log_softmax(logits[:, begun - 1 :, :vocab]).numpy()


def totals(model, ids, texts, vocab=VOCAB):
    """Log-probability of each text."""
    table = log_probabilities(model, ids, texts, vocab)
    return [sum(table[n, i, token] for i, token in enumerate(text)) for n, text in enumerate(texts)]


def greedily(model, ids, longest, vocab=VOCAB):
    """The most probable token but padding, one after another."""
    written = []
    while len(written) < longest and END not in written:
        written.append(1 + int(log_probabilities(model, ids, [written], vocab)[0, -1, 1:].argmax()))
    return written


@pytest.fixture(autouse=True)
def compiled(request):
    """Only one test compiles the loops: for so small a model that takes longer than to run them."""
    tf.config.run_functions_eagerly("compiled" not in request.node.name)
    yield
    tf.config.run_functions_eagerly(False)


TEXTS = ["5 6 7", "8", "9 10 11 4 3 4"]


@pytest.mark.parametrize(
    "options",
    [{}, {"position_encoding": ["learned", "t5"], "max_positions": 20}],
    ids=["shaw", "t5"],
)
def test_the_greedy_target_is_the_argmax_of_the_full_pass(options):
    model, generate = make(**options)
    for text, written in zip(TEXTS, generate(TEXTS, 6), strict=True):
        expected = greedily(model, Numbers().encode(text), 6)
        assert written.ids == expected and written.ended == (expected[-1] == END)
        assert written.text == " ".join(str(i) for i in expected if i not in (START, END))


@pytest.mark.parametrize("kind", ["seq2seq", "clm"])
def test_a_beam_of_one_is_greedy(kind):
    model, generate = make(BeamSearch(1, 1.5), kind)
    for text, written in zip(TEXTS, generate(TEXTS, 7), strict=True):
        assert written.ids == greedily(model, Numbers().encode(text), 7)


@pytest.mark.parametrize("kind", ["seq2seq", "clm"])
def test_a_beams_score_is_the_probability_of_its_tokens(kind):
    # Flat enough that texts overtake each other, so that the caches have to follow them.
    model, generate = make(BeamSearch(6, 0.0), kind, std=0.5, seed=8, tie_weights=False)
    for text, written in zip(TEXTS, generate(TEXTS, 7), strict=True):
        (expected,) = totals(model, Numbers().encode(text), [written.ids])
        assert written.log_probability == pytest.approx(expected, abs=1e-4)


def every_text(vocab, longest):
    """All texts of up to `longest` tokens that may be written: an end token ends one."""
    for length in range(1, longest + 1):
        for body in itertools.product([t for t in range(1, vocab) if t != END], repeat=length - 1):
            for last in range(1, vocab):
                if last == END or length == longest:
                    yield (*body, last)


@pytest.mark.parametrize("kind", ["seq2seq", "clm"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_texts(kind, penalty):
    vocab, longest, given = 5, 3, ["4 3", "3", "4 4 3 4 3", "3 3 1", "4"]
    model, generate = make(
        BeamSearch(40, penalty), kind, vocab=vocab, std=0.5, seed=6, tie_weights=False
    )
    texts, gained = list(every_text(vocab, longest)), 0
    for text, written in zip(given, generate(given, longest), strict=True):
        ids = Numbers().encode(text)
        scores = [
            t / ((5 + len(ids)) / 6) ** penalty
            for t, ids in zip(totals(model, ids, texts, vocab), texts, strict=True)
        ]
        best = int(np.argmax(scores))
        assert tuple(written.ids) == texts[best]
        gained += [*texts[best]] != greedily(model, ids, longest, vocab)
    assert gained, "greedy finds them all: this test would not see a beam that does not search"


def test_the_penalty_makes_longer_texts():
    options = {"vocab": 5, "std": 0.5, "seed": 6, "tie_weights": False}
    lengths = [
        sum(len(w.ids) for w in make(BeamSearch(4, penalty), **options)[1](["4 3", "3"], 8))
        for penalty in (0.0, 9.0)
    ]
    assert lengths[0] < lengths[1]


def test_a_text_does_not_depend_on_its_neighbours():
    _, generate = make(BeamSearch(3))
    assert [w.ids for w in generate(TEXTS, 6)][1:] == [
        w.ids for w in generate([*TEXTS[1:], "7"], 6)
    ][:2]


@pytest.mark.parametrize("kind", ["seq2seq", "clm"])
def test_compiled_is_the_same(kind):
    for how in (BeamSearch(3), GREEDY):
        _, generate = make(how, kind)
        compiled = [w.ids for w in generate(TEXTS, 6)]
        tf.config.run_functions_eagerly(True)
        assert compiled == [w.ids for w in make(how, kind)[1](TEXTS, 6)]
        tf.config.run_functions_eagerly(False)


def test_draws_depend_on_the_seed():
    (_, generate), (_, other) = (make(Sampling(seed=s)) for s in (0, 1))
    first = list(generate(TEXTS, 6))
    assert first == list(generate(TEXTS, 6)) and first != list(other(TEXTS, 6))


def test_a_denoiser_repairs_the_text_it_reads():
    """Generated spans replace the masks; their tokens are known from full passes."""
    config = DenoisingConfig(denoise="spans", noise_density=0.15, sentinels=3)
    model, generate = make(vocab=15, denoising=config)  # sentinels 12, 13, end 14
    assert generate.source("5 m 7 m") == [5, 12, 7, 13]
    assert generate.denoiser.end == 14
    written = next(generate(["5 m 7"], 4))
    ids = generate.denoiser.repaired([5, 12, 7], written.ids)
    assert written.text == " ".join(str(i) for i in ids if i < 12 and i not in (0, START, END))
    with pytest.raises(UsageError, match="3 masks"):
        list(generate(["m m m"], 4))


@pytest.mark.parametrize(
    "run, message",
    [
        (
            lambda: list(make()[1]([" ".join("5" * 11)], 3)),
            "11 tokens, the model was trained on 10",
        ),
        (
            lambda: list(make(position_encoding=["learned"])[1](["5"], 10)),
            "takes 10 tokens in all",
        ),
        (lambda: BeamSearch(0), "--beam"),
        (lambda: BeamSearch(2, -1.0), "--length_penalty"),
    ],
)
def test_wrong_use(run, message):
    with pytest.raises(UsageError, match=message):
        run()
