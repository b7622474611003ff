"""From a spec to a model with its initial values."""

from __future__ import annotations

import tensorflow as tf

from tpu_tlm.errors import UsageError
from tpu_tlm.models.base import TransformerModel
from tpu_tlm.models.discriminator import TransformerDiscriminator
from tpu_tlm.models.dual_encoder import DualEncoder
from tpu_tlm.models.electra import Electra
from tpu_tlm.models.initializers import initialize
from tpu_tlm.models.language_models import TransformerLanguageModel, TransformerMaskedLanguageModel
from tpu_tlm.models.layers.variables import mark_built
from tpu_tlm.models.seq2seq import Seq2SeqModel
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.models.text_encoder import TransformerEmbeddings

KINDS: dict[str, type[TransformerModel]] = {
    "mlm": TransformerMaskedLanguageModel,
    "clm": TransformerLanguageModel,
    "embed": TransformerEmbeddings,
    "discriminator": TransformerDiscriminator,
    "electra": Electra,
    "dual": DualEncoder,
    "seq2seq": Seq2SeqModel,
}


# What must be there at least once in a model of any kind, and in one of these.
_SIZES = ("d_model", "d_ff", "num_heads", "num_layers")
_MORE = {"dual": ("d_out", "reduction_d_k", "stacking_layers"), "seq2seq": ("num_decoder_layers",)}


def _check_sizes(spec: ModelSpec) -> None:
    config = spec.config
    for name in (*_SIZES, *_MORE.get(spec.kind, ())):
        value = getattr(config, name)
        for size in value if isinstance(value, list) else [value]:
            if size is not None and size < 1:
                raise UsageError(f"--{name} {size}: must be at least 1")
    if spec.kind == "dual" and config.mlp and spec.seq_length_y not in (None, spec.seq_length):
        raise UsageError(
            f"--mlp: gated MLP blocks take texts of one length, these are of {spec.seq_length} and {spec.seq_length_y} tokens; preprocess with "
            f"--seq_length_y {spec.seq_length}, or leave out --mlp"
        )


def build_model(
    spec: ModelSpec, *, precision: str = "float32", seed: int | None = None
) -> TransformerModel:
    """The model of a spec, its variables on the host; with a seed they get their initial values, without one they are zero.

    Raises `UsageError` for sizes that do not go together, or a kind of model that there is not.
    """
    if spec.kind not in KINDS:
        raise UsageError(f"model: {spec.kind!r} is not one of {', '.join(KINDS)}")
    _check_sizes(spec)
    try:
        # On the host: the training state holds its own copy on the device.
        with tf.device("/CPU:0"):
            model = KINDS[spec.kind](spec, precision=precision, name="model")
            mark_built(model)
            if seed is not None:
                initialize(model, seed)
    except ValueError as error:
        raise UsageError(f"model: {error}") from None
    return model
