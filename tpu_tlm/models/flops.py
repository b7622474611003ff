"""Floating-point operations of a training step, counted from the model's sizes."""

from __future__ import annotations

from tpu_tlm.config import ModelConfig
from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.models.layers.core import GATED
from tpu_tlm.models.positions.registry import relative_encoding


def _gated_mlp(model: ModelConfig, seq_length: int) -> float:
    return model.d_model * model.d_ff + seq_length * model.d_ff / 2 + model.d_ff / 2 * model.d_model


def _widths(model: ModelConfig) -> tuple[int, int]:
    """Columns of all queries (or keys) and of all values of a layer."""
    width = model.num_heads * (model.d_k or model.d_model // model.num_heads)
    return width, model.d_model if model.single_head else width


def _scores_and_values(model: ModelConfig, keys: int, layer: int, *, cross: bool = False) -> float:
    """Scores and weighted values of one query over `keys` positions, with relative positions."""
    width, values = _widths(model)
    encoding = relative_encoding(model)
    acts = encoding is not None and (encoding.in_cross_attention or not cross)
    extra = encoding.multiply_adds(model, layer, width, values) if encoding and acts else 0.0
    return keys * (width + values) + extra


def _reached(model: ModelConfig, seq_length: int, layer: int) -> int:
    """Keys that a query of self attention reaches."""
    window = model.window_of(layer)
    return seq_length if window is None else min(seq_length, 2 * window + 1)


def _attention(model: ModelConfig, seq_length: int, layer: int) -> float:
    d, (width, values) = model.d_model, _widths(model)
    return (
        d * (2 * width + values)
        + (0 if model.single_head else width * d)
        + _scores_and_values(model, _reached(model, seq_length, layer), layer)
    )


def _feed_forward(model: ModelConfig) -> float:
    return (3 if model.activation in GATED else 2) * model.d_model * model.d_ff


def _encoder(model: ModelConfig, seq_length: int) -> float:
    """Multiply-adds of embedding projection and encoder layers on `seq_length` tokens."""
    blocks = 0.0
    for layer in range(model.num_layers):
        blocks += (
            _gated_mlp(model, seq_length)
            if model.mlp
            else _attention(model, seq_length, layer) + _feed_forward(model)
        )
    return seq_length * (blocks + _embedding(model))


def _embedding(model: ModelConfig) -> float:
    e = model.embedding_size or model.d_model
    return e * model.d_model if e != model.d_model else 0


def _head(model: ModelConfig, vocab: int) -> float:
    d, out = (
        model.d_model,
        (model.embedding_size or model.d_model) if model.tie_weights else model.d_model,
    )
    return out * vocab + (d * out if model.mlm_head == "bert" or out != d else 0)


def flops_per_example(model: ModelConfig, seq_length: int, predictions: int, vocab: int) -> float:
    """Floating-point operations of one example's forward and backward pass.

    Three times those of the forward matrix products. Forward, a multiply-add being two, with
    T = seq_length, d = d_model, f = d_ff, H = heads * d_k, r = 2 rpr_k + 1:

        layers * T * 2 * (4 d H + 2 T H + c r H + g d f)
            projections, attention, relative positions (Shaw's; c = 2: keys and values),
            feed-forward (g = 2; 3 with a gate)
        + predictions * 2 * e * (vocab + d)
            head at the predicted positions, e wide (the last d only with a layer before it)

    A single head has values d wide and no output projection; a gated MLP block has
    3/2 d f + T f / 2 instead of all four terms. Norms, softmax, activations, lookups and the
    optimizer are not counted, nor is recomputation: this is the numerator of MFU, not of hardware
    utilization. A window of w positions to each side has min(T, 2 w + 1) in place of T in the
    scores of its layer; other masks save no arithmetic here.

    predictions: positions per example with logits; vocab: width of the logits.
    """
    return 3.0 * 2.0 * (_encoder(model, seq_length) + predictions * _head(model, vocab))


def binary_flops_per_example(model: ModelConfig, seq_length: int) -> float:
    """The same for an encoder with one logit at every position (a discriminator)."""
    d = model.d_model
    head = d + (d * d if model.mlm_head == "bert" else 0)
    return 3.0 * 2.0 * (_encoder(model, seq_length) + seq_length * head)


def seq2seq_flops_per_example(model: ModelConfig, source: int, target: int, vocab: int) -> float:
    """The same for an encoder-decoder of `source` and `target` tokens, with logits at each target.

    A decoder layer has self attention over the target, cross attention (queries and output of the
    target, keys and values of the source, relative positions between the two) and feed-forward.
    """
    d, (width, values) = model.d_model, _widths(model)
    forward = _encoder(model, source) + target * (_embedding(model) + _head(model, vocab))
    for layer in range(model.num_decoder_layers or model.num_layers):
        cross_projections = d * width + (0 if model.single_head else width * d)
        forward += target * (
            _attention(model, target, layer)
            + cross_projections
            + _scores_and_values(model, source, layer, cross=True)
            + _feed_forward(model)
        )
        forward += source * d * (width + values)
    return 3.0 * 2.0 * forward


def dual_flops_per_example(model: ModelConfig, seq_length: int, seq_length_y: int) -> float:
    """The same for a dual encoder: encoder, reduction heads and dense layers, for both texts.

    The similarities of a batch are not counted: they are negligible, and depend on the batch size.
    """
    d, kind = model.d_model, model.reduction_type.partition("_")[0]
    count = {"sha": 1, "2ha": 2}.get(kind, 0)
    width = d * max(1, count)
    if model.stacking_layers:
        sizes = [width, *model.stacking_layers, model.d_out]
        head = sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) + (
            width * model.d_out if width != model.d_out else 0
        )
    else:
        head = width * model.d_out if width != model.d_out else 0
    forward = 0.0
    for length in (seq_length, seq_length_y):
        forward += (
            _encoder(model, length)
            + length * count * (2 * d * model.reduction_d_k + length * (model.reduction_d_k + d))
            + head
        )
    return 3.0 * 2.0 * forward


def elmo_flops_per_example(config: ElmoConfig, seq_length: int) -> float:
    """The same for an ELMo of `seq_length` tokens and the two marks of a sentence: convolutions,
    highway layers, projection, and both directions of every LSTM layer."""
    wide, width, dim = config.convolved, config.projection, config.dim
    convolutions = sum(
        (config.characters - size + 1) * size * config.character_size * count
        for size, count in config.filters
    )
    token = convolutions + config.highway * 2 * wide * wide + config.projected * wide * width
    layer = 2 * (2 * width * 4 * dim + (dim * width if width != dim else 0))
    return 3.0 * 2.0 * (seq_length + 2) * (token + config.layers * layer)
