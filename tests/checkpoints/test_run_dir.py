from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tpu_tlm import config
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import cli
from tpu_tlm.config.options import options_of
from tpu_tlm.config.resolve import idle_options
from tpu_tlm.errors import UsageError

CLASSES = (
    config.ModelConfig,
    config.MlmConfig,
    config.DataConfig,
    config.OptimConfig,
    config.RunConfig,
    config.RuntimeConfig,
)
IDENTITY = {"tokenizer": "a" * 64, "training data": "b" * 64}


def _parts(directory: Path | str, **values) -> tuple:
    return cli.build(
        CLASSES, {"train_dir": "data/train", "run_dir": str(directory), **values}, "test"
    )


def _begun(run: RunDir, parts: tuple) -> None:
    """A run that has saved a checkpoint."""
    run.prepare(parts, IDENTITY)
    Path(run.checkpoints, "step-00000001").mkdir()


def test_layout_and_config_that_reads_back(tmp_path: Path) -> None:
    run = RunDir(f"{tmp_path}/run/")
    parts = _parts(run.path, d_model=64, rpr_k=[4, 2])
    assert not run.exists() and run.prepare(parts, IDENTITY) == [] and run.exists()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.yaml",
        "identity.json",
        "tokenizer",
        "checkpoints",
    }
    assert [run.npz, run.tb, run.metrics] == [
        f"{tmp_path}/run/{name}" for name in ("npz", "tb", "metrics.jsonl")
    ]
    assert cli.build(CLASSES, cli.load_values(run.config, CLASSES), "test") == parts
    [model] = run.load([config.ModelConfig])
    assert model == parts[0]


def test_the_same_options_continue(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path))
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert run.prepare(_parts(run.path), IDENTITY) == []
    assert (tmp_path / "run" / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("d_model", 64, 128),
        ("rpr_k", [8], [4]),
        ("seed", 0, 1),
        ("optimizer", "adamw", "lamb"),
        ("window_shards", 16, 8),
        ("mask_mode", "token", "span"),
        ("transformer_type", "pre-layer-norm", "mead"),
        ("d_k", None, 32),
    ],
)
def test_another_run_is_refused_naming_option_old_and_new_value(
    tmp_path: Path, name: str, old: object, new: object
) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path, **{name: old}))
    before = (tmp_path / "run" / "config.yaml").read_text()

    def shown(value: object) -> str:
        return (
            "none"
            if value is None
            else " ".join(map(str, value))
            if isinstance(value, list)
            else str(value)
        )

    with pytest.raises(UsageError) as error:
        run.prepare(_parts(run.path, **{name: new}), IDENTITY)
    told = f"--{name} was {shown(old)} and is now {shown(new)}"
    assert told in str(error.value) and "--init_from" in str(error.value)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path))
    with pytest.raises(
        UsageError, match="--d_model was 512 and is now 64; --seed was 0 and is now 3"
    ):
        run.prepare(_parts(run.path, d_model=64, seed=3, steps=10), IDENTITY)


def test_harmless_changes_are_reported_and_kept(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path, steps=100))
    changes = run.prepare(_parts(run.path, steps=200, keep=3, lr=1e-4), IDENTITY)
    assert [str(change) for change in changes] == [
        "--lr was 0.0004 and is now 0.0001",
        "--steps was 100 and is now 200",
        "--keep was 5 and is now 3",
    ]
    assert run.load([config.RunConfig])[0].steps == 200
    assert run.prepare(_parts(run.path, steps=200, keep=3, lr=1e-4), IDENTITY) == []


def test_another_process_of_the_run_compares_but_writes_nothing(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    assert run.prepare(_parts(run.path), IDENTITY, write=False) == [] and not run.exists()
    _begun(run, _parts(run.path))
    with pytest.raises(UsageError):
        run.prepare(_parts(run.path, seed=1), IDENTITY, write=False)


def test_another_tokenizer_or_other_data_is_refused(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path))
    with pytest.raises(
        UsageError, match="another tokenizer .fingerprint aaaaaaaaaaaa, now cccccccccccc"
    ):
        run.prepare(_parts(run.path), {**IDENTITY, "tokenizer": "c" * 64})
    run.prepare(_parts(run.path, train_dir="moved/train"), {"tokenizer": "a" * 64})
    kept = json.loads((tmp_path / "run" / "identity.json").read_text())
    assert kept.items() >= IDENTITY.items(), "what is known is not forgotten"


def test_damage_is_named(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    with pytest.raises(UsageError, match="is not a run directory: it has no config.yaml"):
        run.load(CLASSES)
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds checkpoints but no config.yaml"):
        run.prepare(_parts(run.path), IDENTITY)
    for text in ("a: [", "just text", "\x00"):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UsageError, match="config.yaml is damaged"):
            run.prepare(_parts(run.path), IDENTITY)
    (tmp_path / "config.yaml").write_text("d_modle: 4\n")
    with pytest.raises(UsageError, match="unknown key 'd_modle'; did you mean d_model"):
        run.prepare(_parts(run.path), IDENTITY)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "checkpoints" / "step-00000001").rmdir()
    run.prepare(_parts(run.path), IDENTITY)
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(UsageError, match="identity.json is damaged"):
        run.prepare(_parts(run.path), IDENTITY)


def _first_edition(run: RunDir) -> None:
    """Rewrite the files of a run as the first edition had them: without checksums of their own."""
    lines = Path(run.config).read_text().splitlines(True)
    Path(run.config).write_text("".join(line for line in lines if not line.startswith("#")))
    Path(run.identity).write_text(json.dumps(IDENTITY, indent=1, sort_keys=True) + "\n")


def test_an_option_that_the_old_file_does_not_know_counts_as_its_default(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path))
    _first_edition(run)
    text = Path(run.config).read_text()
    Path(run.config).write_text(
        "".join(line for line in text.splitlines(True) if not line.startswith("mask_mode"))
    )
    assert run.prepare(_parts(run.path), IDENTITY) == []
    with pytest.raises(UsageError, match="another tokenizer"):
        _first_edition(run)
        run.prepare(_parts(run.path), {"tokenizer": "c" * 64})


def _changed_bits(good: bytes, step: int):
    """The file with one bit changed: every `step`-th byte, and the ends where checksums stand."""
    for place in sorted(
        {*range(90), *range(len(good) - 90, len(good)), *range(0, len(good), step)}
    ):
        if place < len(good):
            bit = 1 << place % 8
            yield good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :]


def test_every_changed_byte_is_named(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    run.prepare(_parts(run.path), IDENTITY)
    path = Path(run.config)
    good = path.read_bytes()
    for bad in _changed_bits(good, 7):
        path.write_bytes(bad)
        with pytest.raises(UsageError, match="config.yaml"):
            run.load([config.RunConfig])
    path.write_bytes(good)
    path = Path(run.identity)
    for bad in _changed_bits(path.read_bytes(), 1):
        path.write_bytes(bad)
        with pytest.raises(UsageError, match="identity.json"):
            RunDir(run.path).note_commit()


def test_checkpoints_that_are_gone_are_missed_once_there_were_some(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"))
    run.prepare(_parts(run.path), IDENTITY)
    # A run that was stopped before its first save starts again.
    assert run.prepare(_parts(run.path), IDENTITY) == []
    run.note_commit()
    (tmp_path / "run" / "checkpoints" / "step-00000001").mkdir()
    assert RunDir(run.path).prepare(_parts(run.path), IDENTITY) == []
    for gone in ("step-00000001", ""):
        (tmp_path / "run" / "checkpoints" / gone).rmdir()
        with pytest.raises(UsageError, match="checkpoints.* are missing: .*--restart"):
            RunDir(run.path).prepare(_parts(run.path), IDENTITY)
    again = RunDir(run.path)
    again.prepare(_parts(run.path, restart=True), IDENTITY, restart=True)
    assert again.prepare(_parts(run.path, restart=True), IDENTITY) == []


def test_an_option_that_nothing_reads_stops_no_run(tmp_path: Path) -> None:
    """A run of an earlier version may hold options that its objective does not use."""
    run = RunDir(str(tmp_path / "run"))
    _begun(run, _parts(run.path, objective="clm", mask_mode="span"))
    [change] = run.prepare(_parts(run.path, objective="clm"), IDENTITY)
    assert change.name == "mask_mode"


def test_a_moved_run_continues(tmp_path: Path) -> None:
    _begun(RunDir(str(tmp_path / "a")), _parts(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    [change] = RunDir(str(tmp_path / "b")).prepare(_parts(tmp_path / "b"), IDENTITY)
    assert change.name == "run_dir"


def test_every_training_option_is_decided(tmp_path: Path) -> None:
    """Each field is changeable or, when changed, refused."""
    run = RunDir(str(tmp_path / "run"))
    base = _parts(run.path)
    _begun(run, base)
    table, idle = options_of(CLASSES), idle_options(base)
    for at, part in enumerate(base):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or table[field.name].declared.may_change
                or field.name in idle
            ):
                continue
            option = table[field.name].declared
            lower = option.maximum is not None or option.below is not None
            other = value / 2 if lower and value else value + 1
            changed = [
                *base[:at],
                dataclasses.replace(part, **{field.name: other}),
                *base[at + 1 :],
            ]
            with pytest.raises(UsageError, match=f"--{field.name} was"):
                run.prepare(changed, IDENTITY)
