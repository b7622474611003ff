"""What a training step may hold to run on a TPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from tests.planning.steps import LENGTH, ROWS, VARIANTS, VOCAB, small_step
from tpu_tlm.data.dataset.stream import Stream
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.objectives.mlm import MaskedLanguageModeling
from tpu_tlm.objectives.registry import OBJECTIVES
from tpu_tlm.planning.lower import _graphs, faults, lower, state_specs, trace
from tpu_tlm.planning.stand_in import Placeholder, batch_specs, stand_in
from tpu_tlm.training.state import TrainState
from tpu_tlm.training.step import specs


@pytest.mark.parametrize("name", [*OBJECTIVES, *VARIANTS])
def test_no_step_has_a_dynamic_dimension_a_string_or_a_call_to_the_host(name):
    step, corpora = small_step(**VARIANTS.get(name, {"objective": name}))
    assert faults(trace(step, batch_specs(corpora.train, ROWS))[2]) == []


@pytest.mark.parametrize("name", ["mlm", "dual-encoder"])
def test_nor_has_a_replicas_step_with_micro_batches_and_recomputation(name):
    step, corpora = small_step(objective=name, grad_accum=2, recompute=True)
    traced = trace(step, batch_specs(corpora.train, ROWS), replicas=4)[2]
    assert faults(traced) == []
    sums = [op for op in traced.graph.get_operations() if op.type == "CrossReplicaSum"]
    assert len(sums) >= len(step.paths)


class Dirty(MaskedLanguageModeling):
    """Masked language modelling that does what no TPU can."""

    def __init__(self, clean, spoil):
        super().__init__(clean.config, clean.specials)
        self.spoil = spoil

    def __call__(self, model, batch, key, *, training):
        sums = super().__call__(model, batch, key, training=training)
        return sums._replace(loss=sums.loss + self.spoil(batch))


def in_python(batch):
    return tf.reshape(tf.py_function(lambda x: np.float32(0.0), [batch["x"]], tf.float32), [])


def in_numpy(batch):
    return tf.reshape(tf.numpy_function(lambda x: np.float32(0.0), [batch["x"]], tf.float32), [])


def with_a_string(batch):
    return tf.cast(tf.strings.length(tf.strings.as_string(batch["x"][0, 0])), tf.float32)


def with_an_unknown_number(batch):
    return tf.cast(tf.reduce_sum(tf.where(batch["x"] > 3)), tf.float32)


def in_a_loop(batch):
    return tf.while_loop(
        lambda i, _: i < 2, lambda i, total: (i + 1, total + in_python(batch)), (0, 0.0)
    )[1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (in_python, "EagerPyFunc runs on the host"),
        (in_numpy, "PyFunc runs on the host"),
        (with_a_string, "produces a string"),
        (with_an_unknown_number, "has a dynamic dimension"),
        (in_a_loop, "EagerPyFunc runs on the host"),
    ],
)
def test_what_a_tpu_cannot_take_is_found_and_named(spoil, words):
    step, corpora = small_step()
    dirty = replace(step, objective=Dirty(step.objective, spoil))
    found = faults(trace(dirty, batch_specs(corpora.train, ROWS))[2])
    assert any(words in fault for fault in found), found


def test_lowering_refuses_them_in_one_line():
    step, corpora = small_step()
    dirty = replace(step, objective=Dirty(step.objective, in_python))
    with pytest.raises(TlmError, match="cannot run on a TPU: .*EagerPyFunc") as error:
        lower(dirty, batch_specs(corpora.train, ROWS))
    assert "\n" not in str(error.value)


def test_the_shapes_are_those_of_the_training_state():
    for optim in ("adamw", "adafactor", "sgd"):
        step, _ = small_step(optim=optim)
        values, slots, _ = TrainState(step).read()
        assert state_specs(step) == (specs(values), specs(slots)), optim


def test_results_begin_with_what_is_donated():
    """`Lowered.donated` pairs argument i with result i."""
    step, corpora = small_step()
    _, arguments, traced = trace(step, batch_specs(corpora.train, ROWS))
    state = len(tf.nest.flatten(state_specs(step)))
    for given, result in zip(arguments[:state], traced.outputs[:state], strict=True):
        assert (given.shape, given.dtype) == (result.shape, result.dtype)


def test_stand_in_batches_are_shaped_as_the_streams(tmp_path):
    from tests.toy import toy_dataset, toy_pairs
    from tpu_tlm.data.dataset.dataset import open_dataset

    for make in (toy_dataset, toy_pairs):
        dataset = open_dataset(str(make(tmp_path / make.__name__)))
        real = Stream(dataset, seed=0, batch_size=ROWS).batches(0).element_spec
        assert batch_specs(dataset, ROWS) == real
        likeness = stand_in(VOCAB, dataset.lengths).train
        assert batch_specs(likeness, ROWS) == real


def test_a_placeholder_has_no_text():
    tokenizer = Placeholder(VOCAB)
    assert len(tokenizer.tokens) == VOCAB and tokenizer.mask_id in tokenizer.special_ids
    with pytest.raises(UsageError):
        tokenizer.encode("text")
    with pytest.raises(UsageError, match="--vocab_size 5"):
        Placeholder(5)


def test_an_objective_that_needs_two_texts_gets_them():
    _, corpora = small_step(objective="dual-encoder")
    assert corpora.train.lengths == {"x": LENGTH, "y": LENGTH}
    _, corpora = small_step(objective="mlm")
    assert corpora.train.lengths == {"x": LENGTH}


@pytest.mark.parametrize("name, stores", [("v6e-8", True), ("v5e-8", False), ("", False)])
def test_a_program_takes_the_form_of_the_chip_that_is_named(name, stores):
    """Only a v6e stores what others compute again (`models/layers/tpu_gradients.py`)."""
    step, corpora = small_step(precision="bfloat16", grad_accum=2)
    traced = trace(step, batch_specs(corpora.train, ROWS), device_name=name)[2]
    types = {op.type for graph in _graphs(traced.graph) for op in graph.get_operations()}
    assert ("XlaOptimizationBarrier" in types) == stores
    assert faults(traced) == []
