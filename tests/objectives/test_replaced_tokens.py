"""Learning from given labels: their meaning, what counts, and MEAD's records."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.command_modules import train
from tests.toy import BARE, SIZES, toy_dataset, toy_pairs
from tpu_tlm.config import ElectraConfig, ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import ObjectiveOptions
from tpu_tlm.objectives.replaced_tokens import METRICS, Discrimination
from tpu_tlm.training.metrics import read_metrics

X = np.array([[5, 6, 7, 8], [9, 6, 0, 0]], np.int32)
Y = np.array([[0, 1, 0, 1], [1, 0, 1, 0]], np.int32)
LOGITS = np.array([[-2.0, 3.0, 1.0, -1.0], [0.5, -0.5, 9.0, -9.0]])


def sums_of(objective, **more):
    batch = {
        "x": tf.constant(X),
        "y": tf.constant(Y),
        "position": tf.range(2, dtype=tf.int64),
        **more,
    }
    return objective(
        lambda features, key=None: tf.constant(LOGITS, tf.float32), batch, None, training=False
    )


@pytest.mark.parametrize("original", [False, True])
def test_the_numbers_by_hand(original):
    sums = sums_of(Discrimination(0, one_is_replaced=not original))
    replaced, real = (Y == 0 if original else Y == 1), X != 0
    losses = np.where(replaced, np.log1p(np.exp(-LOGITS)), np.log1p(np.exp(LOGITS)))
    np.testing.assert_allclose(sums.loss, losses[real].sum(), rtol=1e-6)
    assert sums.weight == 6
    called = (LOGITS > 0) & real
    hits, count = (called & replaced).sum(), 6
    expected = [
        (losses[real].sum(), count),
        ((called == replaced)[real].sum(), count),
        (hits, called.sum()),
        (hits, (replaced & real).sum()),
    ]
    for name, pair in zip(METRICS, [*expected, ((replaced & real).sum(), count)], strict=True):
        np.testing.assert_allclose(
            [float(v) for v in sums.metrics[name]], pair, rtol=1e-6, err_msg=name
        )


def test_rows_that_only_fill_up_do_not_count():
    assert sums_of(Discrimination(0), valid=tf.constant([0.0, 1.0])).weight == 2


def test_labels_of_another_length_are_refused():
    spec = ModelSpec(ModelConfig(), 50, 16, kind="discriminator")
    with pytest.raises(UsageError, match="y of 12 tokens .* x of 16"):
        Discrimination.configure_model(spec, ObjectiveOptions(), {"x": 16, "y": 12})
    assert (
        Discrimination.configure_model(
            spec, ObjectiveOptions(electra=ElectraConfig()), {"x": 16, "y": 16}
        )
        == spec
    )


def test_pairs_of_texts_are_no_labels(tmp_path):
    """Which is seen before a run is begun."""
    data = str(toy_pairs(tmp_path / "pairs", examples=24, seq_length_y=16))
    flags = [
        "--train_dir",
        data,
        "--run_dir",
        str(tmp_path / "run"),
        "--objective",
        "discriminator",
        *SIZES,
        "--distribute",
        "none",
    ]
    with pytest.raises(UsageError, match="pairs: --objective discriminator needs a y"):
        train.main([*flags, "--steps", "1", "--batch_size", "8"])
    assert not (tmp_path / "run" / "config.yaml").exists()
    check = Discrimination(0).check
    check({"x": np.ones((2, 4)), "y": np.array([[0, 1, 1, 0]] * 2)}, "labels")
    for y in (np.ones((2, 3)), np.full((2, 4), 7)):
        with pytest.raises(UsageError, match="labels: --objective discriminator needs"):
            check({"x": np.ones((2, 4)), "y": y}, "labels")


def test_meads_records(tmp_path):
    """Records of int64 lists, as MEAD writes them, with its convention: 1 is an original token."""
    rng = np.random.default_rng(0)
    x = rng.integers(5, 45, (24, 8))
    y = (x < 25).astype(np.int64)
    (tmp_path / "data").mkdir()
    with tf.io.TFRecordWriter(str(tmp_path / "data" / "train-1.tfrecord")) as writer:
        for row, labels in zip(x, y, strict=True):
            lists = {"x": row, "y": labels}
            features = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                for name, values in lists.items()
            }
            writer.write(
                tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
            )
    (tmp_path / "data" / "md.yml").write_text(yaml.safe_dump({"num_samples": 24}))
    toy_dataset(tmp_path / "vocabulary", examples=3, shards=1)
    flags = [
        "--train_dir",
        str(tmp_path / "data"),
        "--run_dir",
        str(tmp_path / "run"),
        "--subword_type",
        "wordpiece",
    ]
    flags += [
        "--vocab",
        str(tmp_path / "vocabulary-vocab.txt"),
        "--objective",
        "discriminator",
        "--label_one",
        "original",
        *SIZES,
    ]
    flags += "--steps 60 --save_steps 60 --batch_size 24 --warmup_steps 5 --lr 3e-2".split()
    flags += "--dropout 0 --xla false".split()
    assert train.main([*flags, *BARE, "--distribute", "none"]) == 0
    last = read_metrics(str(tmp_path / "run" / "metrics.jsonl"))[-1]
    assert last["replaced"] == pytest.approx((y == 0).mean(), abs=1e-6)
    assert last["discriminator_accuracy"] > 0.9
