"""Every option of every command at its edges: exit code 2 and one line that names the flag."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tpu_tlm.config import cli
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.options import Option, options_of
from tpu_tlm.errors import run_command

# Required options of each command, with values that pass.
REQUIRED = {
    "vocab": ["--input_files", "x", "--output", "y"],
    "preprocess": ["--input_files", "x", "--output", "y"],
    "train": ["--train_dir", "x", "--run_dir", "y"],
    "evaluate": ["--model", "x", "--data", "y"],
    "predict": ["fill-mask", "--model", "x"],
    "convert": ["x", "y"],
    "plan": ["--tpu", "v5e-1"],
    "quickstart": ["--text", "x"],
    "report": ["x"],
    "doctor": [],
    "finetune": ["--model", "x", "--train", "y", "--run_dir", "z"],
    "embed": ["--model", "x", "--input", "y", "--output", "z"],
}


def edges(option: Option) -> list[str]:
    """Values that the option must refuse."""
    if option.choices:
        return ["no-such-choice", ""]
    if option.base is bool:
        return ["maybe", "2", ""]
    if option.base is str:
        places = option.declared.unit in ("dir", "directory", "file", "glob", "path")
        no_bucket = ["gs:", "gs:/b/x", "gs://", "gs:///x"] if places else []
        return ["\x00", *no_bucket, *([] if option.declared.may_be_empty else [""])]
    d, found = option.declared, ["nan", "inf", "1e999", "word", "", "1e400", "9" * 60]
    small = 1 if option.base is int else 1e-9
    if d.minimum is not None:
        found.append(str(d.minimum - small))
    if d.above is not None:
        found.append(str(d.above))
    if d.maximum is not None:
        found.append(str(d.maximum + (1 if option.base is int else small)))
    if d.below is not None:
        found.append(str(d.below))
    if option.base is int:
        found += ["1.5", str(2**63)]
    if option.base is float and d.maximum is None and d.below is None:
        found.remove("9" * 60)  # a large float, but a finite one
    return found


def inside(option: Option) -> list[str]:
    """Values at the inclusive bounds, which the option must take."""
    d = option.declared
    return [
        str(int(b) if option.base is int else b) for b in (d.minimum, d.maximum) if b is not None
    ]


# Each option once, though several commands may have its group.
OPTIONS = list(
    {
        (option.group, option.name): (command, option)
        for command, entry in COMMANDS.items()
        for option in options_of(entry.groups).values()
    }.values()
)
CASES = [(command, option, value) for command, option in OPTIONS for value in edges(option)]


def refused(command: str, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a command line that must be refused with exit code 2."""
    entry = COMMANDS[command]

    def parse(args: list[str] | None) -> None:
        cli.parse(f"tpu_tlm.{command}", "", entry.groups, args, check_required=command != "plan")

    assert run_command(parse, argv) == 2, argv
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1, (argv, err)
    return err


@pytest.mark.parametrize(
    ("command", "option", "value"), CASES, ids=[f"{c}-{o.name}-{v!r:.12}" for c, o, v in CASES]
)
def test_an_edge_is_refused_and_named(command, option, value, capsys):
    required = list(REQUIRED[command])
    if option.declared.positional:
        required[list(options_of(COMMANDS[command].groups)).index(option.name)] = value
        argv = required
    else:
        argv = [*required, f"--{option.name}={value}"]
    assert f"--{option.name}" in refused(command, argv, capsys)


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=[f"{c}-{o.name}" for c, o in OPTIONS])
def test_the_bounds_themselves_are_taken(command, option):
    for value in inside(option):
        number = option.base(value)
        assert option.checked(value) == ([number] if option.many else number), option.name
    # A default lies within its own range.
    if option.default not in ("", []):
        assert option.checked(option.default) == option.default


def test_every_number_is_bounded_below():
    """A number without a lower bound is almost always a forgotten one."""
    unbounded = {
        option.name
        for _, option in OPTIONS
        if option.base in (int, float)
        and option.declared.minimum is None
        and option.declared.above is None
    }
    assert unbounded == set()


@pytest.mark.parametrize(
    ("command", "given", "words"),
    [
        ("train", "--causal --objective electra", ["--causal", "electra"]),
        ("train", "--transformer_type mead --layer_norms_after", ["--layer_norms_after", "mead"]),
        ("preprocess", "--subword_type wordpiece --codes c --vocab v", ["--codes", "bpe"]),
        ("train", "--steps 10 --epochs 2", ["--steps", "--epochs"]),
        ("train", "--mask_token_rate 0.9 --mask_random_rate 0.3", ["--mask_random_rate", "sum"]),
        ("train", "--disc_weight 3", ["--disc_weight", "electra", "mlm"]),
        ("train", "--objective clm --mask_rate 0.15", ["--mask_rate", "clm"]),
        ("train", "--causal --eval_mask_rate 0.2", ["--eval_mask_rate", "clm"]),
        ("train", "--d_out 12", ["--d_out", "dual-encoder"]),
        ("train", "--span_mean 4", ["--span_mean", "mask_mode"]),
        ("train", "--wsd_decay 0.5", ["--wsd_decay", "wsd"]),
        ("train", "--logical_cpus 2", ["--logical_cpus", "mirror"]),
        ("train", "--d_model 10 --num_heads 3", ["--d_model 10", "--num_heads 3"]),
        ("train", "--rpr_k 1 2 3", ["--rpr_k", "--num_layers"]),
        ("train", "--windowed_ra --local_window 5", ["--windowed_ra", "--local_window"]),
        ("plan", "--train_dir d --seq_length 5", ["--seq_length", "--train_dir"]),
        ("plan", "--sweep_accum 5", ["--sweep_accum", "--sweep"]),
        ("preprocess", "--index 3 --of 3", ["--index 3", "below --of 3"]),
        ("preprocess", "--of 2 --runner beam", ["--of", "local", "beam"]),
        ("vocab", "--index 3 --of 3", ["--index 3", "below --of 3"]),
        ("vocab", "--index 1", ["--index 1", "below --of 1"]),
        ("vocab", "--of 2 --runner beam", ["--of", "local", "beam"]),
        ("vocab", "--beam_options x=1", ["--beam_options", "--runner beam", "local"]),
        ("preprocess", "--turn_sep x", ["--turn_sep", "ntp", "none"]),
        ("predict", "--beam 3", ["--beam", "generate"]),
        ("train", "--preset bert-smal", ["--preset", "did you mean bert-small?"]),
        ("train", "--optimizer adam-w", ["--optimizer", "did you mean adamw?"]),
        ("train", "--objective mln", ["--objective", "did you mean mlm?"]),
    ],
)
def test_what_does_not_go_together_is_refused(command, given, words, capsys):
    line = refused(command, [*REQUIRED[command], *given.split()], capsys)
    assert all(word in line for word in words), line


def test_the_same_spelled_twice_is_taken():
    groups = COMMANDS["train"].groups
    given = [*REQUIRED["train"], "--causal", "--objective", "clm", "--layer_norms_after", "false"]
    parts = cli.parse("tpu_tlm.train", "", groups, given)
    assert parts[8].objective == "clm" and parts[2].transformer_type == "pre-layer-norm"


def test_whole_numbers_are_exact():
    seed = 9007199254740993
    parts = cli.parse(
        "tpu_tlm.train", "", COMMANDS["train"].groups, [*REQUIRED["train"], "--seed", str(seed)]
    )
    assert parts[8].seed == seed
    option = options_of(COMMANDS["train"].groups)["steps"]
    assert option.checked("1e6") == 1_000_000 and option.checked("1_000") == 1000
    assert math.isclose(options_of(COMMANDS["train"].groups)["lr"].checked("1e-4"), 1e-4)


def test_a_refusal_needs_no_tensorflow():
    """The checks come before TensorFlow is imported, in every command that has a range."""
    lines = "\n".join(
        f"    ({c!r}, {[*REQUIRED[c], f'--{o.name}={edges(o)[0]}']!r}),"
        for c, o in {c: o for c, o in OPTIONS if not o.declared.positional}.items()
    )
    program = f"""
import importlib, sys
from tpu_tlm.errors import run_command
for command, argv in [
{lines}
]:
    code = run_command(importlib.import_module(f"tpu_tlm.{{command}}").main, argv)
    assert code == 2, (command, argv, code)
for module in ("tensorflow", "keras", "jax", "transformers"):
    assert module not in sys.modules, module
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
