"""Compiled programs that are kept between processes: verified, separate, bounded, bit-equal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.paths import ROOT
from tests.toy_runs import flags_of
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.devices import program_cache
from tpu_tlm.errors import TlmError, UsageError


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not started yet."""
    monkeypatch.setenv("TF_XLA_FLAGS", "")  # so that it is restored after the test
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr(program_cache, "_published", None)


def again(monkeypatch: pytest.MonkeyPatch, place: Path) -> Path:
    """Start as another process; the directory that TensorFlow is given."""
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    monkeypatch.setattr(program_cache, "_published", None)
    program_cache.start(str(place))
    flag = os.environ["TF_XLA_FLAGS"].split()[0]
    return Path(flag.removeprefix("--tf_xla_persistent_cache_directory="))


def test_a_new_program_is_there_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = again(monkeypatch, tmp_path / "cache")
    assert not list(own.iterdir())
    (own / "a.pb").write_bytes(b"program a")
    # Not published: its process was killed, and has left a directory.
    ended = own.with_name(f"process-999999999-{own.name.split('-', 2)[2]}")
    own.rename(ended)
    own = again(monkeypatch, tmp_path / "cache")
    assert not list(own.iterdir()) and not ended.exists()
    for name in ("a", "b", "c"):
        (own / f"{name}.pb").write_bytes(f"program {name}".encode())
    program_cache.publish()
    program_cache.publish()
    # Damaged: TensorFlow would end the step.
    (own.parent / "b.pb").unlink()
    (own.parent / "b.pb").write_bytes(b"program")
    (own.parent / "c.pb.sha256").unlink()
    own.rename(ended)
    own = again(monkeypatch, tmp_path / "cache")
    assert {p.name: p.read_bytes() for p in own.iterdir()} == {"a.pb": b"program a"}
    assert not (own.parent / "b.pb").exists() and not (own.parent / "c.pb").exists()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_the_oldest_of_too_many_are_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(program_cache, "_KEPT", 25)
    own = again(monkeypatch, tmp_path)
    for age, name in enumerate("abc"):
        (own / f"{name}.pb").write_bytes(b"ten bytes.")
        os.utime(own / f"{name}.pb", (1000 - age, 1000 - age))
    program_cache.publish()
    again(monkeypatch, tmp_path)
    assert sorted(p.name for p in own.parent.glob("*.pb")) == ["a.pb", "b.pb"]


def test_where_it_is_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    program_cache.start("none")
    program_cache.start("auto")
    assert "TF_XLA_FLAGS" not in os.environ
    with pytest.raises((UsageError, TlmError), match=r"file/cache: Not a directory"):
        program_cache.start(str(tmp_path / "file" / "cache"))
    given = "--tf_xla_persistent_cache_directory=/elsewhere"
    monkeypatch.setenv("TF_XLA_FLAGS", given)
    program_cache.start(str(tmp_path / "cache"))
    assert os.environ["TF_XLA_FLAGS"] == given and not (tmp_path / "cache").exists()
    monkeypatch.delenv("TF_XLA_FLAGS")
    monkeypatch.setattr(program_cache, "_FREE", 1 << 60)
    program_cache.start(str(tmp_path / "cache"))
    assert "TF_XLA_FLAGS" not in os.environ, "the disk is almost full"


@pytest.mark.long
def test_a_second_start_loads_its_program_and_makes_the_same_bits(toy_corpus, tmp_path) -> None:
    def train(name: str) -> float:
        """Train in a process; its processor time in seconds."""
        flags = flags_of(toy_corpus, tmp_path / name, "--steps", 3, "--num_layers", 4)
        flags += ["--warmup_steps", "1", "--run_dir", str(tmp_path / name)]
        flags += ["--xla_cache", str(tmp_path / "cache")]
        before = os.times()
        command = [sys.executable, "-m", "tpu_tlm.train", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        after = os.times()
        return after.children_user - before.children_user

    seconds = [train("first"), train("second")]
    programs = list((tmp_path / "cache").glob("*/*.pb"))
    assert programs and seconds[1] < seconds[0]
    first, second = (
        Checkpoints(str(tmp_path / name / "checkpoints")).at(3).load()
        for name in ("first", "second")
    )
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
