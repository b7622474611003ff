"""The same examples, order and masks for any number of input pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.toy import toy_dataset
from tpu_tlm.config import MlmConfig, ModelConfig
from tpu_tlm.data.dataset.dataset import open_dataset
from tpu_tlm.data.dataset.stream import Stream
from tpu_tlm.models.layers.counter_rng import Key
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.objectives.base import ObjectiveContext, ObjectiveOptions
from tpu_tlm.objectives.registry import make_objective

BATCH, BATCHES, START = 8, 15, 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(
        str(
            toy_dataset(
                tmp_path_factory.mktemp("data") / "train", examples=100, seq_length=24, shards=5
            )
        )
    )


def masked(dataset, hosts, mode):
    """Positions, inputs, masked positions and labels of BATCHES global batches, from the hosts'
    rows."""
    tokenizer = dataset.load_tokenizer()
    spec = ModelSpec(ModelConfig(), len(tokenizer.tokens), dataset.seq_length, tokenizer.pad_id)
    objective = make_objective(
        "mlm", ObjectiveContext(spec, tokenizer, ObjectiveOptions(mlm=MlmConfig(mask_mode=mode)))
    )
    corrupted = tf.function(
        lambda b: objective.masked(b, Key.of(11, b["position"]).fold("corruption"), True),
        autograph=False,
    )
    stream = Stream(dataset, seed=3, batch_size=BATCH, window_shards=2)
    batches = []
    shares = [iter(stream.batches(START, hosts=hosts, host=host)) for host in range(hosts)]
    for _ in range(BATCHES):
        rows = []
        for share in shares:
            batch = next(share)
            assert batch["x"].shape == (BATCH // hosts, 24)
            result = corrupted(batch)
            rows.append([batch["position"].numpy(), *(t.numpy() for t in result)])
        batches.append([np.concatenate(parts) for parts in zip(*rows, strict=True)])
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("mode", ["token", "span"])
def test_one_two_and_four_pipelines(dataset, mode):
    one = masked(dataset, 1, mode)
    np.testing.assert_array_equal(one[0], np.arange(START, START + BATCH * BATCHES))
    for hosts in (2, 4):
        for a, b in zip(one, masked(dataset, hosts, mode), strict=True):
            np.testing.assert_array_equal(a, b)
