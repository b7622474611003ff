"""Feeding the devices: what every pipeline of a run has in common."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf

from tpu_tlm.training.device_feed import feed


class OneHost:
    """A strategy of two replicas on one host, as far as `feed` uses it."""

    def distribute_datasets_from_function(self, per_host) -> tf.data.Dataset:
        return per_host(tf.distribute.InputContext(1, 0, 2))


@pytest.mark.parametrize("strategy", [None, OneHost()], ids=["one device", "a strategy"])
def test_no_pipeline_has_the_thread_that_delays_the_end_of_its_iterator(strategy) -> None:
    source = tf.data.Dataset.range(8).batch(4, drop_remainder=True).map(lambda n: {"x": n})
    batches = feed(lambda hosts, host: source, strategy)
    assert batches.options().autotune.enabled is False
    taken = [batch["x"].numpy().tolist() for batch in batches.take(2)]
    assert taken == ([[0, 1, 2, 3], [4, 5, 6, 7]] if strategy is None else [[0, 1], [2, 3]])


def test_reading_begins_before_the_first_batch_is_asked_for() -> None:
    read: list[int] = []

    def numbers():
        for number in range(4):
            read.append(number)
            yield np.int32(number)

    spec = tf.TensorSpec([], tf.int32)
    source = tf.data.Dataset.from_generator(numbers, output_signature=spec)
    iterator = iter(feed(lambda hosts, host: source, None))
    end = time.monotonic() + 20
    while len(read) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert read == [0, 1, 2, 3]
    assert [int(number) for number in iterator] == [0, 1, 2, 3]
