"""Pipes, devices and directories where a file belongs: one line, no waiting, no endless reading."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command_modules import (
    convert,
    embed,
    evaluate,
    finetune,
    predict,
    preprocess,
    report,
    train,
    vocab,
)
from tests.paths import ROOT
from tests.toy import SIZES
from tests.toy_runs import Corpus
from tpu_tlm.errors import run_command

FILES = ROOT / "tests" / "first_edition" / "files"
BERT = str(FILES / "exports" / "bert")
WORDS = str(FILES / "vocab" / "wordpiece" / "vocab.txt")
TEXT = str(FILES / "text" / "train.txt")

Main = Callable[[list[str] | None], int | None]

KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "empty device": lambda path: path.symlink_to("/dev/null"),
    "directory": Path.mkdir,
    "link to itself": lambda path: path.symlink_to(path.name),
}

# Command: its arguments, and the options that take each of the things above in the place of a path.
COMMANDS: dict[str, tuple[Main, str, str]] = {
    "vocab": (vocab.main, f"--input_files {TEXT} --output OUT", "input_files config"),
    "preprocess": (
        preprocess.main,
        f"--input_files {TEXT} --vocab {WORDS} --subword_type wordpiece --output OUT --workers 1",
        "input_files vocab add_tokens tokenizer config",
    ),
    "fastbpe": (
        preprocess.main,
        f"--input_files {TEXT} --vocab {FILES}/vocab/bpe/vocab --codes {FILES}/vocab/bpe/codes"
        " --output OUT --workers 1",
        "codes vocab",
    ),
    "train": (
        train.main,
        " ".join(["--train_dir TRAIN --run_dir OUT --steps 1 --distribute none", *SIZES]),
        "train_dir valid_dir init_from config objective",
    ),
    "evaluate": (evaluate.main, f"--model {BERT} --data TRAIN", "model data config"),
    "predict": (
        predict.main,
        f"respond --model {BERT} --text x --candidates {TEXT}",
        "model tokenizer candidates config",
    ),
    "finetune": (
        finetune.main,
        f"--model {BERT} --train TABLE --valid TABLE --run_dir OUT --distribute none",
        "model train valid test tokenizer mead_config config",
    ),
    "embed": (embed.main, f"--model {BERT} --input LINES --output OUT.npz", "model input config"),
    "convert": (convert.main, f"{BERT} OUT.npz", "tokenizer mead_config config"),
}
CASES = [
    (command, option) for command, (_, _, names) in COMMANDS.items() for option in names.split()
]
SUFFIX = {"finetune": ".tsv", "embed": ".txt"}


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"not refused in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def prepared(toy_corpus: Corpus, tmp_path: Path) -> dict[str, str]:
    table = tmp_path / "table.tsv"
    table.write_text("text\tlabel\none two\ta\nthree\tb\n")
    lines = tmp_path / "lines.txt"
    lines.write_text("one\ntwo\n")
    return {
        "OUT": str(tmp_path / "out"),
        "TRAIN": str(toy_corpus.train),
        "TABLE": str(table),
        "LINES": str(lines),
    }


@pytest.mark.parametrize(("command", "option"), CASES, ids=str)
def test_an_input_that_is_no_file(
    command: str,
    option: str,
    prepared: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main, arguments, _ = COMMANDS[command]
    argv = [
        next((text.replace(name, path) for name, path in prepared.items() if name in text), text)
        for text in arguments.split()
    ]
    for kind, make in KINDS.items():
        place = tmp_path / f"{kind.replace(' ', '-')}{SUFFIX.get(command, '')}"
        make(place)
        own = [f"--{option}", f"{place}{':Mine' if option == 'objective' else ''}"]
        rest = list(argv)
        if own[0] in rest:
            at = rest.index(own[0])
            del rest[at : at + 2]
        with within(60):
            code = run_command(main, [*rest, *own])
        said = capsys.readouterr().err
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2, (kind, code, said)
        assert len(errors) == 1 and "Traceback" not in said, (kind, said)
        assert place.name in errors[0] or f"--{option}" in errors[0], (kind, errors)
        assert not os.path.exists(prepared["OUT"]), kind


@pytest.mark.parametrize("kind", ["pipe", "endless device", "empty device", "directory"])
@pytest.mark.parametrize("command", ["convert", "embed", "report"])
def test_an_output_that_is_no_file_is_left_alone(
    command: str, kind: str, toy_run: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "out.npz"
    KINDS[kind](place)
    run, lines = tmp_path / "run", tmp_path / "lines.txt"
    lines.write_text("one\ntwo\n")
    shutil.copytree(toy_run.run_dir, run)  # type: ignore[attr-defined]
    main, argv = {
        "convert": (convert.main, [BERT, place]),
        "embed": (embed.main, ["--model", BERT, "--input", lines, "--output", place]),
        "report": (report.main, [run, "--output", place]),
    }[command]
    before = place.lstat()
    with within(60):
        assert run_command(main, [str(value) for value in argv]) == 2
    (error,) = [li for li in capsys.readouterr().err.splitlines() if li.startswith("error: ")]
    assert place.name in error
    after = place.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
