"""Batches on the devices: each host reads its rows and gives each replica its share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tpu_tlm.training.loop import CHUNK

Source = Callable[[int, int], tf.data.Dataset]


def feed(source: Source, strategy: tf.distribute.Strategy | None) -> Any:
    """An iterable of batches on the devices.

    `source(hosts, host)` returns the batches with the rows of one host, in order. Replicas take
    consecutive rows, so the global batch has the same rows in the same order for any number of
    replicas.
    """
    if strategy is None:
        return _with_options(source(1, 0).prefetch(2 * CHUNK))

    def per_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        dataset = source(context.num_input_pipelines, context.input_pipeline_id)
        replicas = context.num_replicas_in_sync // context.num_input_pipelines

        @tf.autograph.experimental.do_not_convert
        def split(batch: dict[str, tf.Tensor]) -> tf.data.Dataset:
            shares = {
                k: tf.reshape(v, (replicas, v.shape[0] // replicas, *v.shape[1:]))
                for k, v in batch.items()
            }
            return tf.data.Dataset.from_tensor_slices(shares)

        # For an endless dataset TensorFlow does not ask all hosts at every step, in a collective,
        # whether it has ended, and keeps the static shape.
        return _with_options(dataset.flat_map(split).repeat().prefetch(2 * replicas))

    return strategy.distribute_datasets_from_function(per_host)


def _with_options(batches: tf.data.Dataset) -> tf.data.Dataset:
    """The pipeline with the options of every pipeline of batches.

    Reading begins when the iterator is made, beside the tracing and compiling of the step.

    There is no thread of tf.data that searches for sizes of buffers: all are given. That thread may
    sleep through its cancellation, because TensorFlow notifies it before it marks the iterator as
    cancelled. The end of the iterator then waits for the thread's next round, which comes after up
    to as long as the pipeline has run, 60 s at most. The pipelines that TensorFlow adds for each
    device of a strategy keep theirs.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_warm_start = True
    return batches.with_options(options)
