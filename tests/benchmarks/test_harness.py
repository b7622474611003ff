"""The harness times in turn, compares within rounds, and names a contender that dies."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import step
from benchmarks.harness import (
    ROOT,
    Contender,
    Result,
    alternate,
    directory_with,
    order_of,
    table,
)

HERE = "tests.benchmarks.test_harness"


def steady(*seconds: float) -> Callable[[int], float]:
    """A contender that claims these seconds, one after the other."""
    claims = iter(seconds)
    return lambda calls: next(claims) * calls


def sleeping(seconds: float) -> Callable[[int], float]:
    """A contender that takes time and no processor."""

    def run(calls: int) -> float:
        time.sleep(seconds)
        return seconds

    return run


def working(seconds: float) -> Callable[[int], float]:
    """A contender that keeps a processor busy."""

    def run(calls: int) -> float:
        begin, cpu_begin = time.perf_counter(), time.process_time()
        while time.process_time() - cpu_begin < seconds:
            pass
        return time.perf_counter() - begin

    return run


def hungry(megabytes: int) -> Callable[[int], float]:
    """A contender that holds so much memory."""
    ballast = bytes(range(256)) * (megabytes * 4096)
    return lambda calls: float(len(ballast) > 0)


def dying() -> Callable[[int], float]:
    """A contender that prints something and dies in its first round."""

    def run(calls: int) -> float:
        print("about to fail")
        raise SystemExit(3)

    return run


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_every_contender_is_first_as_often_and_none_follows_itself(count):
    rounds = [order_of(number, count) for number in range(6 * count)]
    assert all(sorted(order) == list(range(count)) for order in rounds)
    for place in range(count):
        at = [order[place] for order in rounds]
        assert all(at.count(one) == 6 for one in range(count))
    if count > 2:
        turns = [one for order in rounds for one in order]
        assert all(one != then for one, then in zip(turns, turns[1:], strict=False))
        # Within the rounds each follows its neighbour as often as it is followed by it.
        pairs = [pair for order in rounds for pair in zip(order, order[1:], strict=False)]
        for one in range(count):
            there, back = (one, (one + 1) % count), ((one + 1) % count, one)
            assert pairs.count(there) == pairs.count(back) > 0


def test_ratios_are_taken_within_a_round() -> None:
    slow, fast = alternate(
        [
            Contender("slow", f"{HERE}:steady", (2.0, 4.0)),
            Contender("fast", f"{HERE}:steady", (1.0, 1.0)),
        ],
        2,
    )
    assert slow.seconds == [2.0, 4.0]
    assert slow.ratios == [1.0, 1.0]
    assert fast.ratios == [2.0, 4.0]


def test_a_contender_can_be_of_another_checkout(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(ROOT / "benchmarks/harness.py", tmp_path / "benchmarks/harness.py")
    (tmp_path / "benchmarks/other.py").write_text("def build():\n    return lambda calls: 8.0\n")
    here = Contender("here", f"{HERE}:steady", (2.0,))
    other = Contender("other", "benchmarks.other:build", (), tmp_path)
    assert [result.seconds for result in alternate([here, other], 1)] == [[2.0], [8.0]]


def test_a_directory_without_the_packages_is_named(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "file").write_text("")
    assert directory_with("benchmarks")(str(tmp_path)) == tmp_path
    for wrong in (tmp_path / "absent", tmp_path / "file", tmp_path / "benchmarks"):
        with pytest.raises(argparse.ArgumentTypeError, match="no directory with benchmarks/"):
            directory_with("benchmarks")(str(wrong))


def test_the_step_is_timed_on_both_workloads_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def alternate(contenders: list[Contender], *_: int) -> list[Result]:
        timed.append(contenders[0].arguments[0])
        return []

    monkeypatch.setattr("benchmarks.step.alternate", alternate)
    for given, expected in (([], ["W1", "W2"]), (["W2"], ["W2"])):
        timed.clear()
        monkeypatch.setattr("sys.argv", ["step", *given])
        step.main()
        assert timed == expected
    monkeypatch.setattr("sys.argv", ["step", "W9"])
    with pytest.raises(SystemExit):
        step.main()


def test_calls_reach_the_contender() -> None:
    (result,) = alternate([Contender("one", f"{HERE}:steady", (0.5,))], 1, calls=7)
    assert result.seconds == [3.5]


def test_processor_time_is_told_from_the_clock_s() -> None:
    working, sleeping = alternate(
        [
            Contender("working", f"{HERE}:working", (0.3,)),
            Contender("sleeping", f"{HERE}:sleeping", (0.3,)),
        ],
        1,
    )
    assert 0.29 < working.cpu_seconds[0] < 0.35
    assert sleeping.cpu_seconds[0] < 0.05
    assert sleeping.cpu_ratios[0] > 5


def test_memory_is_each_contender_s_own() -> None:
    big, small = alternate(
        [Contender("big", f"{HERE}:hungry", (300,)), Contender("small", f"{HERE}:hungry", (1,))], 1
    )
    assert big.peak_mb - small.peak_mb > 250


def test_a_contender_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="doomed ended with exit code 3"):
        alternate([Contender("doomed", f"{HERE}:dying")], 1)


def test_a_contender_that_cannot_be_built_is_named() -> None:
    with pytest.raises(RuntimeError, match="absent ended with exit code 1"):
        alternate([Contender("absent", f"{HERE}:nothing_of_that_name")], 1)


def test_table_gives_the_median_and_the_range() -> None:
    text = table(
        "W1",
        [
            Result(
                "ours", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [0.9, 1.2, 1.1], [1.0, 1.3, 1.05], 1234.4
            )
        ],
    )
    assert "| ours | 1.10 (0.90 to 1.20) | 1.05 (1.00 to 1.30) | 2 | 1,234 |" in text
