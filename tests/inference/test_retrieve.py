"""A dual encoder through the commands: training on pairs, evaluation, responses, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.command_modules import convert, evaluate, predict, train
from tests.toy import BARE, SIZES, toy_dataset, toy_pairs
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.inference.retrieve import Ranker

PLAIN = [*SIZES, *BARE, "--distribute", "none", "--xla", "false"]
FLAGS = [*PLAIN, "--objective", "dual-encoder", "--d_out", "32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    base = tmp_path_factory.mktemp("dual")
    data = [
        str(toy_pairs(base / name, examples=count, seed=seed))
        for seed, (name, count) in enumerate((("train", 512), ("valid", 70)))
    ]
    flags = [
        "--train_dir",
        data[0],
        "--valid_dir",
        data[1],
        "--run_dir",
        str(base / "run"),
        *FLAGS,
        "--init_temp",
        "2.5",
    ]
    flags += [
        "--steps",
        "120",
        "--save_steps",
        "120",
        "--batch_size",
        "64",
        "--warmup_steps",
        "10",
        "--lr",
        "5e-3",
        "--dropout",
        "0",
    ]
    assert train.main([*flags, "--eval_batch_size", "256"]) == 0
    return base / "run", data[1]


def measured(
    run: Path, data: str, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, float]:
    assert (
        evaluate.main(
            ["--model", str(run), "--data", data, "--distribute", "none", "--xla", "false", *more]
        )
        == 0
    )
    return json.loads(capsys.readouterr().out.splitlines()[-1])  # type: ignore[no-any-return]


def test_it_learns_and_says_among_how_many_it_ranks(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = (measured(*trained, capsys, "--candidates", str(n)) for n in (20, 70))
    assert (few["candidates"], few["left_out"], few["targets"], few["examples"]) == (20, 10, 60, 70)
    assert (many["candidates"], many["left_out"], many["targets"]) == (70, 0, 70)
    assert (
        few["recall@1"] > 0.2 > 4 / 70
        and few["recall@10"] > 0.8
        and few["mrr"] > many["mrr"]
        and "perplexity" not in few
    )
    assert abs(few["scale"] - np.exp(2.5)) > 0.01, "the temperature learned"


def test_more_candidates_than_pairs_are_refused(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="--candidates 71: must be 2 to the 70 pairs"):
        measured(*trained, capsys, "--candidates", "71")


def test_a_run_whose_validation_is_smaller_than_a_batch_still_ranks(
    trained: tuple[Path, str],
) -> None:
    records = [json.loads(line) for line in (trained[0] / "metrics.jsonl").read_text().splitlines()]
    (valid,) = [record for record in records if record["kind"] == "valid"]
    assert 0 < valid["recall@1"] <= 1 and "perplexity" not in valid


def test_the_temperature_is_kept_in_checkpoints_and_npz(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert.main([str(trained[0]), str(tmp_path / "dual.npz")]) == 0
    capsys.readouterr()
    saved, read = load(str(trained[0])), load(str(tmp_path / "dual.npz"))
    assert float(saved.values["temperature"]) == float(read.values["temperature"]) != 2.5
    assert np.load(tmp_path / "dual.npz")["tpu_tlm/temperature"].shape == ()
    for path, value in saved.values.items():
        np.testing.assert_array_equal(read.values[path], value)


def test_responses_are_ranked_as_evaluation_ranks_them(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`respond` frames texts like the records: the first 20 pairs have the recall of evaluation."""
    run, data = trained
    saved, tokenizer = load(str(run)), open_dataset(data).load_tokenizer()
    from tpu_tlm.data.dataset.stream import in_order

    batch = next(in_order(open_dataset(data), 20).as_numpy_iterator())
    queries, answers = (
        [tokenizer.decode([i for i in row if i > 4]) for row in batch[name]] for name in "xy"
    )
    respond = Ranker(saved.model(), saved.spec, tokenizer, answers)
    ranked = respond(queries, 20)
    vectors = [np.asarray(t) for t in saved.model()({"x": batch["x"], "y": batch["y"]})]
    u, v = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in vectors)
    for row, found in zip(u @ v.T, ranked, strict=True):
        np.testing.assert_allclose([r.score for r in found], np.sort(row)[::-1], atol=1e-5)
        np.testing.assert_allclose(
            [row[r.number] for r in found], [r.score for r in found], atol=1e-5
        )
    (tmp_path / "answers.txt").write_text("\n\n".join(answers) + "\n")
    given = [
        "respond",
        "--model",
        str(run),
        "--candidates",
        str(tmp_path / "answers.txt"),
        "--top_k",
        "3",
        "--json",
        "--text",
        queries[0],
    ]
    assert predict.main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["text"] for r in told["responses"]] == [r.text for r in ranked[0][:3]]


def test_what_cannot_respond_is_refused(trained: tuple[Path, str], tmp_path: Path) -> None:
    given = ["respond", "--model", str(trained[0]), "--text", "w1"]
    with pytest.raises(UsageError, match="--candidates is required"):
        predict.main(given)
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(UsageError, match="none.txt: has no line"):
        predict.main([*given, "--candidates", str(tmp_path / "none.txt")])
    saved = load(str(trained[0]))
    from dataclasses import replace

    with pytest.raises(UsageError, match="needs a dual encoder"):
        Ranker(None, replace(saved.spec, kind="mlm"), saved.tokenizer(), ["w1"])


def test_pairs_and_plain_text_are_not_taken_for_each_other(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    plain = str(toy_dataset(tmp_path / "plain"))
    with pytest.raises(UsageError, match="not pairs"):
        train.main(["--train_dir", plain, "--run_dir", str(tmp_path / "a"), *FLAGS, "--steps", "1"])
    for objective in ("mlm", "clm"):
        flags = [
            "--train_dir",
            trained[1],
            "--run_dir",
            str(tmp_path / objective),
            *PLAIN,
            "--steps",
            "1",
            "--objective",
            objective,
        ]
        with pytest.raises(UsageError, match="pairs"):
            train.main([*flags, "--batch_size", "8"])


def test_it_begins_with_the_encoder_of_another_objective(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    plain, more = str(toy_dataset(tmp_path / "plain")), ["--steps", "1", "--batch_size", "8"]
    assert (
        train.main(
            [
                "--train_dir",
                plain,
                "--run_dir",
                str(tmp_path / "mlm"),
                *PLAIN,
                "--objective",
                "mlm",
                *more,
            ]
        )
        == 0
    )
    capsys.readouterr()
    begin = [
        "--train_dir",
        data,
        "--run_dir",
        str(tmp_path / "dual"),
        "--init_from",
        str(tmp_path / "mlm"),
        *FLAGS,
        *more,
        "--lr",
        "1e-12",
    ]
    assert train.main(begin) == 0
    shown = capsys.readouterr().out
    assert "new: random" in shown
    ours, theirs = (load(str(tmp_path / name)).values for name in ("dual", "mlm"))
    for path, value in theirs.items():
        if path.startswith(("encoder/", "embeddings/")):
            np.testing.assert_allclose(ours[path], value, atol=1e-9)
    begin[begin.index("--run_dir") + 1], begin[begin.index("--init_from") + 1] = (
        str(tmp_path / "again"),
        str(run),
    )
    with pytest.raises(UsageError, match="reduction_type: 2ha there"):
        train.main([*begin, "--reduction_type", "2ha_mean"])
