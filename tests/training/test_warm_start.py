"""Warm start from other weights: what is loaded, reported and refused; and a run."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from tests import preloaded
from tests.paths import DATA_FILES, ROOT
from tests.toy import BARE, toy_dataset
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.config import ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.compatibility import flags
from tpu_tlm.formats.load import load
from tpu_tlm.formats.mead.npz import described_by_options
from tpu_tlm.formats.pretrained import PretrainedModel
from tpu_tlm.formats.save import save
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training.warm_start import check_start, start_values, without_foreign_head

BERT = ModelConfig(
    **{
        "d_model": 32,
        "d_ff": 64,
        "num_heads": 2,
        "num_layers": 1,
        "rpr_k": [0],
        "position_encoding": ["learned"],
        "max_positions": 16,
    },
    **{
        "embeddings_reduction": "sum-layer-norm",
        "transformer_type": "post-layer-norm",
        "type_vocab_size": 2,
    },
    **{"mlm_head": "bert", "output_bias": True, "dropout": 0.0},
)


def saved_of(config, tokenizer=None, size=45, seed=3):
    spec = ModelSpec(config, size, 16)
    values = {path: v.numpy() for path, v in named_variables(build_model(spec, seed=seed)).items()}
    fingerprint = tokenizer.fingerprint() if tokenizer else None
    return PretrainedModel(
        values, spec, "weights", fingerprint=fingerprint, own_tokenizer=tokenizer
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("corpus") / "train")


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return open_dataset(str(corpus)).load_tokenizer()


def test_a_new_head_is_random_and_said_to_be(tokenizer):
    encoder, own = (
        saved_of(replace(BERT, mlm_head="none", output_bias=False)),
        saved_of(BERT, seed=9),
    )
    check_start(encoder, own.spec, tokenizer, "x")
    values, table = start_values(
        encoder.replaced(extras={"pooler/kernel": np.zeros((2, 2))}, unused=("adam",)),
        own.values,
        "x",
    )
    assert set(values) == set(own.values)
    for path, value in values.items():
        np.testing.assert_array_equal(
            value, own.values[path] if path.startswith("head/") else encoder.values[path]
        )
    text = "\n".join(table)
    assert "new: random" in text and "not used: pooler/kernel, adam" in text
    count = sum(v.size for p, v in encoder.values.items() if p.startswith("encoder/"))
    assert any("encoder" in line and f"{count:,}" in line and "loaded" in line for line in table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_heads": 4}, "--num_heads 2"),
        ({"layer_norm_eps": 1e-5}, "--layer_norm_eps 1e-12"),
        ({"activation": "relu"}, "--activation gelu"),
        ({"transformer_type": "pre-layer-norm"}, "--transformer_type post-layer-norm"),
        ({"position_encoding": ["learned", "shaw"], "rpr_k": [8]}, "--position_encoding learned"),
        ({"position_encoding": []}, "--position_encoding learned --max_positions 16"),
        ({"max_positions": 32}, "--max_positions 16"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(change, says, tokenizer):
    with pytest.raises(UsageError, match=says):
        check_start(
            saved_of(BERT), ModelSpec(replace(BERT, **change), 45, 16), tokenizer, "--init_from x"
        )
    check_start(
        saved_of(BERT),
        ModelSpec(replace(BERT, dropout=0.3, recompute=True), 45, 16),
        tokenizer,
        "x",
    )


def test_another_vocabulary_is_refused(tokenizer, tmp_path):
    other = open_dataset(str(toy_dataset(tmp_path / "other", words=41))).load_tokenizer()
    with pytest.raises(UsageError, match="another tokenizer"):
        check_start(saved_of(BERT, other, 46), ModelSpec(BERT, 45, 16), tokenizer, "x")
    with pytest.raises(UsageError, match="46 entries"):
        check_start(saved_of(BERT, size=46), ModelSpec(BERT, 45, 16), tokenizer, "x")


GOLDEN = DATA_FILES / "golden_mead"


@pytest.mark.parametrize(
    ("file", "asked", "kind"),
    [
        ("mlm_rpr8", "mlm", "mlm"),
        ("mlm_rpr8", "dual", "embed"),
        ("mlm_rpr8", "electra", "embed"),
        ("dual_sha", "dual", "dual"),
        ("dual_sha", "mlm", "dual"),
        ("seq2seq_rpr3", "seq2seq", "seq2seq"),
    ],
)
def test_a_file_of_meads_is_read_as_what_it_holds(file, asked, kind):
    config = ModelConfig(
        d_model=32,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        transformer_type="mead",
        compat="mead",
        mask_pad=False,
    )
    config = replace(
        config,
        **{"rpr_k": [8]}
        if file == "mlm_rpr8"
        else {"rpr_k": [3], "mask_pad": True, "layer_norm_eps": 1e-6},
    )
    if file == "dual_sha":
        config = replace(
            config, reduction_type="sha", reduction_d_k=16, d_out=24, rpr_value_on=False
        )
    saved = load(str(GOLDEN / f"{file}.npz"), describe=described_by_options(config, asked, 16))
    assert saved.spec.kind == kind and saved.spec.vocab_size == 60
    if asked in ("dual", "electra") and kind == "embed":
        generator = (
            replace(config, d_model=16, d_ff=16, num_heads=2, embedding_size=32)
            if asked == "electra"
            else None
        )
        own = ModelSpec(
            config,
            60,
            16,
            kind=asked,
            seq_length_y=16 if asked == "dual" else None,
            generator=generator,
        )
        initial = {path: v.numpy() for path, v in named_variables(build_model(own)).items()}
        values, _ = start_values(without_foreign_head(saved, asked), initial, "x")
        for path, value in saved.values.items():
            np.testing.assert_array_equal(values[path], value)


def test_a_run_starts_from_a_huggingface_directory(corpus, tokenizer, tmp_path):
    saved = saved_of(BERT, tokenizer)
    save(saved, str(tmp_path / "hf"), "hf")
    given = [
        "--train_dir",
        corpus,
        "--run_dir",
        tmp_path / "run",
        "--init_from",
        tmp_path / "hf",
        *flags(BERT).split(),
    ]
    given += "--batch_size 8 --steps 1 --warmup_steps 0 --lr 1e-30".split()
    given += ["--weight_decay", "0", "--distribute", "none", "--xla", "false", *BARE]
    done = preloaded.run(
        [sys.executable, "-m", "tpu_tlm.train", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fresh optimizer" in done.stdout and "loaded" in done.stdout
    arrays = Checkpoints(str(tmp_path / "run" / "checkpoints")).newest().load()
    for path, value in saved.values.items():
        np.testing.assert_allclose(arrays[f"model/{path}"], value, atol=1e-20, rtol=0, err_msg=path)
