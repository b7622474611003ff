"""The kinds of model, one entry each, and building a model from its spec."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.discriminator import TransformerDiscriminator
from tpu_tlm.models.dual_encoder import DualEncoder
from tpu_tlm.models.electra import Electra
from tpu_tlm.models.elmo import Elmo
from tpu_tlm.models.initializers import initialize
from tpu_tlm.models.language_models import TransformerLanguageModel, TransformerMaskedLanguageModel
from tpu_tlm.models.layers.variables import mark_built
from tpu_tlm.models.seq2seq import Seq2SeqModel
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.models.text_encoder import TransformerEmbeddings


class Kind(NamedTuple):
    """One kind of model: its class, and the sizes among its own options, which are 1 or more."""

    model: type[Any]
    sizes: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "mlm": Kind(TransformerMaskedLanguageModel),
    "clm": Kind(TransformerLanguageModel),
    "embed": Kind(TransformerEmbeddings),
    "discriminator": Kind(TransformerDiscriminator),
    "electra": Kind(Electra),
    "dual": Kind(DualEncoder, ("d_out", "reduction_d_k", "stacking_layers")),
    "seq2seq": Kind(Seq2SeqModel, ("num_decoder_layers",)),
    "elmo": Kind(Elmo),
}
# Sizes of every kind.
_SIZES = ("d_model", "d_ff", "num_heads", "num_layers")


def _check_sizes(spec: ModelSpec) -> None:
    config = spec.config
    for name in (*_SIZES, *KINDS[spec.kind].sizes):
        value = getattr(config, name)
        for size in value if isinstance(value, list) else [value]:
            if size is not None and size < 1:
                raise UsageError(f"--{name} {size}: must be at least 1")
    if spec.kind == "dual" and config.mlp and spec.seq_length_y not in (None, spec.seq_length):
        raise UsageError(
            f"--mlp: gated MLP blocks take texts of one length, these have {spec.seq_length} and"
            f" {spec.seq_length_y} tokens; preprocess with --seq_length_y {spec.seq_length}, or"
            " leave out --mlp"
        )


def build_model(
    spec: ModelSpec, *, precision: str = "float32", seed: int | None = None
) -> TransformerModel:
    """The model of a spec, with its variables on the host.

    `precision`: float32 or bfloat16; `seed`: of the initial values; None leaves them zero. Raises
    `UsageError` for an unknown kind of model, or options that contradict each other.
    """
    if spec.kind not in KINDS:
        raise UsageError(f"model: {spec.kind!r} is not one of {', '.join(KINDS)}")
    _check_sizes(spec)
    try:
        # On the host: the training state has its own copy on the device.
        with tf.device("/CPU:0"):
            model = KINDS[spec.kind].model(spec, precision=precision, name="model")
            mark_built(model)
            if seed is not None:
                initialize(model, seed)
    except ValueError as error:
        raise UsageError(f"model: {error}") from None
    return model
