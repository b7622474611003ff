"""Whole training runs: what they leave, continuing, stopping, refusing; callbacks."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import math
import os
import random
import select
import signal
import subprocess
import sys
import termios
import threading
import time

import numpy as np
import pytest

from tests import preloaded
from tests.command_modules import convert, evaluate, predict
from tests.paths import ROOT
from tests.toy import toy_dataset
from tests.toy_runs import WHOLE, Corpus, fit, flags_of, options_of
from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.errors import Preempted, TlmError, UsageError
from tpu_tlm.formats.mead.arrays import read_npz
from tpu_tlm.training import Callback
from tpu_tlm.training.callbacks import SaveReport, StepReport
from tpu_tlm.training.metrics import read_metrics
from tpu_tlm.training.result import TrainResult

FEW = ("--steps", 6, "--save_steps", 2, "--steps_per_call", 1)


def arrays(run_dir):
    found = Checkpoints(str(run_dir / "checkpoints")).newest()
    return found.step, found.load()


def assert_same(a, b):
    assert a[0] == b[0]
    assert set(a[1]) == set(b[1])
    for name in a[1]:
        np.testing.assert_array_equal(a[1][name], b[1][name], err_msg=name)


def test_a_run_leaves_its_files(toy_run):
    run_dir, result = toy_run.run_dir, toy_run.result
    assert "random values" in toy_run.output
    assert (result.steps, result.made) == (30, 30) and "30 steps made" in result.summary
    assert Checkpoints(str(run_dir / "checkpoints")).steps() == [10, 20, 25, 30]
    records = read_metrics(str(run_dir / "metrics.jsonl"))
    valid = [r for r in records if r["kind"] == "valid"]
    assert [r["step"] for r in valid] == [10, 20, 30]
    assert valid[-1]["loss"] < valid[0]["loss"] < math.log(45) + 0.5
    assert valid[-1]["perplexity"] == pytest.approx(math.exp(valid[-1]["loss"]))
    assert result.validation["loss"] == pytest.approx(valid[-1]["loss"])
    assert [r for r in records if r["kind"] == "train"][-1]["lr"] == 0.0
    exports = {p.name for p in (run_dir / "npz").iterdir()}
    assert exports == {f"checkpoint-step-{s}.npz" for s in (10, 20, 25, 30)}
    assert list((run_dir / "tb" / "valid").iterdir())
    assert (run_dir / "tokenizer" / "vocab.txt").exists()


def test_the_same_options_again_have_nothing_to_do(toy_run, capsys):
    before = arrays(toy_run.run_dir)
    result = fit(options_of(toy_run.corpus, toy_run.run_dir, *WHOLE))
    assert result.made == 0 and "nothing to do: step 30 of 30" in capsys.readouterr().out
    assert_same(arrays(toy_run.run_dir), before)


def test_a_worker_that_writes_nothing_names_no_checkpoint():
    result = TrainResult("run", steps=20, made=5, valid=None, checkpoint="", input_wait=0.031)
    assert result.summary == "5 steps made, 20 in all; input wait 3.1 % of the time"
    written = dataclasses.replace(result, checkpoint="run/checkpoints/step-00000020")
    assert "last checkpoint run/checkpoints/step-00000020; input" in written.summary


def test_convert_equals_the_export_of_the_run(toy_run, tmp_path):
    out, run_dir = tmp_path / "model.npz", toy_run.run_dir
    assert convert.main([str(run_dir), str(out)]) == 0
    ours = read_npz(out.read_bytes(), "out")
    saved = read_npz((run_dir / "npz" / "checkpoint-step-30.npz").read_bytes(), "npz")
    assert set(ours) - {"tpu_tlm/origin"} == set(saved)
    for key in saved:
        np.testing.assert_array_equal(ours[key], saved[key])


def test_evaluate_agrees_with_the_run_for_any_batch_size(toy_run, capsys):
    run_dir, valid = str(toy_run.run_dir), str(toy_run.corpus.valid)
    records = read_metrics(f"{run_dir}/metrics.jsonl")
    last = [r for r in records if r["kind"] == "valid"][-1]
    flags = ["--model", run_dir, "--data", valid, "--distribute", "none", "--xla", "false"]
    assert evaluate.main([*flags, "--batch_size", "4"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert (result["targets"], result["examples"], result["objective"]) == (21 * 2, 21, "mlm")


def test_fill_mask_gives_probabilities(toy_run, capsys):
    flags = ["--model", str(toy_run.run_dir), "--text", "w3 w4 [MASK] w6", "--top_k", "3", "--json"]
    assert predict.main(["fill-mask", *flags]) == 0
    (guesses,) = json.loads(capsys.readouterr().out.splitlines()[-1])["masks"]
    assert len(guesses) == 3
    first, second, third = (guess["probability"] for guess in guesses)
    assert 1 > first >= second >= third > 0
    assert guesses[0]["sentence"] == f"w3 w4 {guesses[0]['token']} w6"


# Stopping


class At(Callback):
    """Does something after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, report):
        if report.step == self.step:
            self.action()


def interrupt():
    raise KeyboardInterrupt


def signalled(number):
    def action():
        os.kill(os.getpid(), number)
        time.sleep(0.5)  # a thread of the watcher reads it

    return action


@pytest.mark.parametrize(
    ("action", "code"),
    [
        # SIGINT and SIGHUP reach the same watcher (tests/distributed/test_preemption.py), and save
        # in the terminals below.
        (signalled(signal.SIGTERM), 143),
        (interrupt, 130),
    ],
    ids=["SIGTERM", "KeyboardInterrupt"],
)
def test_a_stopped_run_is_saved_and_continues_to_the_same_bits(
    action, code, toy_corpus, tmp_path, capsys, uninterrupted
):
    options = options_of(toy_corpus, tmp_path / "run", *FEW)
    with pytest.raises(Preempted, match="step 3.*the same command continues") as error:
        fit(options, [At(3, action)])
    assert error.value.exit_code == code
    assert arrays(tmp_path / "run")[0] == 3
    assert fit(options).made == 3 and "continuing at step 3" in capsys.readouterr().out
    assert_same(arrays(tmp_path / "run"), uninterrupted)


def test_another_batch_size_goes_on_with_the_next_example(toy_corpus, tmp_path, capsys):
    """3 steps of 8, then steps of 16: no example is left out or repeated, stopped again or not."""

    def change(name, *callbacks):
        run_dir = tmp_path / name
        with pytest.raises(Preempted):
            fit(options_of(toy_corpus, run_dir, *FEW), [At(3, interrupt)])
        larger = options_of(toy_corpus, run_dir, *FEW, "--batch_size", 16)
        if callbacks:
            with pytest.raises(Preempted):
                fit(larger, callbacks)
        assert fit(larger).steps == 6
        found = Checkpoints(str(run_dir / "checkpoints")).newest()
        assert found.state["position"] == 3 * 8 + 3 * 16
        return arrays(run_dir)

    whole = change("whole")
    assert "--batch_size was 8 and is now 16" in capsys.readouterr().out
    assert_same(change("stopped", At(5, interrupt)), whole)


def test_another_batch_size_with_epochs_asks_for_steps(toy_corpus, tmp_path):
    few = ("--epochs", 0.5, "--save_steps", 2, "--warmup_steps", 1)
    fit(options_of(toy_corpus, tmp_path / "run", *few))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(UsageError, match="--batch_size was 8 and is now 16: give --steps"):
        fit(options_of(toy_corpus, tmp_path / "run", *few, "--batch_size", 16))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    more = ("--steps", 8, *few[2:], "--batch_size", 16)
    assert fit(options_of(toy_corpus, tmp_path / "run", *more)).made == 2


@pytest.fixture(scope="module")
def uninterrupted(toy_corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    fit(options_of(toy_corpus, run_dir, *FEW))
    return arrays(run_dir)


def wait_for(process, condition):
    """Poll until the condition holds or the process ends."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.0005)


def started(corpus, run_dir, *flags, **how):
    command = [sys.executable, "-m", "tpu_tlm.train", *flags_of(corpus, run_dir, *flags)]
    return preloaded.popen(command, cwd=ROOT, **how)


def steps_made(run_dir):
    return max((r["step"] for r in read_metrics(str(run_dir / "metrics.jsonl"))), default=0)


FOREVER = ("--steps", 4000, "--save_steps", 1000)


def test_ctrl_c_in_a_terminal_saves(toy_corpus, tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = started(toy_corpus, tmp_path / "run", *FOREVER, **pipes)
    wait_for(process, lambda: steps_made(tmp_path / "run") > 30)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: stopped by SIGINT") and "the same command continues" in last
    assert 30 < arrays(tmp_path / "run")[0] < 4000


def test_a_closed_terminal_saves(toy_corpus, tmp_path):
    """The terminal is hung up: the process gets SIGHUP, and its output cannot be written."""
    master, slave = os.openpty()
    how = {"stdin": slave, "stdout": slave, "stderr": slave, "start_new_session": True}

    def take_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = started(toy_corpus, tmp_path / "run", *FOREVER, **how, preexec_fn=take_terminal)
    os.close(slave)

    def drained():
        # A full terminal buffer would stop the run.
        while select.select([master], [], [], 0)[0]:
            os.read(master, 4096)
        return steps_made(tmp_path / "run") > 30

    wait_for(process, drained)
    os.close(master)
    assert process.wait(timeout=60) == 129
    assert 30 < arrays(tmp_path / "run")[0] < 4000


@pytest.mark.long
def test_killed_at_any_moment_and_continued_is_the_same_run(toy_corpus, tmp_path):
    """SIGKILL six times, alternately at the start of a save and a random time after one, then to
    the end: the same bits."""
    flags = ["--steps", 300, "--save_steps", 20, "--eval_steps", 1000, "--steps_per_call", 13]
    flags += ["--keep", 2, "--optimizer", "lamb"]
    fit(options_of(toy_corpus, tmp_path / "whole", *flags, "--xla", "false"))
    flags += ["--xla", "false"]
    run_dir = tmp_path / "killed"
    saves = run_dir / "checkpoints"
    chance, killed, inside = random.Random(0), 0, 0

    def directories():
        return set(saves.glob("step-*")) if saves.is_dir() else set()

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for turn in range(12):
        if killed >= 6 and inside:
            break
        known = directories()
        process = started(toy_corpus, run_dir, *flags, **quiet)
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
    fit(options_of(toy_corpus, run_dir, *flags))
    assert_same(arrays(run_dir), arrays(tmp_path / "whole"))


# What cannot be written or used


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_disk_that_is_full_at_a_save_loses_nothing(
    toy_corpus, tmp_path, monkeypatch, uninterrupted, everywhere
):
    run_dir = tmp_path / "run"
    options = options_of(toy_corpus, run_dir, *FEW)
    write = tensor_bundle.write

    def full(prefix, variables):
        if "step-00000004" in prefix and (
            everywhere or prefix.startswith(f"{run_dir}/checkpoints/")
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(prefix, variables)

    monkeypatch.setattr("tpu_tlm.checkpoints.tensor_bundle.write", full)
    with pytest.raises(TlmError, match="step 4.*No space left") as error:
        fit(options)
    text = str(error.value)
    assert "the same command continues" in text and "\n" not in text
    safe = "checkpoints/step-00000002" if everywhere else "checkpoints-emergency/step-00000004"
    assert f"{run_dir}/{safe}" in text
    monkeypatch.undo()
    assert arrays(run_dir)[0] == 2
    assert fit(options).made == (4 if everywhere else 2)
    assert_same(arrays(run_dir), uninterrupted)
    assert not (run_dir / "checkpoints-emergency").exists()


def test_a_stop_saves_elsewhere_on_a_full_disk(toy_corpus, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    write = tensor_bundle.write

    def full(prefix, variables):
        if prefix.startswith(f"{run_dir}/checkpoints/"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(prefix, variables)

    def stop():
        monkeypatch.setattr(tensor_bundle, "write", full)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted, match="checkpoints-emergency/step-0000000[34]"):
        fit(options_of(toy_corpus, run_dir, *FEW), [At(3, stop)])


def test_files_that_cannot_be_written_do_not_end_a_run(toy_corpus, tmp_path, capsys):
    run_dir = tmp_path / "run"
    (run_dir / "metrics.jsonl").mkdir(parents=True)
    (run_dir / "tb").write_text("")
    (run_dir / "npz").write_text("")
    flags = ("--steps", 2, "--save_steps", 2, "--warmup_steps", 1, "--export_npz", "true")
    flags += ("--tensorboard", "true")
    assert fit(options_of(toy_corpus, run_dir, *flags)).made == 2
    warnings = capsys.readouterr().err.splitlines()
    for path in ("metrics.jsonl", "tb", "npz/checkpoint-step-2.npz"):
        assert sum(line.startswith(f"warning: {run_dir}/{path}") for line in warnings) == 1
    assert arrays(run_dir)[0] == 2


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    toy_corpus, tmp_path
):
    fit(options_of(toy_corpus, tmp_path / "run", "--steps", 20, "--save_steps", 10))
    flags = ("--steps", 40, "--save_steps", 10, "--lr", "1e30", "--clip", 0)
    with pytest.raises(TlmError, match="not finite.*step-00000020") as error:
        fit(options_of(toy_corpus, tmp_path / "run", *flags))
    assert len(str(error.value)) < 400 and arrays(tmp_path / "run")[0] == 20


def test_another_run_in_the_same_directory_is_refused(toy_run):
    with pytest.raises(UsageError, match="--seed was 0 and is now 7"):
        fit(options_of(toy_run.corpus, toy_run.run_dir, *WHOLE, "--seed", 7))


def test_data_of_another_tokenizer_is_refused(toy_corpus, tmp_path):
    other = Corpus(toy_corpus.train, toy_dataset(tmp_path / "other", words=41))
    with pytest.raises(UsageError, match="--valid_dir.*tokenizer"):
        fit(options_of(other, tmp_path / "run", "--eval_steps", 5))


def test_a_damaged_shard_is_named_in_one_line(toy_corpus, tmp_path):
    broken = toy_dataset(tmp_path / "broken")
    shard = sorted(broken.glob("*.tfrecord"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    corpus = Corpus(broken, toy_corpus.valid)
    with pytest.raises(TlmError, match=shard.name) as error:
        fit(options_of(corpus, tmp_path / "run", "--steps", 40, "--save_steps", 5))
    assert len(str(error.value)) < 300


def test_starting_from_other_weights(toy_run, tmp_path, capsys):
    flags = ["--steps", 1, "--warmup_steps", 0, "--lr", "1e-30", "--weight_decay", 0]
    start = toy_run.run_dir / "npz" / "checkpoint-step-30.npz"
    fit(options_of(toy_run.corpus, tmp_path / "run", *flags, "--init_from", start))
    assert "fresh optimizer" in capsys.readouterr().out
    _, before = arrays(toy_run.run_dir)
    _, after = arrays(tmp_path / "run")
    for name in (n for n in before if n.startswith("model/")):
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.long
def test_two_replicas_make_the_run_of_one(toy_corpus, tmp_path):
    """The same losses step by step, dropout included; mirrored on two logical CPUs."""
    flags = ["--steps", 12, "--save_steps", 12, "--eval_steps", 12, "--steps_per_call", 1]
    fit(options_of(toy_corpus, tmp_path / "one", *flags))
    flags += ["--distribute", "mirror", "--logical_cpus", 2]
    process = started(toy_corpus, tmp_path / "two", *flags, stdout=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "CPU:0, CPU:1" in out
    losses = [
        [r["loss"] for r in read_metrics(str(tmp_path / d / "metrics.jsonl"))]
        for d in ("one", "two")
    ]
    assert len(losses[0]) == 13
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)


# Callbacks


class Log(Callback):
    """Records the names and steps of calls."""

    def __init__(self):
        self.calls, self.reports, self.threads = [], [], set()

    def on_start(self, start):
        self.calls.append(("start", start.step))

    def on_step(self, report):
        self.calls.append(("step", report.step))
        self.reports.append(report)

    def on_evaluate(self, report):
        self.calls.append(("evaluate", report.step))

    def before_save(self, step):
        self.calls.append(("before_save", step))

    def on_save(self, report):
        self.calls.append(("save", report.step))
        self.threads.add(threading.current_thread())
        self.reports.append(report)

    def on_end(self):
        self.calls.append(("end", 0))


def test_callbacks_are_called_in_order(toy_corpus, tmp_path):
    log = Log()
    flags = ("--steps", 3, "--save_steps", 2, "--eval_steps", 3, "--steps_per_call", 1)
    fit(options_of(toy_corpus, tmp_path / "run", *flags, "--warmup_steps", 1), [log])
    # Saves run beside the next steps: the first may be reported before or after the last step.
    after = [call for call in log.calls if call != ("save", 2)]
    assert after == [
        ("start", 0),
        ("step", 1),
        ("step", 2),
        ("before_save", 2),
        ("step", 3),
        ("evaluate", 3),
        ("before_save", 3),
        ("save", 3),
        ("end", 0),
    ]
    at = [log.calls.index(call) for call in (("before_save", 2), ("save", 2), ("save", 3))]
    assert at == sorted(at)
    assert log.threads == {threading.current_thread()}
    first, second = (r for r in log.reports if isinstance(r, StepReport) and r.step < 3)
    saved = next(r for r in log.reports if isinstance(r, SaveReport))
    assert {"loss", "accuracy", "grad_norm", "lr"} <= set(first.values)
    assert not first.speeds and second.speeds["step_time"] > 0
    assert saved.steps_kept == (2,) and saved.path.endswith("step-00000002")


def test_an_error_of_a_callback_ends_the_run_and_callbacks(toy_corpus, tmp_path):
    log = Log()

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(options_of(toy_corpus, tmp_path / "run", *FEW), [At(2, fail), log])
    assert log.calls[-1] == ("end", 0)


def test_an_objectives_file_is_executed_once(toy_corpus, tmp_path):
    path = tmp_path / "counted.py"
    path.write_text(
        "import pathlib\n"
        "from tpu_tlm.objectives.mlm import MaskedLanguageModeling\n"
        f"with open({str(tmp_path / 'count')!r}, 'a') as file:\n    file.write('x')\n"
        "class Counted(MaskedLanguageModeling):\n    name = 'counted'\n"
    )
    flags = ("--steps", 1, "--warmup_steps", 0, "--objective", f"{path}:Counted")
    fit(options_of(toy_corpus, tmp_path / "run", *flags))
    assert (tmp_path / "count").read_text() == "x"
