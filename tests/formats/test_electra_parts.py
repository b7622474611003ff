"""ELECTRA's two models out of one: what each computes, and where each can go."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests import hf
from tpu_tlm.config import ElectraConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.electra_parts import PARTS, part_of
from tpu_tlm.formats.huggingface.read import read_hf
from tpu_tlm.formats.huggingface.safetensors import decode
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.formats.mead.npz import npz_bytes
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import check_same, save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.electra import generator_of

VOCAB, LENGTH = 99, 12
# As HuggingFace's ELECTRA computes.
CONFIG = ModelConfig(
    **{
        "d_model": 32,
        "d_ff": 64,
        "num_heads": 4,
        "num_layers": 2,
        "embedding_size": 16,
        "rpr_k": [0],
        "position_encoding": ["learned"],
        "max_positions": 20,
    },
    **{
        "embeddings_reduction": "sum-layer-norm",
        "transformer_type": "post-layer-norm",
        "type_vocab_size": 2,
        "activation": "gelu-exact",
    },
    **{"mlm_head": "bert", "output_bias": True, "dropout": 0.0},
)
X = tf.constant(
    np.where(
        np.arange(LENGTH) < [[12], [7]], np.random.default_rng(0).integers(5, VOCAB, (2, LENGTH)), 0
    ),
    tf.int32,
)
POSITIONS = tf.constant([list(range(LENGTH))] * 2)


def electra(config=CONFIG, fraction=0.75):
    spec = ModelSpec(
        config,
        VOCAB,
        LENGTH,
        kind="electra",
        generator=generator_of(config, ElectraConfig(gen_fraction=fraction)),
    )
    rng = np.random.default_rng(1)
    values = {
        p: (0.2 * rng.standard_normal(v.shape)).astype(np.float32)
        for p, v in named_variables(build_model(spec)).items()
    }
    values["embeddings/x/table"][VOCAB:] = 0
    if "generator/head/bias" in values:
        values["generator/head/bias"][VOCAB:] = 0
    return PretrainedModel(values, spec, "here")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"embedding_size": None},
        {"embedding_size": None, "embeddings_reduction": "concat"},
        {"tie_weights": False, "mlm_head": "none"},
    ],
)
def test_each_part_computes_what_it_did_inside(change):
    saved = electra(
        replace(CONFIG, **change),
        fraction=1.0 if change == {"embedding_size": None} else 0.5 if not change else 0.75,
    )
    whole = saved.model()
    discriminator, generator = (part_of(saved, part) for part in PARTS)
    assert (discriminator.spec.kind, generator.spec.kind) == ("discriminator", "mlm")
    np.testing.assert_allclose(discriminator.model()(X), whole(X), atol=1e-6)
    np.testing.assert_allclose(generator.model()(X), whole.generate(X, POSITIONS), atol=1e-5)


def test_the_npz_is_meads_discriminator_and_a_generator_under_keys_of_our_own(tmp_path):
    saved = electra()
    save(saved, str(tmp_path / "both.npz"), "npz")
    assert check_same(saved, load(str(tmp_path / "both.npz"))) == len(saved.values)
    both = read_npz((tmp_path / "both.npz").read_bytes(), "both")
    alone = read_npz(npz_bytes(part_of(saved, "discriminator")), "alone")
    own = {key for key in both if key.startswith("tpu_tlm/")}
    assert set(both) - own == {key for key in alone if not key.startswith("tpu_tlm/")}
    generator = read_npz(npz_bytes(part_of(saved, "generator")), "generator")
    for key in (k for k in generator if "TransformerEncoderStack" in k):
        np.testing.assert_array_equal(both[f"tpu_tlm/generator/{key}"], generator[key])


@pytest.mark.parametrize(
    ("part", "architecture"),
    [("discriminator", "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")],
)
def test_huggingface_directory(part, architecture, tmp_path):
    """Read back by config.json without our spec, the logits are those of the training model."""
    saved = electra()
    save(part_of(saved, part), str(tmp_path / "hf"), "hf", family="electra")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (
        config["architectures"] == [architecture]
        and config["model_type"] == "electra"
        and config["embedding_size"] == 16
    )
    arrays = decode((tmp_path / "hf" / "model.safetensors").read_bytes(), "hf")
    head = {
        "discriminator": "discriminator_predictions.dense_prediction.weight",
        "generator": "generator_lm_head.bias",
    }
    assert [name in arrays for name in head.values()] == [name == part for name in head]
    del config["tpu_tlm"]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    back = read_hf(str(tmp_path / "hf"))
    assert back.unused == ()
    whole = saved.model()
    expected = whole(X) if part == "discriminator" else whole.generate(X, POSITIONS)[..., :VOCAB]
    found = back.model()(X)
    real = X.numpy() != 0
    np.testing.assert_allclose(
        (found if part == "discriminator" else found[..., :VOCAB])[real], expected[real], atol=1e-5
    )


def test_what_has_no_parts_and_what_has_no_place(tmp_path):
    saved = electra()
    with pytest.raises(UsageError, match="only a model trained with --objective electra"):
        part_of(part_of(saved, "generator"), "generator")
    with pytest.raises(UsageError, match="'electra' cannot be written"):
        save(saved, str(tmp_path / "hf"), "hf")
    plain = electra(replace(CONFIG, mlm_head="none", output_bias=False))
    with pytest.raises(UsageError, match="--mlm_head bert"):
        save(part_of(plain, "discriminator"), str(tmp_path / "hf"), "hf")


@hf.needs_torch
@pytest.mark.parametrize(
    ("part", "architecture"),
    [("discriminator", "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")],
)
def test_transformers_computes_the_same(part, architecture, tmp_path):
    saved = electra()
    save(part_of(saved, part), str(tmp_path / "hf"), "hf", family="electra")
    x = X.numpy()
    found = hf.outputs(hf.load(architecture, tmp_path / "hf"), x, x != 0)["logits"]
    whole = saved.model()
    expected = whole(X) if part == "discriminator" else whole.generate(X, POSITIONS)[..., :VOCAB]
    np.testing.assert_allclose(found[x != 0], expected[x != 0], atol=1e-5)
