"""Sequence-to-sequence examples; every option of the model acts in encoder and decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.inference.test_decoding import Numbers
from tests.models.contract import fill, small
from tests.toy import toy_dataset
from tpu_tlm.config import DenoisingConfig, ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.inference.generate import Generator
from tpu_tlm.inference.sampling import Sampling
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.registry import make_objective, objective_of_kind
from tpu_tlm.objectives.seq2seq import SequenceToSequence

VOCAB, SEQ_LENGTH, SEQ_LENGTH_Y, START, END = 30, 8, 6, 1, 2


def adapted(mode="none", seq_length=SEQ_LENGTH, lengths=None, config=None, **options):
    spec = ModelSpec(config or small(rpr_k=[2]), VOCAB, seq_length, kind="seq2seq")
    denoising = ObjectiveOptions(denoising=DenoisingConfig(denoise=mode, **options))
    lengths = lengths or (
        {"x": seq_length, "y": SEQ_LENGTH_Y} if mode == "none" else {"x": seq_length}
    )
    return SequenceToSequence.configure_model(spec, denoising, lengths)


def made(spec):
    return make_objective("seq2seq", ObjectiveContext(spec, Numbers()))


def batch(y, x=None):
    y = tf.constant(y, tf.int32)
    x = tf.constant(x if x is not None else np.full((y.shape[0], SEQ_LENGTH), 9), tf.int32)
    return {"x": x, "y": y, "position": tf.range(y.shape[0], dtype=tf.int64)}


def test_what_is_read_is_framed_and_cut_as_the_pairs_were(tmp_path):
    """Generation frames sources with `framed_texts`, which test_pairs.py compares with records."""
    tokenizer = open_dataset(
        str(toy_dataset(tmp_path / "data", examples=3, shards=1))
    ).load_tokenizer()
    frame = {
        "prefix_id": tokenizer.cls_id,
        "suffix_id": tokenizer.sep_id,
        "turn_id": tokenizer.sep_id,
    }
    spec = replace(adapted(), vocab_size=len(tokenizer.tokens), **frame)
    asked = "w0 <EOU> w1 w2 w3 w4 <EOU> w5 w6"
    w = {i: tokenizer.id_of(f"w{i}") for i in range(7)}
    cls, sep = tokenizer.cls_id, tokenizer.sep_id

    def read(**more):
        framed = replace(spec, **more)
        return Generator(build_model(framed), framed, tokenizer, Sampling()).source(asked)

    assert read(pairs="ntp") == [cls, w[2], w[3], w[4], sep, w[5], w[6], sep]
    assert read(pairs="ntp", turn_id=None) == [cls, w[5], w[6], sep]
    assert (
        read(pairs="tsv", turn_id=None)[:2] == [cls, w[0]]
        and len(read(pairs="tsv", turn_id=None)) == SEQ_LENGTH
    )
    with pytest.raises(UsageError, match="tokens, the model was trained on 8"):
        read()


def test_targets_get_what_they_lack():
    example = made(adapted()).example(
        batch(
            [
                [
                    START,
                    7,
                    8,
                    END,
                    0,
                    0,
                ],  # as `preprocess --y_prefix --y_suffix` and MEAD write them
                [7, 8, 9, 0, 0, 0],  # bare
                [START, 7, 8, 9, 10, 11],  # cut off: there is room behind the start
                [6, 7, 8, 9, 10, 11],  # cut off: no room for an end
                [START, 0, 0, 0, 0, 0],  # nothing but a start
                [0, 0, 0, 0, 0, 0],
            ]
        ),
        Key.of(0, tf.range(6, dtype=tf.int64)),
        True,
    )
    assert example.labels.numpy().tolist() == [
        [7, 8, END, 0, 0, 0],
        [7, 8, 9, END, 0, 0],
        [7, 8, 9, 10, 11, END],
        [6, 7, 8, 9, 10, 11],
        [0] * 6,
        [0] * 6,
    ]
    np.testing.assert_array_equal(example.weights, example.labels.numpy() > 0)
    np.testing.assert_array_equal(example.given[:, 0], [START] * 6)
    np.testing.assert_array_equal(example.given[:, 1:], example.labels[:, :-1])


def test_the_loss_is_that_of_full_passes_without_padding():
    """Rows of different lengths in one batch, against each alone and unpadded."""
    spec = adapted()
    model, objective = fill(build_model(spec)), made(spec)
    x = [[5, 6, 7, 8, 0, 0, 0, 0], [9, 10, 11, 12, 13, 14, 15, 16], [7, 0, 0, 0, 0, 0, 0, 0]]
    y = [[START, 20, 21, END, 0, 0], [START, 22, 23, 24, 25, END], [START, END, 0, 0, 0, 0]]
    sums = objective(
        model,
        {**batch(y, x), "valid": tf.constant([1.0, 1.0, 0.0])},
        Key.of(0, tf.range(3, dtype=tf.int64)),
        training=False,
    )
    loss, right = 0.0, 0
    for source, target in [(x[0][:4], y[0][:4]), (x[1], y[1])]:
        logits = model({"x": tf.constant([source]), "y": tf.constant([target[:-1]])})[0].numpy()
        for row, label in zip(logits, target[1:], strict=True):
            loss -= row[label] - np.log(np.exp(row[:VOCAB]).sum())
            right += int(row.argmax() == label)
    assert sums.loss.numpy() == pytest.approx(loss, rel=1e-5) and sums.weight == 3 + 5
    assert sums.metrics["accuracy"][0] == right and sums.metrics["accuracy"][1] == 8


def test_the_corruption_of_an_evaluation_is_fixed():
    objective = made(adapted("spans", seq_length=32, noise_density=0.4))
    data = {
        "x": tf.tile(tf.range(6, 38)[None] % 24 + 6, (4, 1)),
        "position": tf.range(4, dtype=tf.int64),
    }
    fixed = [
        objective.example(data, Key.of(seed, data["position"]), False).source.numpy()
        for seed in (0, 1)
    ]
    drawn = [
        objective.example(data, Key.of(seed, data["position"]), True).source.numpy()
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(*fixed)
    assert (drawn[0] != drawn[1]).any() and (fixed[0] != fixed[0][0]).any()


ACTS = {
    "rpr_value_on": {"rpr_value_on": False},
    "rpr_k": {"rpr_k": [1]},
    "dropout": {"dropout": 0.3},
    "ffn_pdrop": {"ffn_pdrop": 0.3},
    "layer_drop": {"layer_drop": 0.5},
    "transformer_type": {"transformer_type": "post-layer-norm"},
    "activation": {"activation": "relu"},
    "norm_type": {"norm_type": "rms-norm"},
}


@pytest.mark.parametrize("name", ACTS)
def test_options_act_in_encoder_and_decoder(name):
    """MEAD takes --rpr_value_on, --ff_pdrop and --layer_drop here and ignores them."""
    plain = {"rpr_k": [3], "dropout": 0.0, "num_layers": 1}
    key = Key.of(0, tf.range(4, dtype=tf.int64))
    x, y = tf.constant(np.random.default_rng(0).integers(3, VOCAB, (2, 4, 6)), tf.int32)
    found = []
    for options in (plain, {**plain, **ACTS[name]}):
        model = fill(build_model(adapted(config=small(**options))))
        embedded = model.embeddings({"x": y})
        found.append(
            (
                model.encode({"x": x}, key=key).numpy(),
                model.decoder(embedded, embedded, key=key).numpy(),
            )
        )
        variables = named_variables(model)
        for stack, attention in (("encoder", ("attn",)), ("decoder", ("self_attn", "src_attn"))):
            for part in attention:
                assert (f"{stack}/0/{part}/rpr_value" in variables) == options.get(
                    "rpr_value_on", True
                )
    (encoded, decoded), (other, another) = found
    assert np.abs(encoded - other).max() > 1e-3 and np.abs(decoded - another).max() > 1e-3


def test_every_variable_learns_from_both_kinds_of_targets():
    for mode in ("none", "spans", "infilling"):
        spec = adapted(mode, seq_length=SEQ_LENGTH)
        model, objective = fill(build_model(spec)), made(spec)
        x = np.random.default_rng(0).integers(6, VOCAB, (4, SEQ_LENGTH))
        data = batch([[START, 7, 8, END, 0, 0]] * 4, x)
        if mode != "none":
            data.pop("y")
        variables = named_variables(model)
        with tf.GradientTape() as tape:
            sums = objective(model, data, Key.of(0, data["position"]), training=True)
        for path, gradient in tape.gradient(
            sums.loss, {p: v.value for p, v in variables.items()}
        ).items():
            assert gradient is not None and np.isfinite(tf.convert_to_tensor(gradient)).all(), path


def test_the_spec_says_what_the_model_was_trained_on():
    pairs = adapted()
    assert (pairs.vocab_size, pairs.seq_length_y, pairs.sentinels, pairs.y_prefix_id) == (
        VOCAB,
        SEQ_LENGTH_Y,
        0,
        None,
    )
    spans = adapted("spans", seq_length=64, noise_density=0.3)
    # 64 tokens: 19 taken in 6 spans; 6 sentinels and the one that ends a target.
    assert (spans.sentinels, spans.vocab_size, spans.seq_length_y) == (7, VOCAB + 7, 19 + 6 + 1)
    assert spans.y_prefix_id == spans.y_suffix_id == VOCAB + 6
    assert ModelSpec.from_json(spans.to_json(), "test") == spans
    kept = adapted(sentinels=7)
    assert kept.vocab_size == spans.vocab_size and kept.seq_length_y == SEQ_LENGTH_Y
    assert (
        made(spans).tokens(spans) == 64 and made(pairs).tokens(pairs) == SEQ_LENGTH + SEQ_LENGTH_Y
    )
    assert made(spans).predictions(64) == 26
    # What is left of 64 tokens is read: 64 - 19 + 6.
    longer = replace(spans, seq_length=51, denoising=None)
    assert made(spans).flops(spans) == made(replace(longer, seq_length_y=26)).flops(longer)
    assert objective_of_kind("seq2seq") == "seq2seq"


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda: adapted(lengths={"x": 8}), "no targets .*--denoise"),
        (lambda: adapted("spans", lengths={"x": 8, "y": 8}), "records are pairs"),
        (
            lambda: made(adapted()).example(
                {"x": tf.zeros((1, 8), tf.int32)}, Key.of(0, tf.zeros(1, tf.int64)), True
            ),
            "trained on pairs",
        ),
        (
            lambda: made(adapted("spans")).example(
                batch([[1] * 6]), Key.of(0, tf.zeros(1, tf.int64)), True
            ),
            "these are pairs",
        ),
        (
            lambda: build_model(adapted(config=ModelConfig(mlp=True, d_model=16, d_ff=32))),
            "a decoder cannot be made of it",
        ),
    ],
)
def test_wrong_use(run, message):
    with pytest.raises(UsageError, match=message):
        run()
