"""The benchmark of time to a loss: arithmetic of curves, what is timed, and what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import learning_curve
from benchmarks.learning_curve import Curve, Run, Stopwatch, table
from benchmarks.mead_program import Averages
from benchmarks.to_a_loss import Programs, lines, results
from tests.toy import toy_dataset

# The first call of ten steps compiles for 5 s (clock) and 8 s (processors); a step takes 0.1 s and
# 0.2 s.
CURVE = Curve(
    [(10, 6.0, 10.0), (20, 7.0, 12.0), (40, 9.0, 16.0)], [(10, 7.0), (20, 6.0), (40, 5.0)]
)


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 2 * self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(learning_curve, "time", found)
    return found


def test_times_are_on_straight_lines_between_calls() -> None:
    assert CURVE.seconds(20) == (7.0, 12.0)
    assert CURVE.seconds(30) == (8.0, 14.0)
    assert CURVE.seconds(5) == (3.0, 5.0)
    with pytest.raises(ValueError, match="41 steps were not made, only 40"):
        CURVE.seconds(41)


def test_compilation_is_what_the_first_call_takes_longer() -> None:
    assert CURVE.compilation() == pytest.approx((5.0, 8.0))
    with pytest.raises(ValueError, match="one device call"):
        Curve([(10, 6.0, 10.0)]).compilation()


def test_a_loss_is_reached_between_evaluations_once_or_never() -> None:
    assert CURVE.reaches(5.5) == 30.0
    assert CURVE.reaches(6.0) == 20.0
    assert CURVE.reaches(8.0) == 10.0
    assert CURVE.reaches(4.9) is None
    bumpy = Curve([], [(10, 7.0), (20, 5.0), (30, 6.0), (40, 4.0)])
    assert bumpy.reaches(5.5) == 17.5


def test_evaluations_are_left_out_of_the_time(clock: Clock) -> None:
    watch = Stopwatch()
    clock.now = 3.0  # the model is built
    watch.go()
    clock.now = 5.0
    watch.steps(10)
    clock.now = 9.0
    watch.loss(10, 7.5)
    clock.now = 10.0
    watch.steps(20)
    assert watch.curve == Curve([(10, 2.0, 4.0), (20, 3.0, 6.0)], [(10, 7.5)])


def test_a_curve_is_what_was_saved(tmp_path: Path) -> None:
    CURVE.save(tmp_path / "curve.json")
    assert Curve.load(tmp_path / "curve.json") == CURVE
    assert [path.name for path in tmp_path.iterdir()] == ["curve.json"]


def test_table_compares_the_time_to_a_loss() -> None:
    target = Run("MEAD", Curve([(10, 8.0, 16.0), (100, 26.0, 52.0)], [(100, 5.5)]))
    missed = Run("other", Curve(CURVE.times, [(40, 5.6)]))
    early = Run("early", Curve(CURVE.times, [(40, 5.0)]))
    rows = table([target, Run("ours", CURVE), missed, early], target).splitlines()
    assert "to 5.500: steps" in rows[0]
    # 0.4 s and 0.2 s a step: 40 and 20 s without the 12 and 6 s of compilation.
    assert rows[2] == (
        "| MEAD | 100 | 5.500 | 40.0 | 20.0 | 100 | 40.0 (1.00 x) | 20.0 (1.00 x) | 52.0 (1.00 x) |"
    )
    assert rows[3] == (
        "| ours | 40 | 5.000 | 8.0 | 4.0 | 30 | 6.0 (0.15 x) | 3.0 (0.15 x) | 14.0 (0.27 x) |"
    )
    assert rows[4] == "| other | 40 | 5.600 | 8.0 | 4.0 | not reached |  |  |  |"
    assert "| at most 40 | 8.0 (0.20 x) |" in rows[5]


class Average:
    """MEAD's running mean, as its programs use it."""

    def __init__(self, name: str) -> None:
        self.values: list[float] = []

    def update(self, value: float, count: int = 1) -> None:
        self.values.append(value)

    @property
    def avg(self) -> float:
        return float(np.mean(self.values))


def test_mead_s_averages_tell_the_time_of_its_steps_alone(clock: Clock, tmp_path: Path) -> None:
    averages = Averages()
    timed: Any = averages.timed(Average)
    for epoch in range(2):
        train = timed("average_train_loss")
        for _ in range(3):
            clock.now += 1.0
            train.update(9.0)
        clock.now += 10.0
        valid = timed("average_valid_loss")
        for value in (4.0, 6.0 + epoch):
            clock.now += 100.0
            valid.update(value)
    averages.save(tmp_path / "curve.json")
    found = Curve.load(tmp_path / "curve.json")
    assert found.times == [(n, float(n), 2.0 * n) for n in range(1, 7)]
    assert found.losses == [(3, 5.0), (6, 5.5)]


def test_keras_hub_is_measured_with_our_evaluation_masks(tmp_path: Path) -> None:
    import tensorflow as tf

    from benchmarks.keras_hub_training import EVALUATED_TOGETHER, Validation
    from benchmarks.our_training import valid_arrays
    from tpu_tlm.config import MlmConfig
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import in_order
    from tpu_tlm.models.layers.counter_rng import Key
    from tpu_tlm.objectives.mlm import MaskedLanguageModeling, specials_of

    dataset = open_dataset(str(toy_dataset(tmp_path / "data", examples=70)))
    assert dataset.num_samples % EVALUATED_TOGETHER, "the last batch has to be filled"
    specials = specials_of(dataset.load_tokenizer())
    table = np.random.default_rng(0).normal(size=(specials.vocab_size, specials.vocab_size))
    logits = tf.constant(table, tf.float32)

    def ours(features: dict[str, Any], positions: Any, key: Any) -> Any:
        return tf.gather(logits, tf.gather(features["x"], positions, batch_dims=1))

    def theirs(features: dict[str, Any], training: bool) -> Any:
        ids, positions = features["token_ids"], features["mask_positions"]
        return tf.gather(logits, tf.gather(ids, positions, batch_dims=1))

    objective, total, weight = MaskedLanguageModeling(MlmConfig(), specials), 0.0, 0.0
    for batch in in_order(dataset, 16):
        sums = objective(ours, batch, Key.of(3, batch["position"]), training=False)
        total, weight = total + float(sums.loss), weight + float(sums.weight)
    arrays = valid_arrays(dataset.directory)
    assert arrays["weights"].sum() == weight > 0
    assert Validation(theirs, arrays)() == pytest.approx(total / weight, rel=1e-5)


def test_lines_hold_all_words_and_at_most_200() -> None:
    words = [f"w{i}" for i in range(450)]
    found = lines("  ".join(words) + " ")
    assert [len(line.split()) for line in found] == [200, 200, 50]
    assert " ".join(found).split() == words
    assert lines(" ") == []


def test_a_stage_is_made_once_and_again_after_a_failure(tmp_path: Path) -> None:
    programs, made = Programs(tmp_path), []

    def make(part: Path) -> None:
        assert not any(part.iterdir())
        (part / "file").write_text("text")
        made.append(part)
        if len(made) == 1:
            raise OSError("killed")

    with pytest.raises(OSError, match="killed"):
        programs.stage("runs/one", make)
    for _ in range(2):
        assert (programs.stage("runs/one", make) / "file").read_text() == "text"
    assert len(made) == 2


def test_a_program_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with pytest.raises(SystemExit, match="benchmarks.absent ended with exit code 1"):
        Programs(tmp_path).run(log, "benchmarks.absent")
    assert "No module named benchmarks.absent" in log.read_text()


def test_results_are_the_complete_runs(tmp_path: Path) -> None:
    for name in ("plain", "mead-0.0004", "keras_hub.part"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        CURVE.save(tmp_path / "runs" / name / "curve.json")
    assert [run.name for run in results(tmp_path)] == [
        "MEAD 2.4.2, lr 0.0004",
        "tpu_tlm, no preset",
    ]
