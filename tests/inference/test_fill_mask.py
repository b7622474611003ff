"""Filling masks of texts of several lengths with one model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.toy import toy_dataset
from tpu_tlm.config import ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.inference.fill_mask import FillMask
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec


@pytest.mark.parametrize("encoding", [["shaw"], ["learned", "shaw"]])
def test_texts_of_different_lengths(encoding, tmp_path):
    tokenizer = open_dataset(
        str(toy_dataset(tmp_path / "data", examples=3, shards=1))
    ).load_tokenizer()
    config = ModelConfig(
        d_model=32, d_ff=64, num_heads=2, num_layers=1, rpr_k=[2], position_encoding=encoding
    )
    spec = ModelSpec(config, len(tokenizer.tokens), 16, prefix_id=tokenizer.cls_id)
    model = build_model(spec, seed=1)
    fill = FillMask(model, spec, tokenizer)
    for text in ("w1 [MASK] w3", "w1 w2 w3 [MASK] w5", "[MASK]", "w9 [MASK] [MASK] w7"):
        ids = [tokenizer.cls_id, *tokenizer.encode(text)]
        expected = tf.nn.softmax(model(tf.constant([ids]))[0, :, : spec.vocab_size]).numpy()
        masks = fill(text, 3)
        places = [at for at, i in enumerate(ids) if i == tokenizer.mask_id]
        assert len(masks) == len(places)
        for guesses, at in zip(masks, places, strict=True):
            assert [g.id for g in guesses] == list(np.argsort(-expected[at], kind="stable")[:3])
            np.testing.assert_allclose(
                [g.probability for g in guesses], np.sort(expected[at])[::-1][:3], rtol=1e-4
            )
    with pytest.raises(UsageError, match="no .MASK."):
        fill("w1 w2", 3)
