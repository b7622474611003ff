"""`--config`: damaged and hostile files are one line that names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import ROOT
from tpu_tlm.config import Config, cli
from tpu_tlm.config.files import dump, load_values, values_in
from tpu_tlm.errors import UsageError, run_command

FIELD = ROOT.parent / "shared" / "field"
FIRST_EDITION = sorted((ROOT / "tests" / "first_edition").glob("files/runs/*/config.yaml"))


def lines(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of train with this file as `--config`."""
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    argv = ["--config", str(file), "--train_dir", "nowhere", "--run_dir", "b"]
    assert run_command(lambda a: cli.parse("tpu_tlm.train", "", Config.groups(), a), argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"error: {file}: "), err
    return err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"lr: .inf\n", ["lr", "finite"]),
        (b"steps: 2020-01-01\n", ["steps", "date"]),
        (b"steps: [1]\n", ["steps", "whole number"]),
        (b"steps: {a: 1}\n", ["steps", "whole number"]),
        (b"steps: yes\n", ["steps", "whole number"]),
        (b"steps: -5\n", ["steps -5", "at least 1"]),
        (b"run_dir: 1.5\n", ["run_dir", "text"]),
        (b"run_dir: [a]\n", ["run_dir", "text"]),
        (b"objective: clm\nmask_rate: 0.3\n", ["mask_rate", "clm"]),
        (b"mask_token_rate: 0.9\nmask_random_rate: 0.3\n", ["mask_random_rate", "sum"]),
        (b"seq_length: 5\n", ["seq_length"]),
        (b"lerning_rate: 5\n", ["lerning_rate", "lr"]),
        (b"max_steps: 5\n", ["max_steps", "steps"]),
        (b"nctx: 5\n", ["nctx"]),
        (b"basedir: a\nrun_dir: b\n", ["run_dir", "twice"]),
        (b"causal: true\nobjective: electra\n", ["causal", "electra"]),
        (b"a: \x00\n", ["NUL"]),
        (b"lr: \xff\n", ["UTF-8"]),
        ("lr: 1\n".encode("utf-16"), ["UTF-16"]),
        (b"a: &a [x]\nb: [*a, *a]\n", ["aliases"]),
        (b"lr: " + b"[" * 3000 + b"]" * 3000, ["nested"]),
        (b"- lr\n", ["mapping"]),
        (b"", ["mapping"]),
        (b"lr: 1\nlr: 2\n", ["lr", "twice"]),
        (b"#" * (2 << 20), ["bytes"]),
    ],
)
def test_a_bad_file_is_one_line(content, words, tmp_path, capsys):
    line = lines(tmp_path, content, capsys)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", ["bomb", "deep", "inf", "not-utf8", "nul", "utf16"])
def test_files_from_the_field_are_one_line(name, tmp_path, capsys):
    file = FIELD / f"rel-yaml-{name}" / "c.yaml"
    if name == "nul":
        content = b"lr: 1\nsteps: \x00\n"
    elif file.exists():
        content = file.read_bytes()
    else:
        pytest.skip("the field's files are not here")
    lines(tmp_path, content, capsys)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, "a\x00b"):
        with pytest.raises(UsageError, match="cannot be read"):
            load_values(path, Config.groups())


def test_a_remote_path_keeps_its_scheme(monkeypatch):
    from tpu_tlm import filesystem

    seen = []
    monkeypatch.setattr(filesystem, "read_bytes", lambda p: seen.append(p) or b"lr: 0.5\n")
    given = ["--config", "gs://bucket/c.yaml", "--train_dir", "d", "--run_dir", "r"]
    config = Config(*cli.parse("tpu_tlm.train", "", Config.groups(), given))
    assert seen == ["gs://bucket/c.yaml"] and config.optim.lr == 0.5


def test_spellings_of_the_first_edition_load():
    """Keys of a config.yaml that the first edition wrote."""
    text = (
        "basedir: run\nmxlen: 12\ndsz: 8\ntoken_type_vsz: 2\noptim: lamb\nnpz: true\ntb: false\n"
        "causal: false\nobjective: clm\nlayer_norms_after: true\n"
        "transformer_type: post-layer-norm\neps: 1e-06\nmask_rate: 0.15\n"
    )
    values = values_in(text, "config.yaml", Config.groups())
    (*_, run, _) = cli.build(Config.groups(), values, "config.yaml", check_required=False)
    assert (run.run_dir, run.objective, run.export_npz, run.tensorboard) == (
        "run",
        "clm",
        True,
        False,
    )
    assert values["max_positions"] == 12 and values["transformer_type"] == "post-layer-norm"


@pytest.mark.parametrize("name", [path.parent.name for path in FIRST_EDITION])
def test_a_run_of_the_first_edition_reads_as_a_config_file(name):
    path = next(path for path in FIRST_EDITION if path.parent.name == name)
    config = Config.from_yaml(path)
    assert config.run.run_dir and config.run.objective
    given = ["--config", str(path), "--steps", "99"]
    again = Config(*cli.parse("tpu_tlm.train", "", Config.groups(), given))
    assert again.model == config.model and again.run.steps == 99


def test_what_dump_writes_is_read_back():
    parts = Config(train_dir='x "y" # z', tpu="none such", rpr_k=[0]).parts()
    values = values_in(dump(*parts), "f", Config.groups())
    assert cli.build(Config.groups(), values, "f", check_required=False) == parts
