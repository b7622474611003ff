"""A small training step of every objective, without data."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.config import Config, OptimConfig, cli
from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.formats.elmo.options import spec_of
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.planning.stand_in import fitting
from tpu_tlm.tasks.classify import Classify
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import build_task_model
from tpu_tlm.training.finetuning.step import ScaledOptimizer, TaskStep
from tpu_tlm.training.optimizers import make_optimizer
from tpu_tlm.training.setup import Datasets, experiment_of
from tpu_tlm.training.step import TrainStep

ROWS, LENGTH, VOCAB = 8, 32, 200
SIZES = {
    "d_model": 32,
    "d_ff": 64,
    "num_heads": 2,
    "num_layers": 1,
    "rpr_k": [4],
    "d_out": 16,
    "reduction_d_k": 8,
    "batch_size": ROWS,
    "precision": "bfloat16",
}
ELMO = "elmo"
# At the end of a name: with the optimizer's state divided among the chips.
SHARDED = "/sharded"
# What an objective has more than one way of doing: each is another program.
VARIANTS: dict[str, dict[str, object]] = {
    "seq2seq, spans": {"objective": "seq2seq", "denoise": "spans"},
    "seq2seq, infilling": {"objective": "seq2seq", "denoise": "infilling"},
    "mlm, whole words": {"objective": "mlm", "mask_mode": "whole-word"},
    "mlm, spans": {"objective": "mlm", "mask_mode": "span"},
    "mlm, BERT's form": {
        "position_encoding": ["learned"],
        "embeddings_reduction": "sum-layer-norm",
        "type_vocab_size": 2,
        "transformer_type": "post-layer-norm",
        "mlm_head": "bert",
        "output_bias": True,
    },
    "seq2seq, T5's positions": {"objective": "seq2seq", "position_encoding": ["t5"]},
}


def small_step(replicas: int = 1, **values: object) -> tuple[TrainStep, Datasets]:
    """The step of these options, sizes small where not given, and the stand-in for its data."""
    everything = Config(
        *cli.build(Config.groups(), {**SIZES, **values}, "test", check_required=False)
    )
    corpora = fitting(everything, VOCAB, LENGTH, None)
    precision = everything.runtime.precision
    return experiment_of(everything, corpora, 100, precision, replicas=replicas).step, corpora


def elmo_step() -> tuple[TaskStep, dict[str, tf.TensorSpec]]:
    """The step that fine-tunes a small ELMo, and the specs of its batch."""
    config = ElmoConfig(16, 8, ((1, 16), (2, 16), (3, 32)), "relu", 1, 64, 32, 2, 3.0, 3.0)
    model = build_task_model(spec_of(config), HeadSpec(2), precision="bfloat16")
    optimizer = make_optimizer(OptimConfig())
    rates = [1.0] * len(named_variables(model))
    step = TaskStep(
        model,
        Classify(["a", "b"]),
        ScaledOptimizer(optimizer, rates),
        lambda index: tf.constant(1e-3),
        1.0,
        0,
        1,
        frozen=tuple(False for _ in rates),
    )
    specs = {
        "x": tf.TensorSpec((ROWS, LENGTH, config.characters), tf.int32),
        "label": tf.TensorSpec((ROWS,), tf.int32),
        "weight": tf.TensorSpec((ROWS,), tf.float32),
        "position": tf.TensorSpec((ROWS,), tf.int64),
    }
    return step, specs
