"""The commands under one name: list, help, version, and errors with a suggestion."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tpu_tlm import __main__, __version__
from tpu_tlm.config import cli, other_programs
from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.options import options_of
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.registry import target_of


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """`python -m tpu_tlm` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "tpu_tlm", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def help_of(command: str, *more: str) -> str:
    """The help of a command."""
    return cli.help_text(f"tpu_tlm.{command}", "", COMMANDS[command].groups, everything=bool(more))


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_the_commands_are_listed(argv, capsys):
    assert __main__.main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {command} " in out for command in COMMANDS)


def test_an_unknown_command_is_wrong_use(capsys):
    assert __main__.main(["trian"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "'trian'" in err and "did you mean tpu-tlm train?" in err
    assert __main__.main(["xyz"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_version(capsys):
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tpu-tlm {__version__}\n"
    assert __main__.main(["-V"]) == __main__.main(["version"]) == 0
    assert capsys.readouterr().out == f"tpu-tlm {__version__}\n" * 2
    with pytest.raises(SystemExit) as stop:
        cli.parse("tpu_tlm.train", "", COMMANDS["train"].groups, ["--version"])
    assert stop.value.code == 0 and __version__ in capsys.readouterr().out


def test_help_command_is_command_help():
    one, two = run("help", "train"), run("train", "--help")
    assert one.returncode == two.returncode == 0 and one.stdout == two.stdout
    assert run("train", "help").stdout == one.stdout
    assert run("train", "--help-all").stdout.count("\n") > 3 * one.stdout.count("\n")


def test_an_error_is_one_line():
    done = run("doctor", "--jsom")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--jsom" in done.stderr and "--json" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_short_help_is_short_and_the_long_one_complete(command):
    short, full = help_of(command), help_of(command, "all")
    assert short.count("\n") < 70
    for line in [*short.splitlines(), *full.splitlines()]:
        assert len(line) <= 100, line
    for name, option in options_of(COMMANDS[command].groups).items():
        shown = name.upper() if option.declared.positional else f"--{name} "
        assert shown in full, name
        if option.declared.required:
            assert shown in short, name
    assert all(
        f"tpu-tlm {command} {example}".strip() in short for example in COMMANDS[command].examples
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_of_a_help_parses(command):
    import shlex

    for example in COMMANDS[command].examples:
        argv = [word for word in shlex.split(example)]
        if "--config" in argv:
            argv[argv.index("--config") + 1] = str(ROOT / argv[argv.index("--config") + 1])
        groups = COMMANDS[command].groups
        cli.parse(f"tpu_tlm.{command}", "", groups, argv, check_required=command != "plan")


@pytest.mark.parametrize(
    ("command", "flag", "answer"),
    [
        ("train", "--learning_rate", "--lr"),
        ("train", "--learning-rate", "--lr"),
        ("train", "--per_device_train_batch_size", "--batch_size"),
        ("train", "--num_train_epochs", "--epochs"),
        ("train", "--max_steps", "--steps"),
        ("train", "--output_dir", "--run_dir"),
        ("preprocess", "--output_dir", "--output"),
        ("train", "--model_name_or_path", "--init_from"),
        ("predict", "--model_name_or_path", "--model"),
        ("train", "--gradient_accumulation_steps", "--grad_accum"),
        ("train", "--max_seq_length", "--seq_length of the command preprocess"),
        ("train", "--batchsize", "--batch_size"),
        ("train", "--lernin_rate", "--lr"),
        ("train", "--no_xla", "--xla false"),
        ("train", "--no-tie-weights", "--tie_weights false"),
        ("evaluate", "--valid_dir", "--data"),
        ("evaluate", "--steps", "--steps of the command train"),
        ("evaluate", "--run_dir", "--model here"),
        ("train", "--nctx", "--seq_length of the command preprocess"),
        ("train", "--seqlen", "--seq_length of the command preprocess"),
        ("preprocess", "--do_lower_case", "--cased"),
        ("train", "--hidden_size", "--d_model"),
        ("train", "--fp16", "--precision"),
        ("train", "--warmup_ratio", "--warmup_steps"),
        ("train", "--save_total_limit", "--keep"),
        ("train", "--optimiser", "--optimizer"),
        *(("train", f"--{name}", answer) for name, answer in other_programs.FLAGS.items()),
    ],
)
def test_other_names_are_answered_with_ours(command, flag, answer):
    with pytest.raises(UsageError) as error:
        cli.parse(f"tpu_tlm.{command}", "", COMMANDS[command].groups, [flag, "1"])
    assert answer in str(error.value) and "unknown flag" in str(error.value)


def test_what_other_programs_have_is_answered_with_options_that_exist():
    known = {name for c in COMMANDS.values() for name in options_of(c.groups)}
    spellings = {
        spelling
        for command in COMMANDS.values()
        for name, option in options_of(command.groups).items()
        for spelling in (name, *option.declared.aliases, *option.declared.also_called)
    }
    for flag, answer in other_programs.FLAGS.items():
        assert flag not in spellings, f"{flag} is answered by its option"
        assert set(re.findall(r"--([a-z_]+)", answer)) <= known, answer
    for name, ours in other_programs.COMMANDS.items():
        assert name not in COMMANDS and ours.split()[0] in {*COMMANDS, "help"}
    for asked, ours in other_programs.FORMATS.items():
        with pytest.raises(UsageError, match=f"it is --to {ours} here"):
            target_of("out", asked)
    with pytest.raises(UsageError, match="did you mean --to savedmodel"):
        target_of("out", "savedmodle")


@pytest.mark.parametrize(
    ("name", "answer"),
    [("generate", "predict generate"), ("fill-mask", "predict fill-mask"), ("export", "convert")],
)
def test_other_programs_commands_are_answered_with_ours(name, answer, capsys):
    assert __main__.main([name]) == 2
    assert f"it is tpu-tlm {answer} here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "answer"),
    [
        ("train", ["--optimizer", "adma"], "did you mean adam?"),
        ("train", ["--objective", "mllm"], "did you mean mlm?"),
        ("train", ["--preset", "bert-smal"], "did you mean bert-small?"),
        ("preprocess", ["--document", "lines"], "did you mean line?"),
        ("vocab", ["--subword_type", "word-piece"], "did you mean wordpiece?"),
        ("train", ["-lr", "3"], "flags begin with --, as --lr"),
        ("train", ["--lr"], "--lr"),
    ],
)
def test_a_mistake_in_a_value_or_a_dash_is_one_line(command, given, answer):
    with pytest.raises(UsageError) as error:
        cli.parse(f"tpu_tlm.{command}", "", COMMANDS[command].groups, given)
    assert answer in str(error.value) and "\n" not in str(error.value)


def test_a_hyphen_is_an_underscore():
    given = ["--train-dir=a-b", "--run-dir", "c-d", "--batch-size", "8"]
    parts = cli.parse("tpu_tlm.train", "", COMMANDS["train"].groups, given)
    assert (parts[0].train_dir, parts[0].batch_size, parts[8].run_dir) == ("a-b", 8, "c-d")


def test_help_texts_are_sentences_without_private_words():
    """No riddles: words of the first edition that only its author understood."""
    riddles = re.compile(
        r"asked of|sees others|passed by|stand[s]? |mend|told apart|so many|at once"
    )
    for command, entry in COMMANDS.items():
        for option in options_of(entry.groups).values():
            assert not riddles.search(option.declared.help), (command, option.name)
            assert option.declared.help[0] != " " and not option.declared.help.endswith(".")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick(command):
    before = os.times()
    done = run(command, "--help")
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert f"tpu_tlm.{command}" in done.stdout
    # Processor time of the child, not the clock: the machine may be busy. TensorFlow alone takes
    # several seconds of it.
    used = after.children_user + after.children_system
    assert used - before.children_user - before.children_system < 0.5
