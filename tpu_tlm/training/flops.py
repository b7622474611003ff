"""Arithmetic of a training step, counted from the model's sizes."""

from __future__ import annotations

from tpu_tlm.config import ModelConfig


def flops_per_example(model: ModelConfig, nctx: int, predictions: int, vocab: int) -> float:
    """Floating-point operations of one example's forward and backward pass: three times those of the forward matrix products.

    Forward, a multiply-add being two, with T = nctx, d = d_model, f = d_ff, H = heads * d_k, r = 2 rpr_k + 1:

        layers * T * 2 * (4 d H + 2 T H + c r H + 2 d f)   projections, attention, relative positions (c: keys, values), feed-forward
        + predictions * 2 * d * (vocab + d)                head at the predicted positions (the last d only with mlm_head bert)

    Norms, softmax, activations, look-ups and the optimizer are not counted, and neither is recomputation: this is the numerator of
    MFU, not of hardware utilisation. predictions: positions per example with logits; vocab: width of the logits.
    """
    d, width = model.d_model, model.num_heads * (model.d_k or model.d_model // model.num_heads)
    tables = 2 if model.rpr_value_on else 1
    forward = 0.0
    for layer in range(model.num_layers):
        reach = model.rpr_k_of(layer)
        relative = tables * (2 * reach + 1) * width if reach else 0
        forward += nctx * 2.0 * (4 * d * width + 2 * nctx * width + relative + 2 * d * model.d_ff)
    head = d * (vocab + (d if model.mlm_head == "bert" else 0))
    return 3.0 * (forward + predictions * 2.0 * head)
