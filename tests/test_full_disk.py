"""A disk that is really full (a small tmpfs): one line, nothing half-written, and continuing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests.command_modules import convert, embed, preprocess, report, vocab
from tests.paths import ROOT
from tests.toy_runs import SEEN, ToyRun, fit, options_of
from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints
from tpu_tlm.errors import TlmError, run_command
from tpu_tlm.formats.load import load
from tpu_tlm.formats.save import save

FILES = ROOT / "tests" / "first_edition" / "files"
VOCAB = FILES / "vocab" / "wordpiece" / "vocab.txt"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many KiB, or changes its size; root only."""
    place = tmp_path / "disk"
    mounted = []

    def of(kib: int) -> Path:
        place.mkdir(exist_ok=True)
        size = f"size={kib}k"
        options = ["-o", f"remount,{size}", place] if mounted else ["-t", "tmpfs", "-o", size, "x"]
        call = ["mount", *map(str, options), *([] if mounted else [str(place)])]
        try:
            done = subprocess.run(call, capture_output=True)
        except OSError as error:
            pytest.skip(f"cannot mount a small disk: {error}")
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
        mounted.append(kib)
        return place

    yield of
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _left(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def _full(main, argv: list[object], place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command on the full disk."""
    capsys.readouterr()
    assert run_command(main, [str(value) for value in argv]) == 1
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "No space left" in line and str(place) in line and "Traceback" not in said
    return line


def test_exports_leave_nothing_half_written(disk, toy_run: ToyRun, capsys):
    place = disk(8)
    _full(convert.main, [toy_run.run_dir, place / "x.npz"], place, capsys)
    assert _left(place) == []
    _full(report.main, [toy_run.run_dir, "--output", place / "r.html"], place, capsys)
    assert _left(place) == []
    bert = FILES / "exports" / "bert"
    # Room for the weights and not for all of the tokenizer.
    place = disk(30)
    for target in ("hf", "bert"):
        _full(convert.main, [bert, place / "x", "--to", target], place, capsys)
        assert _left(place) == []


def test_a_saved_model_on_a_full_disk_is_one_line(toy_run, tmp_path, monkeypatch):
    target = tmp_path / "served"

    def full(served, directory, **options):
        os.makedirs(directory)
        Path(directory, "saved_model.pb.tmp1").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{directory}/x; No space left on device"
        )

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(TlmError, match="served: No space left"):
        save(load(str(toy_run.run_dir)), str(target), "savedmodel")
    assert not target.exists()


def test_a_failed_export_keeps_what_was_in_the_directory(tmp_path, monkeypatch):
    from tpu_tlm import filesystem

    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    write = filesystem.write_bytes

    def full(path, data):
        if path.endswith("conversion.json"):
            raise TlmError(f"{path}: No space left on device")
        write(path, data)

    monkeypatch.setattr(filesystem, "write_bytes", full)
    with pytest.raises(TlmError, match="No space left"):
        save(load(str(FILES / "exports" / "bert")), str(target), "hf", overwrite=True)
    assert _left(target) == ["mine.txt"]


def test_preprocessing_continues_when_there_is_room(disk, tmp_path, capsys):
    place = disk(60)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"some words {i} and more {7 * i}\n" for i in range(20_000)))
    words = ["--input_files", text, "--subword_type", "wordpiece", "--vocab", VOCAB]
    argv = [*words, "--seq_length", 16, "--workers", 1, "--output"]
    _full(preprocess.main, [*argv, place / "data"], place, capsys)
    disk(20_000)
    for target in (place / "data", tmp_path / "whole"):
        assert run_command(preprocess.main, [str(v) for v in [*argv, target]]) == 0
    names = [path.name for path in (tmp_path / "whole").iterdir() if path.is_file()]
    assert names
    for name in names:
        assert (place / "data" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_vocabulary_on_a_full_disk(disk, capsys):
    place = disk(4)
    (place / "filler").write_bytes(b"x" * 4096)
    argv = ["--input_files", FILES / "text" / "train.txt", "--subword_type", "wordpiece"]
    _full(vocab.main, [*argv, "--vocab_size", 60, "--output", place / "v"], place, capsys)
    assert not [name for name in _left(place) if (place / name).is_file() and name != "filler"]


def test_temporary_files_on_a_full_disk(disk, tmp_path, monkeypatch, capsys):
    place = disk(4)
    (place / "filler").write_bytes(b"x" * 4096)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    argv = ["--input_files", FILES / "text" / "train.txt", "--vocab_size", 60]
    said = _full(vocab.main, [*argv, "--output", tmp_path / "v"], place, capsys)
    assert str(place) in said and _left(place) == ["filler"]


def test_vectors_continue_when_there_is_room(disk, toy_run: ToyRun, tmp_path, capsys):
    place = disk(700)  # the first 4,096 vectors of 32 numbers are half of a MB
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"w{i % 40} w{(i + 1) % 40}\n" for i in range(6000)))
    argv = ["--model", toy_run.run_dir, "--input", texts, "--output"]
    _full(embed.main, [*argv, place / "v.npy"], place, capsys)
    assert not [name for name in _left(place) if name == "v.npy" or name.endswith(".tmp")]
    disk(20_000)
    for target in (place / "v.npy", tmp_path / "whole.npy"):
        assert run_command(embed.main, [str(v) for v in [*argv, target]]) == 0
    assert "parts were there from an interrupted call" in capsys.readouterr().out
    assert _left(place) == ["v.npy"]
    assert (place / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


FEW = ("--steps", 6, "--save_steps", 2, "--steps_per_call", 1, "--export_npz", "true")


def test_training_names_the_safe_step_and_continues(disk, toy_corpus, capsys):
    """The disk takes one checkpoint, and neither the next one nor the NPZ."""
    place = disk(240)
    options = options_of(toy_corpus, place / "run", *FEW, *SEEN)
    with pytest.raises(TlmError, match="step 4.*No space left.*step-00000002.*continues"):
        fit(options)
    said = capsys.readouterr().err
    assert "checkpoint-step-2.npz: cannot be written (No space left" in said
    names = _left(place / "run")
    assert not [name for name in names if "emergency" in name or name.endswith(".tmp")]
    assert not [name for name in names if "step-00000004" in name]
    disk(20_000)
    assert fit(options).made == 4


def test_a_full_disk_of_checkpoints_alone_saves_next_to_them(disk, toy_corpus, tmp_path):
    run = tmp_path / "run"
    place = disk(120)
    run.mkdir()
    (run / "checkpoints").symlink_to(place)
    options = options_of(toy_corpus, run, *FEW)
    with pytest.raises(TlmError, match="No space left.*saved in .*checkpoints-emergency"):
        fit(options)
    found = RunCheckpoints(str(run / "checkpoints")).newest()
    assert found is not None and "emergency" in found.path
    disk(20_000)
    assert fit(options).made == 6 - found.step
    assert not (run / "checkpoints-emergency").exists()
