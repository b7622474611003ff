"""Planning of fine-tuning: the step of every task is traced; nothing in it needs a host."""

from __future__ import annotations

import pytest

from tests.paths import DATA_FILES
from tpu_tlm.config import Config, PlanConfig, cli
from tpu_tlm.errors import UsageError
from tpu_tlm.planning.lower import faults, trace
from tpu_tlm.planning.task_subject import task_subject

SMALL = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1, "type_vocab_size": 2}
ELMO = str(DATA_FILES / "golden_elmo" / "base.weights.hdf5")


def subject(plan, **options):
    values = {"tpu": "v5e-1", "batch_size": 8, **SMALL, **options}
    config = Config(*cli.build(Config.groups(), values, "test", check_required=False))
    return task_subject(config, plan, print)


@pytest.mark.parametrize("task", ["classify", "multilabel", "pair", "regress", "tag", "elmo"])
def test_the_step_of_each_task_is_static(task):
    plan = PlanConfig(
        task="tag" if task == "elmo" else task, labels=3, seq_length=16, vocab_size=50
    )
    planned = subject(plan, **({"init_from": ELMO} if task == "elmo" else {}))
    program = planned.program(planned.options, 4)
    assert program.tokens == 16 and program.flops > 0
    assert program.batch["x"].shape == ((4, 16, 50) if task == "elmo" else (4, 16))
    assert ("tt" in program.batch) == (task == "pair")
    _, _, traced = trace(program.step, program.batch)
    assert not faults(traced)


def test_sizes_must_be_given():
    with pytest.raises(UsageError, match="--seq_length"):
        subject(PlanConfig(task="classify"))
    with pytest.raises(UsageError, match="--init_from"):
        subject(PlanConfig(task="classify", seq_length=16))
    short = subject(
        PlanConfig(task="classify", seq_length=64, vocab_size=50),
        position_encoding=["learned"],
        max_positions=32,
    )
    with pytest.raises(UsageError, match="32 tokens"):
        short.program(short.options, 4)
