"""Saves beside the next steps: what they hold, their order, stopping, errors."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from tests.toy_runs import fit, options_of
from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.errors import Preempted, TlmError
from tpu_tlm.training import Callback
from tpu_tlm.training.best import KeepBest
from tpu_tlm.training.recorders import ExportNpz, RecordMetrics
from tpu_tlm.training.report.callback import WriteReport
from tpu_tlm.training.samples import GuessSamples
from tpu_tlm.training.saving import Saver

FLAGS = ("--steps", 8, "--save_steps", 3, "--steps_per_call", 1)


class Held(Callback):
    """Lets no file of a step be written before another step was made; records what is called."""

    def __init__(self, monkeypatch, save, until, action=lambda: None):
        self.calls, self.models, self.released = [], {}, threading.Event()
        self.until, self.action = until, action
        write = tensor_bundle.write

        def held(prefix, values):
            if f"step-{save:08d}" in prefix:
                assert self.released.wait(120), f"step {until} waits for the save of {save}"
            write(prefix, values)

        monkeypatch.setattr(tensor_bundle, "write", held)

    def on_step(self, report):
        self.calls.append(("step", report.step))
        if report.step == self.until:
            self.released.set()
            self.action()

    def on_save(self, report):
        self.calls.append(("save", report.step))
        self.models[report.step] = report.model().values


@pytest.fixture(scope="module")
def whole(toy_corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    fit(options_of(toy_corpus, run_dir, *FLAGS))
    return run_dir / "checkpoints"


def assert_same(directory, whole, step):
    ours, theirs = (Checkpoints(str(d)).at(step).load() for d in (directory, whole))
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_save_holds_its_step_while_later_ones_run(toy_corpus, tmp_path, monkeypatch, whole):
    held = Held(monkeypatch, save=3, until=5)
    fit(options_of(toy_corpus, tmp_path / "run", *FLAGS), [held])
    saves = [call for call in held.calls if call[0] == "save"]
    assert saves == [("save", 3), ("save", 6), ("save", 8)]
    assert held.calls.index(("save", 3)) > held.calls.index(("step", 5))
    for step in (3, 6, 8):
        assert_same(tmp_path / "run" / "checkpoints", whole, step)
        saved = Checkpoints(str(whole)).at(step).load()
        for path, value in held.models[step].items():
            np.testing.assert_array_equal(value, saved[f"model/{path}"], err_msg=path)


def test_a_stop_waits_for_the_save_in_flight(toy_corpus, tmp_path, monkeypatch, whole):
    def stop():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)  # a thread of the watcher reads it

    held = Held(monkeypatch, save=3, until=4, action=stop)
    options = options_of(toy_corpus, tmp_path / "run", *FLAGS)
    with pytest.raises(Preempted, match="step 4.*step-00000004"):
        fit(options, [held])
    assert Checkpoints(str(tmp_path / "run" / "checkpoints")).steps() == [3, 4]
    fit(options)
    assert_same(tmp_path / "run" / "checkpoints", whole, 8)


def test_an_error_of_the_run_completes_the_save_in_flight(toy_corpus, tmp_path, monkeypatch):
    def fail():
        raise ZeroDivisionError

    held = Held(monkeypatch, save=3, until=4, action=fail)
    with pytest.raises(ZeroDivisionError):
        fit(options_of(toy_corpus, tmp_path / "run", *FLAGS), [held])
    assert ("save", 3) in held.calls
    assert Checkpoints(str(tmp_path / "run" / "checkpoints")).newest().step == 3


def test_values_that_are_not_finite_are_not_saved(tmp_path):
    def saver(directory):
        checkpoints = Checkpoints(str(directory))
        return Saver(
            checkpoints,
            RunDir(str(tmp_path)),
            nullcontext,
            lambda: "",
            lambda *given: None,
            lambda values: None,
        )

    good = {"model/a": tf.zeros([3]), "slots/m/a": tf.ones([3])}
    bad = {**good, "slots/v/a": tf.constant([1.0, float("nan")])}
    for background in (True, False):
        found = saver(tmp_path / str(background))
        found.start(3, dict(bad), {}, background)
        with pytest.raises(TlmError, match=r"step 3: 'slots/v/a' .*not finite; there is no check"):
            found.finished(wait=True)
        assert found.finished() is None
        found.start(4, dict(good), {"position": 1}, background)
        done = found.finished(wait=True)
        assert done is not None and (done.step, done.steps_kept) == (4, (4,))
        assert list(done.model) == ["a"] and done.path.endswith("step-00000004")


class Slow(Callback):
    """Told of saves in the thread that saves; `on_save` waits until a later step was made."""

    background = True

    def __init__(self, until, error=None):
        self.calls, self.later, self.until, self.error = [], threading.Event(), until, error
        self.values = {}

    def on_step(self, report):
        self.calls.append(("step", report.step))
        if report.step == self.until:
            self.later.set()

    def before_save(self, step):
        self.calls.append(("before", step, threading.current_thread().name))

    def on_save(self, report):
        if report.step == 3:
            assert self.later.wait(120), "the steps wait for a callback in the background"
            self.values = report.model().values
            if self.error:
                raise self.error
        self.calls.append(("save", report.step, threading.current_thread().name))


def test_a_callback_in_the_background_does_not_stop_the_steps(toy_corpus, tmp_path, whole):
    slow, plain = Slow(until=5), Slow(until=0)
    plain.background = False
    plain.later.set()
    fit(options_of(toy_corpus, tmp_path / "run", *FLAGS), [plain, slow])
    at = slow.calls.index
    assert at(("save", 3, "save")) > at(("step", 5)) > at(("before", 3, "save"))
    assert [c for c in slow.calls if c[0] == "save"] == [
        ("save", 3, "save"),
        ("save", 6, "save"),
        ("save", 8, "MainThread"),
    ]
    # The others are told after it, between device calls.
    saves = [c for c in plain.calls if c[0] != "step"]
    assert [c[:2] for c in saves if c[0] == "save"] == [("save", 3), ("save", 6), ("save", 8)]
    assert {c[2] for c in saves} == {"MainThread"}
    saved = Checkpoints(str(whole)).at(3).load()
    assert slow.values
    for path, value in slow.values.items():
        np.testing.assert_array_equal(value, saved[f"model/{path}"], err_msg=path)
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0
    assert_same(tmp_path / "run" / "checkpoints", whole, 8)


def test_an_error_of_a_callback_in_the_background_ends_the_run(toy_corpus, tmp_path):
    slow = Slow(until=4, error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        fit(options_of(toy_corpus, tmp_path / "run", *FLAGS), [slow])
    assert ("step", 8) not in slow.calls
    assert Checkpoints(str(tmp_path / "run" / "checkpoints")).newest().step == 3


def test_the_report_of_a_save_counts_callbacks_in_the_background(toy_corpus, tmp_path):
    class Wait(Callback):
        background = True

        def on_save(self, report):
            self.before = report.seconds
            time.sleep(0.3)

    class Seen(Callback):
        def on_save(self, report):
            self.seconds = report.seconds

    wait, seen = Wait(), Seen()
    fit(options_of(toy_corpus, tmp_path / "run", "--steps", 2, "--warmup_steps", 1), [wait, seen])
    assert seen.seconds >= wait.before + 0.3


def test_what_the_options_write_at_a_save_is_written_in_the_thread_that_saves(
    toy_corpus, tmp_path, monkeypatch
):
    told = {}

    def watch(kind, method):
        plain = getattr(kind, method)

        def call(self, given):
            told.setdefault(kind.__name__, []).append(threading.current_thread().name)
            plain(self, given)

        monkeypatch.setattr(kind, method, call)

    for kind in (ExportNpz, GuessSamples, WriteReport, KeepBest):
        watch(kind, "on_save")
    watch(RecordMetrics, "before_save")
    flags = ("--steps", 6, "--save_steps", 3, "--eval_steps", 3, "--export_npz", "true")
    fit(options_of(toy_corpus, tmp_path / "run", *flags, "--samples", 2, "--report", "true"))
    assert set(told) == {"ExportNpz", "GuessSamples", "WriteReport", "KeepBest", "RecordMetrics"}
    for threads in told.values():
        assert set(threads[: len(threads) // 2]) == {"save"}  # of step 3; step 6 is the last
        assert set(threads[len(threads) // 2 :]) == {"MainThread"}
