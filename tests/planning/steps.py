"""A small training step of every objective, without data."""

from __future__ import annotations

from tpu_tlm.config import Config, cli
from tpu_tlm.planning.stand_in import fitting
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


def small_step(**values: object) -> tuple[TrainStep, Datasets]:
    """The step of these options, sizes small where not given, and the stand-in for its data."""
    everything = Config(
        *cli.build(Config.groups(), {**SIZES, **values}, "test", check_required=False)
    )
    corpora = fitting(everything, VOCAB, LENGTH, None)
    return experiment_of(everything, corpora, 100, everything.runtime.precision).step, corpora
