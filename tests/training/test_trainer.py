"""Whole training runs through the command: continued, stopped, refused, on one device and on several."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.paths import ROOT
from tests.toy import SIZES, toy_dataset
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.training.metrics import read_metrics

EXPORT = ["--keep", "2", "--keep_every", "10", "--steps_per_call", "7", "--export_npz", "true"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    base = tmp_path_factory.mktemp("corpus")
    return toy_dataset(base / "train"), toy_dataset(base / "valid", examples=21, shards=1, seed=1)


def command(corpus, run_dir, *flags):
    train, valid = corpus
    given = ["--train_dir", train, "--valid_dir", valid, "--run_dir", run_dir, *SIZES]
    given += [
        "--batch_size",
        "8",
        "--warmup_steps",
        "5",
        "--lr",
        "3e-3",
        "--distribute",
        "none",
        *flags,
    ]
    return [sys.executable, "-m", "tpu_tlm.train", *map(str, given)]


def run(*args, check=0):
    done = subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == check, done.stdout + done.stderr
    return done


def arrays(run_dir):
    found = Checkpoints(str(run_dir / "checkpoints")).newest()
    return found.step, found.load()


def assert_same(a, b):
    assert a[0] == b[0]
    assert set(a[1]) == set(b[1])
    for name in a[1]:
        np.testing.assert_array_equal(a[1][name], b[1][name], err_msg=name)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run of 30 steps, never interrupted."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    done = run(corpus, run_dir, "--steps", "30", "--save_steps", "5", "--eval_steps", "10", *EXPORT)
    return run_dir, done


def test_a_run_leaves_what_it_promises(whole):
    run_dir, done = whole
    assert "random values" in done.stdout and "30 steps made, 30 in all" in done.stdout
    assert Checkpoints(str(run_dir / "checkpoints")).steps() == [10, 20, 25, 30]
    records = read_metrics(str(run_dir / "metrics.jsonl"))
    valid = [r for r in records if r["kind"] == "valid"]
    assert [r["step"] for r in valid] == [10, 20, 30]
    assert valid[-1]["loss"] < valid[0]["loss"] < math.log(45) + 0.5
    assert valid[-1]["perplexity"] == pytest.approx(math.exp(valid[-1]["loss"]))
    assert [r for r in records if r["kind"] == "train"][-1]["lr"] == 0.0
    assert {p.name for p in (run_dir / "npz").iterdir()} == {
        f"checkpoint-step-{s}.npz" for s in (10, 20, 25, 30)
    }
    assert (
        list((run_dir / "tb" / "valid").iterdir())
        and (run_dir / "tokenizer" / "vocab.txt").exists()
    )


def test_the_same_command_again_has_nothing_to_do(corpus, whole):
    run_dir, _ = whole
    before = arrays(run_dir)
    done = run(corpus, run_dir, "--steps", "30", "--save_steps", "5", "--eval_steps", "10", *EXPORT)
    assert "nothing to do: step 30 of 30" in done.stdout and "0 steps made" in done.stdout
    assert_same(arrays(run_dir), before)


def test_convert_equals_the_export_of_the_run(whole, tmp_path):
    run_dir, _ = whole
    out = tmp_path / "model.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tpu_tlm.convert", str(run_dir), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, saved = (
        read_npz(out.read_bytes(), "out"),
        read_npz((run_dir / "npz" / "checkpoint-step-30.npz").read_bytes(), "npz"),
    )
    assert set(ours) - {"tpu_tlm/origin"} == set(saved)
    for key in saved:
        np.testing.assert_array_equal(ours[key], saved[key])


def test_evaluate_agrees_with_the_run_whatever_the_batch(corpus, whole):
    run_dir, _ = whole
    last = [r for r in read_metrics(str(run_dir / "metrics.jsonl")) if r["kind"] == "valid"][-1]
    flags = [
        "--model",
        str(run_dir),
        "--data",
        str(corpus[1]),
        "--batch_size",
        "4",
        "--distribute",
        "none",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tpu_tlm.evaluate", *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert result["targets"] == 21 * 2 and result["examples"] == 21


def test_fill_mask_gives_probabilities(whole):
    run_dir, _ = whole
    flags = ["--model", str(run_dir), "--text", "w3 w4 [MASK] w6", "--top_k", "3", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "tpu_tlm.predict", "fill-mask", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (guesses,) = json.loads(done.stdout.splitlines()[-1])["masks"]
    assert len(guesses) == 3
    assert (
        1 > guesses[0]["probability"] >= guesses[1]["probability"] >= guesses[2]["probability"] > 0
    )
    assert guesses[0]["sentence"] == f"w3 w4 {guesses[0]['token']} w6"


def wait_for(process, condition):
    """Poll until the condition holds or the process ends."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.0005)


@pytest.mark.slow
def test_killed_at_any_moment_and_continued_is_the_same_run(corpus, tmp_path):
    """SIGKILL six times, by turns as soon as a save begins and a random while after one, then to the end: bit for bit the same."""
    flags = [
        "--steps",
        "300",
        "--save_steps",
        "20",
        "--eval_steps",
        "1000",
        "--steps_per_call",
        "13",
        "--keep",
        "2",
        "--optimizer",
        "lamb",
    ]
    run(corpus, tmp_path / "whole", *flags)
    run_dir = tmp_path / "killed"
    saves = run_dir / "checkpoints"
    chance, killed, inside = random.Random(0), 0, 0

    def directories():
        return set(saves.glob("step-*")) if saves.is_dir() else set()

    for turn in range(12):
        if killed >= 6 and inside:
            break
        known = directories()
        process = subprocess.Popen(
            command(corpus, run_dir, *flags),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(process, lambda known=known: directories() - known)
        if turn % 2:
            time.sleep(chance.uniform(0.02, 0.12))
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
            inside += any(not (d / "manifest.json").exists() for d in directories())
        else:
            break
    assert killed >= 5 and inside >= 1
    done = run(corpus, run_dir, *flags)
    assert "continuing at step" in done.stdout
    assert_same(arrays(run_dir), arrays(tmp_path / "whole"))


def test_a_signal_saves_and_the_command_continues(corpus, tmp_path):
    flags = [
        "--steps",
        "4000",
        "--save_steps",
        "1000",
        "--eval_steps",
        "1000",
        "--tensorboard",
        "false",
    ]
    process = subprocess.Popen(
        command(corpus, tmp_path / "run", *flags),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(
        process,
        lambda: any(r["step"] > 30 for r in read_metrics(str(tmp_path / "run" / "metrics.jsonl"))),
    )
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "the same command continues" in err, err
    step, _ = arrays(tmp_path / "run")
    assert 30 < step < 4000


def test_a_loss_that_is_not_finite_stops_the_run_and_buries_nothing(corpus, tmp_path):
    run(corpus, tmp_path / "run", "--steps", "20", "--save_steps", "10")
    done = run(
        corpus,
        tmp_path / "run",
        "--steps",
        "40",
        "--save_steps",
        "10",
        "--lr",
        "1e30",
        "--clip",
        "0",
        check=1,
    )
    assert (
        "not finite" in done.stderr
        and "step-00000020" in done.stderr
        and len(done.stderr.strip().splitlines()[-1]) < 400
    )
    assert arrays(tmp_path / "run")[0] == 20


def test_another_run_in_the_same_directory_is_refused(corpus, whole):
    done = run(
        corpus,
        whole[0],
        "--steps",
        "30",
        "--save_steps",
        "5",
        "--eval_steps",
        "10",
        *EXPORT,
        "--seed",
        "7",
        check=2,
    )
    assert "--seed was 0 and is now 7" in done.stderr


def test_data_of_another_tokenizer_is_refused(corpus, tmp_path):
    other = toy_dataset(tmp_path / "other", words=41)
    done = run((corpus[0], other), tmp_path / "run", "--steps", "5", check=2)
    assert "--valid_dir" in done.stderr and "tokenizer" in done.stderr


def test_a_damaged_shard_is_named_in_one_line(corpus, tmp_path):
    broken = toy_dataset(tmp_path / "broken")
    shard = sorted(broken.glob("*.tfrecord"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = run((broken, corpus[1]), tmp_path / "run", "--steps", "40", "--save_steps", "5", check=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error:") and shard.name in last and len(last) < 300, done.stderr[-2000:]


def test_starting_from_other_weights(corpus, whole, tmp_path):
    start = whole[0] / "npz" / "checkpoint-step-30.npz"
    done = run(
        corpus,
        tmp_path / "run",
        "--steps",
        "1",
        "--warmup_steps",
        "0",
        "--lr",
        "1e-30",
        "--weight_decay",
        "0",
        "--init_from",
        start,
    )
    assert "fresh optimizer" in done.stdout
    _, before = arrays(whole[0])
    _, after = arrays(tmp_path / "run")
    for name in (n for n in before if n.startswith("model/")):
        np.testing.assert_array_equal(before[name], after[name])


def test_two_replicas_make_the_run_of_one(corpus, whole, tmp_path):
    """The same losses step by step, dropout included; mirrored on two logical CPUs."""
    flags = ["--steps", "12", "--save_steps", "12", "--steps_per_call", "1"]
    run(corpus, tmp_path / "one", *flags)
    two = run(corpus, tmp_path / "two", *flags, "--distribute", "mirror", "--logical_cpus", "2")
    losses = [
        [r["loss"] for r in read_metrics(str(tmp_path / d / "metrics.jsonl"))]
        for d in ("one", "two")
    ]
    assert len(losses[0]) == 13 and "CPU:0, CPU:1" in two.stdout
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)
