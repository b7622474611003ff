"""Every preset's form, at toy size and with its own rates scaled for the width, learns context."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy import WORDS
from tests.toy_runs import Corpus, fit
from tpu_tlm.config import Config

SIZES = {"num_layers": 2, "d_model": 64, "num_heads": 2, "d_ff": 128}
# Initial weights and rate for this width; docs/defaults.md says where they are from.
RATE = {"lr": 3e-3, "weight_std": 0.08, "dropout": 0.0, "embeddings_dropout": 0.0}
# `make test-all` has the others too.
SOONER = ("modernbert-tiny", "bert-tiny")
FAMILIES = {
    "modernbert-tiny": {},
    "bert-tiny": {},
    "roberta-base": {},
    "gpt2": {},
    "electra-small": {"embedding_size": 64, "gen_fraction": 1.0},
}


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=[pytest.mark.long] if name not in SOONER else [])
        for name in FAMILIES
    ],
)
def test_a_family_learns_what_stands_beside_what(
    preset: str, toy_corpus: Corpus, tmp_path: Path
) -> None:
    import numpy as np

    config = Config.preset(
        preset,
        train_dir=str(toy_corpus.train),
        valid_dir=str(toy_corpus.valid),
        run_dir=str(tmp_path / "run"),
        steps=400,
        batch_size=32,
        save_steps=400,
        distribute="none",
        report=False,
        tensorboard=False,
        samples=0,
        **SIZES,
        **RATE,
        **FAMILIES[preset],
    )
    validation = fit(config).validation
    loss = validation.get("generator_loss", validation["loss"])
    # The words of the toy corpus are equally frequent.
    assert loss < np.log(WORDS) - 1.0
