"""An ELECTRA through the commands: training, evaluation, masks, exports, warm start."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command_modules import convert, evaluate, predict, train
from tests.toy import BARE, toy_dataset, toy_labels
from tpu_tlm.config import ElectraConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.electra_parts import part_of
from tpu_tlm.formats.load import load
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.objectives.electra import generator_of
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.warm_start import check_start, start_values, without_foreign_head

BERT = (
    "--embed_type learned-positional --embeddings_reduction sum-layer-norm"
    " --transformer_type post-layer-norm --rpr_k 0 --type_vocab_size 2"
)
SIZES = (
    "--d_model 32 --d_ff 64 --num_heads 2 --num_layers 1 --mlm_head bert --output_bias"
    " --activation gelu-exact --gen_fraction 0.5"
)
STEPS = (
    "--steps 6 --save_steps 6 --batch_size 8 --warmup_steps 2 --lr 1e-2 --xla false"
    " --distribute none"
)

WEIGHT = 20.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("electra")
    data = [
        str(toy_dataset(base / name, examples=32, shards=1, seed=seed))
        for seed, name in enumerate(("train", "valid"))
    ]
    flags = [
        "--train_dir",
        data[0],
        "--valid_dir",
        data[1],
        "--run_dir",
        str(base / "run"),
        *f"{BERT} {SIZES} {STEPS}".split(),
        *BARE,
    ]
    assert train.main([*flags, "--objective", "electra", "--disc_weight", str(WEIGHT)]) == 0
    return base, flags


def test_the_loss_is_the_sum_of_the_two_means(trained):
    base, _ = trained
    records = read_metrics(str(base / "run" / "metrics.jsonl"))
    assert {r["kind"] for r in records} == {"train", "valid"}
    for record in records:
        assert record["loss"] == pytest.approx(
            record["generator_loss"] + WEIGHT * record["discriminator_loss"], rel=1e-5
        )
        assert 0 < record["replaced"] < 0.2 and "perplexity" not in record


def test_it_is_measured_and_fills_masks(trained, capsys):
    base, _ = trained
    last = [r for r in read_metrics(str(base / "run" / "metrics.jsonl")) if r["kind"] == "valid"][
        -1
    ]
    assert convert.main([str(base / "run"), str(base / "run.npz")]) == 0
    # What is not given is the run's; an NPZ does not say what it was, and gets the default.
    for model, given, weight in (
        ("run", [], WEIGHT),
        ("run", ["--disc_weight", "10"], 10.0),
        ("run.npz", [], 50.0),
    ):
        asked = [
            "--model",
            str(base / model),
            "--data",
            str(base / "valid"),
            *given,
            "--distribute",
            "none",
        ]
        assert evaluate.main([*asked, "--xla", "false"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert found["loss"] == pytest.approx(
            last["generator_loss"] + weight * last["discriminator_loss"], rel=1e-5
        )
        assert (
            found["recall"] == pytest.approx(last["recall"] or 0.0, nan_ok=True)
            and found["targets"] == 32 * 16
        )
    with pytest.raises(
        UsageError, match="--objective mlm: measures models of kind 'mlm'.*is of kind 'electra'"
    ):
        evaluate.main([*asked, "--objective", "mlm"])
    assert (
        predict.main(
            [
                "fill-mask",
                "--model",
                str(base / "run"),
                "--text",
                "w3 [MASK] w5",
                "--top_k",
                "2",
                "--json",
            ]
        )
        == 0
    )
    (guesses,) = json.loads(capsys.readouterr().out.splitlines()[-1])["masks"]
    assert len(guesses) == 2 and 0 < guesses[1]["probability"] <= guesses[0]["probability"] < 1


@pytest.mark.parametrize(
    ("part", "architecture"), [(None, "ElectraForPreTraining"), ("generator", "ElectraForMaskedLM")]
)
def test_it_is_written_for_huggingface(trained, part, architecture, tmp_path, capsys):
    base, _ = trained
    chosen = ["--part", part] if part else []
    assert convert.main([str(base / "run"), str(tmp_path / "hf"), "--to", "hf", *chosen]) == 0
    assert "the same bits" in capsys.readouterr().out
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == [
        architecture
    ]
    back, whole = load(str(tmp_path / "hf")), load(str(base / "run"))
    expected = part_of(whole, part or "discriminator")
    assert back.spec == expected.spec
    for path, value in expected.values.items():
        np.testing.assert_array_equal(back.values[path], value)


def test_both_go_into_one_npz_and_a_part_into_another(trained, tmp_path, capsys):
    base, _ = trained
    for name, part in (("both", None), ("generator", "generator")):
        assert (
            convert.main(
                [
                    str(base / "run"),
                    str(tmp_path / f"{name}.npz"),
                    *(["--part", part] if part else []),
                ]
            )
            == 0
        )
    assert load(str(tmp_path / "both.npz")).spec.kind == "electra"
    assert load(str(tmp_path / "generator.npz")).spec.kind == "mlm"
    with pytest.raises(UsageError, match="--part generator.*only an ELECTRA"):
        convert.main(
            [str(tmp_path / "generator.npz"), str(tmp_path / "again.npz"), "--part", "generator"]
        )


def test_beginning_from_other_weights(trained):
    """All of another ELECTRA, all but the generator of a discriminator, no head of an mlm."""
    base, _ = trained
    whole = load(str(base / "run"))
    tokenizer = open_dataset(str(base / "train")).load_tokenizer()
    check_start(whole, whole.spec, tokenizer, "x")
    own = {path: np.zeros_like(value) for path, value in whole.values.items()}
    values, _ = start_values(without_foreign_head(whole, "electra"), own, "x")
    assert all(np.array_equal(values[path], whole.values[path]) for path in own)

    alone = part_of(whole, "discriminator")
    check_start(alone, whole.spec, tokenizer, "x")
    values, table = start_values(without_foreign_head(alone, "electra"), own, "x")
    assert all(
        np.array_equal(values[p], np.zeros_like(v) if p.startswith("generator/") else v)
        for p, v in whole.values.items()
    )
    assert any("generator" in line and "new: random" in line for line in table)

    mlm = without_foreign_head(whole, "mlm")
    assert (
        not any(path.startswith("head/") for path in mlm.values)
        and "head/unit/kernel" in mlm.unused
    )
    assert without_foreign_head(alone, "discriminator") is alone

    other = whole.spec.__class__(
        **{
            **vars(whole.spec),
            "generator": generator_of(whole.spec.config, ElectraConfig(gen_d_ff=99)),
        }
    )
    with pytest.raises(UsageError, match="another generator; train with .*--gen_d_ff 32"):
        check_start(whole, other, tokenizer, "x")


def test_another_generator_is_another_run(trained):
    _, flags = trained
    with pytest.raises(UsageError, match="--gen_fraction was 0.5 and is now 0.25"):
        train.main([*flags, "--objective", "electra", "--gen_fraction", "0.25"])


def test_labels_are_needed_and_learned_from(trained, tmp_path):
    base, flags = trained
    # The generator's options belong to electra alone.
    at = flags.index("--gen_fraction")
    plain = [*flags[:at], *flags[at + 2 :], "--objective", "discriminator"]
    with pytest.raises(UsageError, match="y has 0 or 1 .*no y"):
        train.main([*plain, "--run_dir", str(tmp_path / "none")])
    data = toy_labels(tmp_path / "train", examples=32, shards=1)
    given = [*plain, "--train_dir", str(data), "--valid_dir", "none"]
    given += ["--run_dir", str(tmp_path / "run"), "--init_from", str(base / "run")]
    assert train.main([*given, "--lr", "1e-30", "--weight_decay", "0"]) == 0
    found, start = load(str(tmp_path / "run")), load(str(base / "run"))
    assert found.spec.kind == "discriminator"
    assert set(found.values) == set(named_variables(part_of(start, "discriminator").model()))
    # With a learning rate of almost zero the run still has its initial values.
    for path, value in found.values.items():
        np.testing.assert_allclose(value, start.values[path], atol=1e-20, rtol=0, err_msg=path)
    assert Path(tmp_path / "run" / "metrics.jsonl").exists()
