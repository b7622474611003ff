"""Vectors of texts: pooling, order, static shapes, every kind of model with an encoder."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.toy import toy_dataset
from tpu_tlm.config import DenoisingConfig, ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.inference.embed import POOLINGS, Encoder, encode
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

TEXTS = ["w1 w2 w3", "w9", " ".join(f"w{i}" for i in range(30)), "w5 w6 w7 w8 w9"]
SMALL = ModelConfig(d_model=32, d_ff=64, num_heads=2, num_layers=1, rpr_k=[2], d_out=24)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    data = toy_dataset(tmp_path_factory.mktemp("toy") / "data", examples=3, shards=1)
    return open_dataset(str(data)).load_tokenizer()


def make(tokenizer, kind="mlm", config=SMALL, **fields):
    frame = {"prefix_id": tokenizer.cls_id, "suffix_id": tokenizer.sep_id}
    spec = ModelSpec(config, len(tokenizer.tokens), 40, kind=kind, **frame, **fields)
    return build_model(spec, seed=1), spec


def ids_of(tokenizer, text, limit=40):
    return [tokenizer.cls_id, *tokenizer.encode(text)[: limit - 2], tokenizer.sep_id]


def test_the_poolings_are_those_of_the_hidden_states(tokenizer):
    model, spec = make(tokenizer)
    encoder = Encoder(model, spec, tokenizer)
    for pooling in POOLINGS:
        found = encoder(TEXTS, pooling=pooling, batch_size=2)
        assert found.shape == (4, 32) and found.dtype == np.float32
        for vector, text in zip(found, TEXTS, strict=True):
            hidden = model.encode(tf.constant([ids_of(tokenizer, text)])).numpy()[0]
            expected = {
                "mean": hidden.mean(0),
                "cls": hidden[0],
                "max": hidden.max(0),
                "last": hidden[-1],
                "sqrt_length": hidden.sum(0) / np.sqrt(len(hidden)),
            }[pooling]
            np.testing.assert_allclose(vector, expected, atol=1e-4)


def test_a_vector_does_not_depend_on_the_batch(tokenizer):
    model, spec = make(tokenizer)
    whole = encode(model, spec, tokenizer, TEXTS * 3, batch_size=5)
    np.testing.assert_allclose(whole[:4], whole[4:8], atol=1e-5)
    alone = np.concatenate([encode(model, spec, tokenizer, [t], batch_size=1) for t in TEXTS])
    np.testing.assert_allclose(whole[:4], alone, atol=1e-5)


def test_few_shapes_are_traced(tokenizer):
    model, spec = make(tokenizer)
    encoder = Encoder(model, spec, tokenizer)
    encoder([" ".join(["w1"] * n) for n in range(1, 38)], batch_size=4)
    assert encoder._program("mean").experimental_get_tracing_count() == 3  # 16, 32 and 40 tokens


def test_long_texts_are_cut_and_keep_their_frame(tokenizer):
    model, spec = make(tokenizer)
    (found,) = encode(model, spec, tokenizer, [TEXTS[2]], max_length=8)
    hidden = model.encode(tf.constant([ids_of(tokenizer, TEXTS[2], 8)])).numpy()[0]
    np.testing.assert_allclose(found, hidden.mean(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["mlm", "clm", "embed", "discriminator", "electra", "seq2seq"])
def test_every_kind_with_an_encoder(kind, tokenizer):
    more = {"generator": SMALL} if kind == "electra" else {}
    if kind == "seq2seq":
        more = {"seq_length_y": 8, "denoising": DenoisingConfig(sentinels=0)}
    model, spec = make(tokenizer, kind, **more)
    found = encode(model, spec, tokenizer, TEXTS)
    assert found.shape == (4, 32) and np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_dual_encoder_has_vectors_of_its_own(tokenizer):
    model, spec = make(tokenizer, "dual", seq_length_y=8)
    assert encode(model, spec, tokenizer, TEXTS).shape == (4, 24)
    assert encode(model, spec, tokenizer, TEXTS, pooling="mean").shape == (4, 32)
    assert encode(model, spec, tokenizer, []).shape == (0, 24)


def test_gated_blocks_have_one_length(tokenizer):
    model, spec = make(tokenizer, config=ModelConfig(d_model=32, d_ff=64, num_layers=1, mlp=True))
    assert encode(model, spec, tokenizer, TEXTS[:2], batch_size=2).shape == (2, 32)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pooling": "median"}, "--pooling median"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"max_length": 2}, "--max_length 2"),
    ],
)
def test_impossible_options_are_refused(options, word, tokenizer):
    model, spec = make(tokenizer)
    with pytest.raises(UsageError, match=word):
        encode(model, spec, tokenizer, TEXTS, **options)


def test_a_text_without_tokens_is_refused(tokenizer):
    spec = ModelSpec(SMALL, len(tokenizer.tokens), 16)
    with pytest.raises(UsageError, match="text 2"):
        encode(build_model(spec, seed=1), spec, tokenizer, ["w1", " "])
    with pytest.raises(UsageError, match="list"):
        encode(build_model(spec, seed=1), spec, tokenizer, "w1")
