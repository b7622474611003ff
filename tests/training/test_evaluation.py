"""Evaluation of trained models: the objective of a run, its options, and flags without effect."""

from __future__ import annotations

import json
import math

import pytest

from tests.command_modules import evaluate
from tests.toy_runs import fit, options_of
from tpu_tlm.errors import UsageError
from tpu_tlm.training.metrics import read_metrics

OWN = """
from tpu_tlm.objectives.mlm import MaskedLanguageModeling
from tpu_tlm.objectives import LossSums

class Doubled(MaskedLanguageModeling):
    name, perplexity = "doubled", False

    def __call__(self, model, batch, key, *, training):
        sums = super().__call__(model, batch, key, training=training)
        return sums._replace(loss=2.0 * sums.loss)
"""
QUICK = ("--distribute", "none", "--xla", "false")


def evaluated(capsys, model, data, *flags):
    given = ["--model", model, "--data", data, *QUICK, *flags]
    assert evaluate.main([str(flag) for flag in given]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def last_validation(run_dir):
    records = read_metrics(str(run_dir / "metrics.jsonl"))
    return [r for r in records if r["kind"] == "valid"][-1]


def test_a_run_with_an_own_objective_is_evaluated_with_it(toy_corpus, tmp_path, capsys):
    path, run_dir = tmp_path / "own.py", tmp_path / "run"
    path.write_text(OWN)
    flags = ("--steps", 2, "--eval_steps", 2, "--warmup_steps", 0)
    flags += ("--objective", f"{path}:Doubled")
    fit(options_of(toy_corpus, run_dir, *flags))
    result = evaluated(capsys, run_dir, toy_corpus.valid)
    assert result["objective"] == f"{path}:Doubled" and "perplexity" not in result
    assert result["loss"] == pytest.approx(last_validation(run_dir)["loss"], rel=1e-5)
    built_in = evaluated(capsys, run_dir, toy_corpus.valid, "--objective", "mlm")
    assert built_in["loss"] == pytest.approx(result["loss"] / 2.0, rel=1e-5)
    assert built_in["perplexity"] == pytest.approx(math.exp(built_in["loss"]))
    path.unlink()
    with pytest.raises(UsageError, match="own.py.*--objective"):
        evaluated(capsys, run_dir, toy_corpus.valid)


def test_an_option_of_evaluation_has_an_effect(toy_run, capsys):
    base = evaluated(capsys, toy_run.run_dir, toy_run.corpus.valid)
    more = evaluated(capsys, toy_run.run_dir, toy_run.corpus.valid, "--eval_mask_rate", "0.5")
    assert more["targets"] > 2 * base["targets"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--loss", "triplet"),
        ("--margin", "0.5"),
        ("--disc_weight", "3"),
        ("--label_one", "original"),
        ("--candidates", "10"),
    ],
    ids=lambda flags: flags[0],
)
def test_a_flag_without_effect_is_refused(flags, toy_run, capsys):
    with pytest.raises(UsageError, match=f"{flags[0]} {flags[1]}.* mlm does not use it"):
        evaluated(capsys, toy_run.run_dir, toy_run.corpus.valid, *flags)


def test_an_objective_of_another_kind_is_refused(toy_run, capsys):
    with pytest.raises(UsageError, match="--objective clm.*'clm'.*'mlm'"):
        evaluated(capsys, toy_run.run_dir, toy_run.corpus.valid, "--objective", "clm")


def test_a_ranking_objective_has_candidates_and_no_batch_size(contract_run, capsys):
    trained = contract_run("dual-encoder")
    result = evaluated(capsys, trained.run, trained.valid, "--candidates", "10")
    assert (result["candidates"], result["left_out"], result["examples"]) == (10, 1, 21)
    for flags, word in (
        (("--batch_size", "8"), "--batch_size 8"),
        (("--candidates", "22"), "--candidates 22"),
        (("--margin", "0.5", "--candidates", "10"), "--margin 0.5"),
        (("--eval_mask_rate", "0.5", "--candidates", "10"), "--eval_mask_rate 0.5"),
    ):
        with pytest.raises(UsageError, match=word):
            evaluated(capsys, trained.run, trained.valid, *flags)
