"""Token ids of texts, pairs and sentences; length buckets; the order of the batches of a run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tasks.toy_tasks import WORDS, toy_model
from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.load import load
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.batches import (
    Bucket,
    Plan,
    batch_stream,
    bucket_lengths,
    make_buckets,
    make_plan,
    mixed_batches,
)
from tpu_tlm.tasks.examples import Examples, Framer
from tpu_tlm.tasks.read import Row


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, Tokenizer]:
    directory = tmp_path_factory.mktemp("model")
    path = toy_model(directory)
    return load(str(path)).spec, load_tokenizer(str(directory / "tokenizer"))


def row(text: str, text2: str | None = None) -> Row:
    return Row(text, text2, None, 1)


def words(ids: np.ndarray) -> str:
    return " ".join(WORDS[i] for i in ids)


def test_a_text_is_framed_and_cut(made: tuple[ModelSpec, Tokenizer]) -> None:
    found = Framer(*made, max_length=5)([row("good day"), row("the film is very\nbad")])
    assert [words(x) for x in found.ids] == ["[CLS] good day [SEP]", "[CLS] the film is [SEP]"]
    assert found.cut == 1 and found.of.tolist() == [0, 1]


def test_windows_overlap_by_the_stride(made: tuple[ModelSpec, Tokenizer]) -> None:
    text = "the film is very bad and poor"
    found = Framer(*made, max_length=6, stride=2)([row("good"), row(text)])
    assert [words(x) for x in found.ids[1:]] == [
        "[CLS] the film is very [SEP]",
        "[CLS] is very bad and [SEP]",
        "[CLS] bad and poor [SEP]",
    ]
    assert found.cut == 0 and found.windows().tolist() == [1, 3]
    whole = Framer(*made, max_length=6, whole=True)([row(text)])
    assert [words(x) for x in whole.ids][1] == "[CLS] bad and poor [SEP]"


def test_of_a_pair_the_longer_text_is_cut(made: tuple[ModelSpec, Tokenizer]) -> None:
    found = Framer(*made, max_length=8, pairs="joint")([row("good", "the film is very bad")])
    assert words(found.ids[0]) == "[CLS] good [SEP] the film is very [SEP]"
    assert found.types is not None and found.types[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert found.cut == 1
    shared = Framer(*made, pairs="shared")([row("good", "a day")])
    assert shared.second is not None and words(shared.second[0]) == "[CLS] a day [SEP]"


def test_words_of_a_sentence_know_their_first_piece(made: tuple[ModelSpec, Tokenizer]) -> None:
    sentence = Row(["runs", "Paris", "\u200b"], None, ["A", "B", "C"], 1)
    found = Framer(*made)([sentence])
    assert words(found.ids[0]) == "[CLS] run ##s Paris [UNK] [SEP]" or "[UNK]" in words(
        found.ids[0]
    )
    assert found.words is not None
    first = found.words[0]
    assert len(first) == len(found.ids[0])
    assert sorted(first[first >= 0].tolist()) == [0, 1, 2]


def test_no_word_of_a_long_sentence_is_left_out(made: tuple[ModelSpec, Tokenizer]) -> None:
    sentence = Row("the film is very bad and runs a day".split(), None, ["A"] * 9, 1)
    for stride in (0, 2):
        found = Framer(*made, max_length=6, stride=stride)([sentence])
        assert found.words is not None and max(len(x) for x in found.ids) <= 6
        seen = np.concatenate(found.words)
        assert set(seen[seen >= 0]) == set(range(9))
        assert (len(seen[seen >= 0]) > 9) == bool(stride)


def test_what_the_model_cannot_take_is_refused(made: tuple[ModelSpec, Tokenizer]) -> None:
    with pytest.raises(UsageError, match="max_length 33.*32"):
        Framer(*made, max_length=33)
    with pytest.raises(UsageError, match="stride 30"):
        Framer(*made, stride=30)
    with pytest.raises(UsageError, match="max_length 2"):
        Framer(*made, max_length=2)


def test_buckets_save_padding_and_are_few() -> None:
    lengths = np.array([5] * 100 + [30] * 50 + [120] * 10)
    assert bucket_lengths(lengths, 3, 128) == [8, 32, 120]
    assert bucket_lengths(lengths, 1, 128) == [120]
    assert bucket_lengths(np.array([60] * 50 + [64] * 50), 4, 128) == [64]
    assert bucket_lengths(np.array([123]), 4, 123) == [123]
    assert bucket_lengths(lengths, 4, 128, fixed=128) == [128]
    many = np.random.default_rng(0).integers(1, 4000, 3000)
    found = bucket_lengths(many, 4, 4096)
    assert len(found) <= 4 and found[-1] >= many.max()


def _examples(count: int) -> Examples:
    ids = [np.arange(1, 2 + i % 12, dtype=np.int32) for i in range(count)]
    return Examples(ids, None, None, np.arange(count), None, count, 0)


def test_every_example_is_used_once_per_epoch_at_any_start() -> None:
    examples = _examples(50)
    weight = {"weight": np.ones(50, np.float32)}
    buckets = make_buckets(examples, weight, [8, 16], 0, {8: 8, 16: 4})
    plan = make_plan(buckets, 2, seed=3)
    used = np.zeros(50, int)
    for bucket, rows in zip(buckets, plan.rows, strict=True):
        for batch in rows:
            used[bucket.index[batch[batch >= 0]]] += 1
    assert (used == 2).all() and plan.ends[-1] == len(plan.order)
    again = make_plan(buckets, 2, seed=3)
    assert (again.order == plan.order).all()
    assert (make_plan(buckets, 2, seed=4).order != plan.order).any()
    longer = make_plan(buckets, 3, seed=3)
    shared = plan.ends[0]
    assert (longer.order[:shared] == plan.order[:shared]).all()
    positions = np.sort(np.concatenate([p.ravel() for p in plan.positions]))
    assert (positions == np.arange(len(positions))).all()


def test_mixed_batches_are_a_random_order_padded_to_their_longest_text() -> None:
    examples = _examples(50)
    ids, tags = examples.ids, [np.full(len(x), 7, np.int32) for x in examples.ids]
    targets = {"weight": np.ones(50, np.float32), "label": tags}

    def made(seed: int, most: int = 2) -> tuple[list[Bucket], Plan]:
        return mixed_batches(
            examples, targets, 0, 4, lambda sizes: bucket_lengths(sizes, most, 16), 2, seed
        )

    buckets, plan = made(3)
    assert [b.length for b in buckets] == [8, 16]
    used = np.zeros(50, int)
    taken = [0, 0]
    for number in plan.order:
        bucket, rows = buckets[number], plan.rows[number][taken[number]]
        taken[number] += 1
        rows = rows[rows >= 0]
        longest = max(len(ids[row]) for row in rows)
        assert bucket.length == (8 if longest <= 8 else 16)
        for row in rows:
            used[bucket.index[row]] += 1
            own = ids[bucket.index[row]]
            expected = np.pad(own, (0, bucket.length - len(own)))
            np.testing.assert_array_equal(bucket.arrays["x"][row], expected)
            label = bucket.arrays["label"][row]
            assert (label[: len(own)] == 7).all() and (label[len(own) :] == -1).all()
    assert (used == 2).all() and taken == [len(r) for r in plan.rows]
    # The same batches as with one length, in the same order.
    (one,), alone = made(3, most=1)
    order = [iter(rows) for rows in plan.rows]
    for number, expected_rows in zip(plan.order, alone.rows[0], strict=True):
        np.testing.assert_array_equal(next(order[number]), expected_rows)
    assert (made(4)[1].order != plan.order).any() and one.length == 16


def test_batches_are_the_same_rows_on_any_number_of_hosts() -> None:
    examples = _examples(20)
    weight = {"weight": np.ones(20, np.float32)}
    (bucket,) = make_buckets(examples, weight, [16], 0, {16: 8})
    plan = make_plan([bucket], 1, seed=0)

    def rows(hosts: int) -> list[np.ndarray]:
        parts = [
            list(batch_stream(bucket, plan.rows[0], plan.positions[0], hosts, host))
            for host in range(hosts)
        ]
        return [np.concatenate([p[i]["x"] for p in parts]) for i in range(len(parts[0]))]

    for one, two in zip(rows(1), rows(2), strict=True):
        np.testing.assert_array_equal(one, two)
    last = list(batch_stream(bucket, plan.rows[0], plan.positions[0], 1, 0))[-1]
    assert last["weight"].numpy().sum() == 4 and last["x"].shape == (8, 16)
