"""Arithmetic of a training step, counted from the model's sizes."""

from __future__ import annotations

from tpu_tlm.config import ModelConfig

_GATED = ("geglu", "swiglu")


def _gated_mlp(model: ModelConfig, nctx: int) -> float:
    return model.d_model * model.d_ff + nctx * model.d_ff / 2 + model.d_ff / 2 * model.d_model


def _attention(model: ModelConfig, nctx: int, layer: int) -> float:
    d, k = model.d_model, model.d_k or model.d_model // model.num_heads
    width = model.num_heads * k
    values = d if model.single_head else width
    reach = model.rpr_k_of(layer) if model.ra_type == "shaw" else 0
    rows = 2 * reach + 1 if reach else 0
    relative = rows * (width + (values if model.rpr_value_on else 0))
    projections = d * (2 * width + values) + (0 if model.single_head else width * d)
    return projections + nctx * (width + values) + relative


def flops_per_example(model: ModelConfig, nctx: int, predictions: int, vocab: int) -> float:
    """Floating-point operations of one example's forward and backward pass: three times those of the forward matrix products.

    Forward, a multiply-add being two, with T = nctx, d = d_model, f = d_ff, H = heads * d_k, r = 2 rpr_k + 1:

        layers * T * 2 * (4 d H + 2 T H + c r H + g d f)   projections, attention, relative positions (c: keys, values), feed-forward (g: 2,
                                                           with a gate 3)
        + predictions * 2 * e * (vocab + d)                head at the predicted positions, e wide (the last d only with a layer before it)

    A single head has values d wide and no output projection; a gated MLP block has 3/2 d f + T f / 2 instead of all four terms. Norms,
    softmax, activations, look-ups and the optimizer are not counted, and neither is recomputation: this is the numerator of MFU, not of
    hardware utilisation. Masks and windows save no arithmetic here. predictions: positions per example with logits; vocab: width of the
    logits.
    """
    d, e = model.d_model, model.dsz or model.d_model
    matrices = 3 if model.activation in _GATED else 2
    forward = 0.0
    for layer in range(model.num_layers):
        block = _gated_mlp(model, nctx) if model.mlp else _attention(model, nctx, layer) + matrices * d * model.d_ff
        forward += nctx * 2.0 * block
    if e != d:
        forward += nctx * 2.0 * e * d
    out = e if model.tie_weights else d
    head = out * vocab + (d * out if model.mlm_head == "bert" or out != d else 0)
    return 3.0 * (forward + predictions * 2.0 * head)
