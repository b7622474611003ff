"""Names of BERT's variables in Google's TensorFlow programs <-> HuggingFace's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from tpu_tlm.formats.mapping import Arrays

_TABLES = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_OPTIMIZER = re.compile(
    r"(^|/)(adam_[mv]|Adam(_1)?|lamb_[mv]|m|v|global_step|beta[12]_power|LossScale|good_steps"
    r"|current_loss_scale)(:0)?$"
)
# Names without a rule: HuggingFace's, Google's. The next-sentence matrix is [2, d] in both.
_FIXED = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}
_FIXED_UNTRANSPOSED = {"cls.seq_relationship.weight": "cls/seq_relationship/output_weights"}

# Other programs' names -> the names of bert_model.ckpt, applied in this order. Sources: the
# TF-Hub modules of BERT for TensorFlow 1 (module scope), for TensorFlow 2 in versions 1-2
# (`bert_model/encoder`) and 3-4 (`transformer`), and the Keras model of `transformers`.
_RULES: tuple[tuple[str, str], ...] = (
    (r":0$", ""),
    (r"^module/", ""),
    (r"^tf_bert[a-z_]*/", ""),
    (r"^(bert_model|bert_encoder|keras_bert|bert_encoder_v2)/", "bert/"),
    (r"^(mlm|nsp)___(cls/)?", "cls/"),
    (r"^bert/cls/", "cls/"),
    (r"layer_\._(\d+)", r"layer_\1"),
    (r"^(bert/)?transformer/", "bert/encoder/"),
    (
        r"^(bert/)?(embeddings/)?word_embeddings(/embeddings|/weight)?$",
        "bert/embeddings/word_embeddings",
    ),
    (
        r"^(bert/)?(embedding_postprocessor/|embeddings/)?(type|token_type)_embeddings"
        r"(/embeddings)?$",
        "bert/embeddings/token_type_embeddings",
    ),
    (
        r"^(bert/)?(embedding_postprocessor/|embeddings/)?position_embeddings?(/embeddings)?$",
        "bert/embeddings/position_embeddings",
    ),
    (
        r"^(bert/)?(embedding_postprocessor|embeddings)/(layer_norm|LayerNorm)/",
        "bert/embeddings/LayerNorm/",
    ),
    (r"/self_attention/attention_output/", "/attention/output/dense/"),
    (r"/self_attention_output/", "/attention/output/dense/"),
    (r"/self_attention_layer_norm/", "/attention/output/LayerNorm/"),
    (r"/self_attention/(query|key|value)/", r"/attention/self/\1/"),
    (r"(layer_\d+)/intermediate/(kernel|bias)$", r"\1/intermediate/dense/\2"),
    (r"(layer_\d+)/output/(kernel|bias)$", r"\1/output/dense/\2"),
    (r"(layer_\d+)/output_layer_norm/", r"\1/output/LayerNorm/"),
    (r"^(bert/)?pooler_transform/", "bert/pooler/dense/"),
    (r"^pooler/", "bert/pooler/"),
    (r"^cls/predictions/output_bias/bias$", "cls/predictions/output_bias"),
    (r"^cls/predictions/bias$", "cls/predictions/output_bias"),
    (r"^encoder/", "bert/encoder/"),
)


def google_name(canonical: str) -> tuple[str, bool]:
    """The name in bert_model.ckpt of a HuggingFace array, and whether it is transposed."""
    if canonical in _FIXED or canonical in _FIXED_UNTRANSPOSED:
        return {**_FIXED, **_FIXED_UNTRANSPOSED}[canonical], False
    name = re.sub(r"\.layer\.(\d+)\.", r".layer_\1.", canonical)
    transposed = False
    stem, _, last = name.rpartition(".")
    if stem.endswith("LayerNorm"):
        name = f"{stem}.{'gamma' if last == 'weight' else 'beta'}"
    elif stem.endswith(_TABLES):
        name = stem
    elif last == "weight":
        name, transposed = f"{stem}.kernel", True
    if not name.startswith("cls."):
        name = f"bert.{name}"
    return name.replace(".", "/"), transposed


def to_google(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Arrays by canonical name -> by Google's name, matrices `[in, out]`."""
    found = {}
    for canonical, array in arrays.items():
        name, transposed = google_name(canonical)
        found[name] = np.ascontiguousarray(array.T if transposed else array)
    return found


def normalized(name: str) -> str:
    """The name that bert_model.ckpt has for a variable of any of the programs above."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def from_google(arrays: Mapping[str, np.ndarray]) -> tuple[Arrays, dict[str, str], list[str]]:
    """Arrays by the name of any of the programs -> by canonical name.

    Gives also canonical -> original name, and the names of optimizer state. Names that follow no
    rule stay as they are. Kernels by head (`[d, heads, k]`, `[heads, k, d]`) become matrices.
    """
    found: Arrays = {}
    originals: dict[str, str] = {}
    optimizer: list[str] = []
    fixed = {theirs: ours for ours, theirs in {**_FIXED, **_FIXED_UNTRANSPOSED}.items()}
    for original, array in arrays.items():
        if _OPTIMIZER.search(original):
            optimizer.append(original)
            continue
        name = normalized(original)
        if name in fixed:
            canonical, value = fixed[name], array
        else:
            canonical, value = _canonical(name, array)
        found[canonical], originals[canonical] = value, original
    return found, originals, optimizer


def _canonical(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    stem, _, last = name.removeprefix("bert/").rpartition("/")
    dotted = re.sub(r"(^|/)layer_(\d+)(?=/|$)", r"\1layer/\2", stem).replace("/", ".")
    if last in ("gamma", "beta"):
        return f"{dotted}.{'weight' if last == 'gamma' else 'bias'}", array
    if last in _TABLES:
        return f"{dotted}.{last}.weight", array
    if last == "kernel":
        if array.ndim == 3:
            joined = dotted.endswith("attention.output.dense")
            array = (
                array.reshape(-1, array.shape[-1]) if joined else array.reshape(array.shape[0], -1)
            )
        return f"{dotted}.weight", array.T
    return (f"{dotted}.{last}" if dotted else last), array.reshape(-1) if last == "bias" else array
