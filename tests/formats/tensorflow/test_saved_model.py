"""SavedModels that take raw strings: tokenizers in the graph, outputs of a served model."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tensorflow as tf

from tests.paths import DATA_FILES
from tpu_tlm.config import ModelConfig, TokenizerConfig
from tpu_tlm.data.tokenizers.factory import make_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import check_same, save
from tpu_tlm.formats.tensorflow.graph_tokenizers import GraphTokenizer
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

FILES = DATA_FILES / "tokenizers"
ODD = [
    *(
        "",
        "   ",
        "[MASK]",
        "a [MASK] b[SEP]c <EOS><unk>[MASK]",
        "price$5.00+tax=^`|~ don't",
        "a\u200bb zero\u00adwidth\u2028sep\tTab\r\n",
    ),
    *(
        "Café naïve 東京 5€ — “quoted”",
        "ﬁne Straße İstanbul ΣΊΣΥΦΟΣ",
        "x\x07y \x7f \ufffd",
        "e\u0301 n\u0303",
        "long" * 30,
        "가나다 한국어",
    ),
    *(
        "मानक हिन्दी",
        "emoji 😀👍🏽 👨\u200d👩\u200d👧",
        "\u0085nel \u3000wide\xa0nbsp",
        "the the the congress of the united states",
    ),
]


def bpe(cased=True):
    return make_tokenizer(
        TokenizerConfig(codes=str(FILES / "codes"), vocab=str(FILES / "vocab"), cased=cased)
    )


def wordpiece(cased=True):
    return make_tokenizer(
        TokenizerConfig(subword_type="wordpiece", vocab=str(FILES / "vocab.txt"), cased=cased)
    )


def texts(count=150):
    rng = random.Random(3)
    blocks = [
        (32, 127),
        (160, 0x250),
        (0x300, 0x600),
        (0x3000, 0xA000),
        (0x1F300, 0x1F700),
        (0x2000, 0x2100),
    ]
    noise = [
        "".join(chr(rng.randrange(*rng.choice(blocks))) for _ in range(25)) for _ in range(count)
    ]
    return [*ODD, *(FILES / "speech.txt").read_text().splitlines()[:60], *noise]


def assert_alike(tokenizer):
    some = texts()
    found = GraphTokenizer(tokenizer)(tf.constant(some)).to_list()
    for text, ids in zip(some, found, strict=True):
        assert ids == tokenizer.encode(text), text


@pytest.mark.parametrize("cased", [True, False])
def test_bpe_in_the_graph_splits_alike(cased):
    assert_alike(bpe(cased))


@pytest.mark.parametrize("cased", [True, False])
def test_wordpiece_in_the_graph_splits_alike(cased):
    pytest.importorskip("tensorflow_text")
    assert_alike(wordpiece(cased))


def model_of(tokenizer, kind="mlm", **config):
    settings = {
        "d_model": 32,
        "d_ff": 64,
        "num_heads": 2,
        "num_layers": 2,
        "rpr_k": [3],
        "mask_pad": False,
        **config,
    }
    frame = {"prefix_id": tokenizer.cls_id, "eol_id": tokenizer.sep_id} if kind == "mlm" else {}
    spec = ModelSpec(
        ModelConfig(**settings), len(tokenizer.tokens), 24, tokenizer.pad_id, kind, **frame
    )
    values = {path: v.numpy() for path, v in named_variables(build_model(spec, seed=2)).items()}
    return PretrainedModel(
        values, spec, "test", own_tokenizer=tokenizer, fingerprint=tokenizer.fingerprint()
    )


def served(saved, directory, **options):
    save(saved, str(directory), "savedmodel", **options)
    return tf.saved_model.load(str(directory)).signatures


def assert_serves(saved, directory):
    tokenizer, spec = saved.tokenizer(), saved.spec
    lines = ["we will build a strong nation", "the [MASK] of the people", "peace"]
    found = served(saved, directory)["serving_default"](text=tf.constant(lines))
    model = saved.model()
    for row, line in enumerate(lines):
        frame = (spec.prefix_id, *tokenizer.encode(line), spec.eol_id)
        ids = [i for i in frame if i is not None]
        np.testing.assert_array_equal(
            found["input_ids"][row], ids + [spec.pad_id] * (24 - len(ids))
        )
        alone = model(tf.constant([ids]))[0, :, : spec.vocab_size]  # the very text, without padding
        np.testing.assert_allclose(found["logits"][row, : len(ids)], alone, atol=1e-5)
        np.testing.assert_allclose(
            found["hidden"][row, : len(ids)], model.encode(tf.constant([ids]))[0], atol=1e-5
        )


def test_raw_strings_give_the_same_logits(tmp_path):
    saved = model_of(bpe())
    assert_serves(saved, tmp_path / "served")
    back = load(str(tmp_path / "served"))
    assert check_same(saved, back) == len(saved.values)
    assert back.tokenizer().fingerprint() == saved.tokenizer().fingerprint()


def test_raw_strings_through_wordpiece(tmp_path):
    pytest.importorskip("tensorflow_text")
    assert_serves(model_of(wordpiece()), tmp_path / "served")


def test_a_causal_model_and_an_encoder_are_served(tmp_path):
    causal = served(model_of(bpe(), kind="clm"), tmp_path / "causal", length=8)["serving_default"](
        text=tf.constant(["peace " * 30, "a"])
    )
    assert causal["input_ids"].shape == (2, 8) and causal["logits"].shape[:2] == (2, 8)
    saved = model_of(bpe(), kind="embed")
    rng = np.random.default_rng(0)
    saved = saved.replaced(
        extras={
            "pooler/kernel": rng.normal(size=(32, 32)).astype("f4"),
            "pooler/bias": rng.normal(size=32).astype("f4"),
        }
    )
    found = served(saved, tmp_path / "embed")["serving_default"](text=tf.constant(["peace"]))
    assert set(found) == {"input_ids", "hidden", "pooled"}
    expected = np.tanh(
        found["hidden"][:, 0] @ saved.extras["pooler/kernel"] + saved.extras["pooler/bias"]
    )
    np.testing.assert_allclose(found["pooled"], expected, atol=1e-5)
    assert set(load(str(tmp_path / "embed")).extras) == set(saved.extras)


def test_what_cannot_be_served_says_why(tmp_path):
    saved = model_of(bpe())
    with pytest.raises(UsageError, match="--length 25.*24"):
        save(saved, str(tmp_path / "a"), "savedmodel", length=25)
    with pytest.raises(UsageError, match="no tokenizer"):
        save(saved.replaced(own_tokenizer=None), str(tmp_path / "b"), "savedmodel")
