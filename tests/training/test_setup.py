"""From options to a model's spec: what does not fit the examples is refused, whatever the objective."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tpu_tlm.config import Config, cli
from tpu_tlm.errors import UsageError
from tpu_tlm.planning.stand_in import stand_in
from tpu_tlm.training.setup import check_batch, spec_of

LENGTHS = {
    "mlm": {"x": 16},
    "clm": {"x": 16},
    "electra": {"x": 16},
    "discriminator": {"x": 16, "y": 16},
}
LENGTHS |= {"dual-encoder": {"x": 12, "y": 16}, "seq2seq": {"x": 16, "y": 12}}


def spec(objective, corpora, *flags):
    given = [
        "--train_dir",
        "x",
        "--run_dir",
        "y",
        "--objective",
        objective,
        "--embed_type",
        "learned-positional",
        *flags,
    ]
    return spec_of(Config(*cli.parse("train", "", Config.groups(), given)), corpora)


@pytest.mark.parametrize("objective", list(LENGTHS))
def test_fewer_positions_than_tokens_are_refused(objective):
    corpora = stand_in(30, LENGTHS[objective])
    with pytest.raises(
        UsageError, match="--max_positions 10: texts of 16 tokens need as many positions"
    ):
        spec(objective, corpora, "--max_positions", "10")
    assert spec(objective, corpora, "--max_positions", "16").config.max_positions == 16
    assert spec(objective, corpora).config.max_positions is None


def test_a_target_may_be_longer_than_its_text():
    corpora = stand_in(30, {"x": 8})
    bare = replace(corpora, train=replace(corpora.train, metadata={}))
    with pytest.raises(UsageError, match="--max_positions 8: texts of 9 tokens"):
        spec("seq2seq", bare, "--denoise", "infilling", "--max_positions", "8")


def test_a_batch_whose_examples_are_compared_leaves_some_to_compare_with():
    def checked(objective, batch, accum):
        given = [
            "--train_dir",
            "x",
            "--run_dir",
            "y",
            "--objective",
            objective,
            "--batch_size",
            str(batch),
            "--grad_accum",
            str(accum),
        ]
        check_batch(Config(*cli.parse("train", "", Config.groups(), given)), 1)

    checked("dual-encoder", 8, 4)
    checked("mlm", 2, 1)
    with pytest.raises(
        UsageError,
        match="--batch_size 8 with --grad_accum 8: --objective dual-encoder",
    ):
        checked("dual-encoder", 8, 8)
