"""Workers agree on options and data before training, and on stopping between calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tpu_tlm.config import DataConfig, OptimConfig
from tpu_tlm.distributed.peers import PeerGroup
from tpu_tlm.distributed.preemption import PreemptionWatcher
from tpu_tlm.errors import Preempted, TlmError, UsageError
from tpu_tlm.training.evaluation import evaluate
from tpu_tlm.training.loop import Totals
from tpu_tlm.training.trainer import Trainer
from tpu_tlm.training.worker_agreement import check_same


class FakeGroup(PeerGroup):
    """A peer group whose other members send given values."""

    def __init__(self, *others: Any) -> None:
        self.others = others
        self.size = 1 + len(others)
        self.failed: BaseException | None = None

    def title(self, host: int) -> str:
        return f"worker {host}"

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]

    def fail(self, error: BaseException) -> None:
        self.failed = error


def own(**changes: Any) -> dict[str, Any]:
    """The value that a worker with these options sends."""
    sent: list[Any] = []

    class Sends(PeerGroup):
        def gather(self, value: Any) -> list[Any]:
            sent.append(value)
            return [value]

    data = DataConfig(
        **{
            "train_dir": "a",
            **{k: v for k, v in changes.items() if hasattr(DataConfig, k) or k == "train_dir"},
        }
    )
    check_same(
        Sends(),
        [data, OptimConfig(lr=changes.get("lr", 1e-3))],
        {"training data": changes.get("fingerprint", "f")},
    )
    return dict(sent[0])


def test_workers_with_the_same_command_pass() -> None:
    check_same(
        FakeGroup(own(), own(train_dir="/mnt/other")),
        [DataConfig(train_dir="a"), OptimConfig(lr=1e-3)],
        {"training data": "f"},
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batch_size": 8},
            "worker 2 was started with another --batch_size than worker 0: 8, not 256",
        ),
        ({"lr": 0.5}, "worker 2 was started with another --lr than worker 0: 0.5, not 0.001"),
        (
            {"fingerprint": "g"},
            "worker 2 was started with another training data than worker 0: g, not f",
        ),
    ],
)
def test_a_worker_with_another_command_or_other_data_is_named(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check_same(
            FakeGroup(own(), own(**changes)),
            [DataConfig(train_dir="a"), OptimConfig(lr=1e-3)],
            {"training data": "f"},
        )


def part_of_a_trainer(peers: PeerGroup, **changes: Any) -> Any:
    """The attributes of a trainer that agreeing needs."""
    run: Any = SimpleNamespace(
        peers=peers,
        saved_at=5,
        at=9,
        committed="c5",
        pace=SimpleNamespace(steps=50),
        notice=PreemptionWatcher(0, lambda: TlmError("")),
    )
    run.__dict__.update(changes)
    return run


def says(steps: int, stop: str = "") -> dict[str, Any]:
    return {"steps": steps, "stop": stop, "saved_at": 0, "committed": ""}


def test_the_slowest_worker_decides_and_the_chief_knows_what_is_saved() -> None:
    run = part_of_a_trainer(FakeGroup(says(7), says(90)))
    assert Trainer._agree(run) == 7
    assert (run.saved_at, run.committed, run.notice.reason) == (5, "c5", "")


def test_one_that_is_told_to_stop_stops_all() -> None:
    run = part_of_a_trainer(FakeGroup(says(7), says(90, "SIGTERM")))
    assert Trainer._agree(run) == 0 and run.notice.reason == "worker 2: SIGTERM"
    run = part_of_a_trainer(PeerGroup())
    run.notice.give("SIGTERM")
    assert Trainer._agree(run) == 0 and run.notice.reason == "SIGTERM"


def test_what_a_run_that_is_too_late_ends_with() -> None:
    run = part_of_a_trainer(FakeGroup())
    run.notice.grace, run.notice.reason = 3, "SIGTERM"
    error = Trainer._late(run)
    assert error.exit_code == 1 and run.peers.failed is error
    for part in ("--grace_seconds 3 after SIGTERM", "step 9 could not be saved", "c5"):
        assert part in str(error)
    run.at = 5  # as while the first call compiles
    error = Trainer._late(run)
    assert (
        isinstance(error, Preempted) and error.exit_code == 143 and "nothing to save" in str(error)
    )


def test_an_evaluation_in_parts_is_the_whole_and_can_be_stopped() -> None:
    counts: list[int] = []

    class Loop:
        strategy = None
        step = SimpleNamespace(objective=SimpleNamespace(cross_replica=False))

        def evaluate(self, iterator: Any, count: int) -> Totals:
            counts.append(count)
            return Totals(
                ((2.0 * count, 4.0 * count),),
                {"accuracy": (1.0 * count, 4.0 * count)},
                0.0,
                -1,
                0.0,
            )

    loop: Any = Loop()
    dataset: Any = SimpleNamespace(num_samples=85, directory="d")
    answers = iter([4, 3, 100, 5, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tpu_tlm.training.evaluation.feed", lambda source, strategy: [])
        totals = evaluate(loop, dataset, 8, lambda: next(answers))
        assert totals is not None and counts == [4, 3, 4]
        assert (totals.loss, totals.weight, totals.mean("accuracy")) == (0.5, 44.0, 0.25)
        assert evaluate(loop, dataset, 8, lambda: next(answers)) is None
