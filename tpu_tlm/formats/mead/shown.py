"""What MEAD's arrays show of the hyper-parameters that its files do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tpu_tlm.errors import UsageError

Arrays = Mapping[str, np.ndarray]
# Where MEAD keeps the token table: of an encoder-decoder, of all else.
_EMBEDDINGS = ("Seq2Seq/SrcEmbeddings", "TLM/Embeddings")
_PLAIN, _GATED = "TransformerEncoderStack", "GatedMLPEncoderStack"
# MEAD's default of its fine-tuning embeddings.
_HEADS = 12
POST = "post-layer-norm"


def embeddings_key(arrays: Arrays, path: str) -> str:
    """The prefix of the arrays of the embeddings; `UsageError` where there are none."""
    root = next((root for root in _EMBEDDINGS if f"{root}/x/weights" in arrays), None)
    if root is None:
        raise UsageError(
            f"{path}: has no array {' or '.join(f'{root}/x/weights' for root in _EMBEDDINGS)}: it "
            "is no model of MEAD's"
        )
    return root


def tables(arrays: Arrays, path: str) -> dict[str, int]:
    """Rows of the tables of tokens (`vocab`), `positions` and token `types`, 0 of one that is not
    there. Raises `UsageError` where there is no table of tokens."""
    root = embeddings_key(arrays, path)
    keys = {"vocab": "x/weights", "positions": "x/pos_weights", "types": "tt/weights"}
    return {
        name: _shape(arrays, f"{root}/{key}", 2)[0] if f"{root}/{key}" in arrays else 0
        for name, key in keys.items()
    }


def _shape(arrays: Arrays, key: str, axes: int) -> tuple[int, ...]:
    """The shape of an array; zeros where it is absent, or of another number of axes."""
    found = np.shape(arrays[key]) if key in arrays else ()
    return found if len(found) == axes else (0,) * axes


def shown(arrays: Arrays, path: str) -> dict[str, Any]:
    """Options by MEAD's names as the arrays show them; what they do not show is absent.

    `rpr_k` is a number per layer. The number of heads shows by relative positions, or where there
    is one. Raises `UsageError` for arrays that are no model of MEAD's.
    """
    embeddings = embeddings_key(arrays, path)
    root = embeddings.partition("/")[0]
    gated = any(name.startswith(f"{root}/{_GATED}/") for name in arrays)
    stack = f"{root}/{_GATED if gated else _PLAIN}"
    numbers = {name[len(stack) + 1 :].partition("/")[0] for name in arrays if _in(name, stack)}
    found: dict[str, Any] = {
        "layers": sum(number.isdigit() for number in numbers),
        "embeddings_reduction": (
            "sum-layer-norm" if f"{embeddings}/reduction/ln/weights" in arrays else "sum"
        ),
        "dsz": _shape(arrays, f"{embeddings}/x/weights", 2)[1],
    }
    if gated:
        d_ff, d_model = _shape(arrays, f"{stack}/0/to_ffn/weights", 2)
        positions = _shape(arrays, f"{stack}/0/spatial_gating_unit/proj/weights", 3)[0]
        found |= {"mlp": True, "nctx": positions, "d_ff": d_ff, "d_model": d_model}
    else:
        d_ff, d_model = _shape(arrays, f"{stack}/0/ffn/expansion/weights", 2)
        found |= {"mlp": False, "d_ff": d_ff, "d_model": d_model}
        found |= {"layer_norms_after": f"{stack}/ln/weights" not in arrays}
        found |= _attention(arrays, stack, found["layers"])
    return {name: value for name, value in found.items() if value or isinstance(value, bool)}


def _in(name: str, stack: str) -> bool:
    return name.startswith(f"{stack}/")


def _attention(arrays: Arrays, stack: str, layers: int) -> dict[str, Any]:
    """Heads and relative positions of a stack of Transformer blocks."""
    attn = f"{stack}/0/attn"
    width = _shape(arrays, f"{attn}/w_Q/weights", 2)[0]
    found: dict[str, Any] = {}
    if f"{attn}/w_Q/weights" in arrays and f"{attn}/w_O/weights" not in arrays:
        found["num_heads"] = 1
    if f"{attn}/rel_embedding" in arrays:
        found |= {"num_heads": _shape(arrays, f"{attn}/rel_embedding", 2)[0], "ra_type": "t5"}
    tables_ = [_shape(arrays, f"{stack}/{i}/attn/rpr_key", 2) for i in range(min(layers, 4096))]
    if any(rows for rows, _ in tables_):
        found["rpr_k"] = [max(rows - 1, 0) // 2 for rows, _ in tables_]
        found["rpr_value_on"] = any(
            f"{stack}/{i}/attn/rpr_value" in arrays for i in range(len(tables_))
        )
        per_head = next(columns for rows, columns in tables_ if rows)
        if per_head and width % per_head == 0:
            found["num_heads"] = width // per_head
            if width != _shape(arrays, f"{attn}/w_Q/weights", 2)[1]:
                found["d_k"] = per_head
    return found


def _same(name: str, given: Any, there: Any) -> bool:
    if name == "rpr_k":
        reaches = list(given) if isinstance(given, list | tuple) else [given] * len(there)
        return reaches == there
    return bool(given == there)


def completed(
    config: Mapping[str, Any], arrays: Arrays, path: str, kind: str
) -> tuple[dict[str, Any], list[str]]:
    """(options with those that the arrays show, lines for the user about those that they do not).

    config: options by MEAD's canonical names. Raises `UsageError` naming an option that the arrays
    contradict, and the number of heads where nothing shows it.
    """
    there, given, notes = shown(arrays, path), dict(config), list[str]()
    embeds = kind in ("embed", "tagger")
    width = given.get("d_model", given.get("dsz") if embeds else None)
    if width is not None and "d_model" in there and width != there["d_model"]:
        name = "d_model" if "d_model" in given else "dsz"
        raise UsageError(f"{path}: its arrays show {name} {there['d_model']}, not {width}")
    if given.get("transformer_type") == POST:
        given["layer_norms_after"] = True
    elif given.get("transformer_type") is not None:
        given.setdefault("layer_norms_after", False)
    for name in there:
        if name in given and name != "dsz" and not _same(name, given[name], there[name]):
            raise UsageError(f"{path}: its arrays show {name} {there[name]}, not {given[name]}")
    there.pop("dsz", None)
    if len(set(there.get("rpr_k", ()))) == 1:
        there["rpr_k"] = there["rpr_k"][0]
    given = {**there, **given}
    count = tables(arrays, path)
    _embeddings(given, arrays, path, count, notes)
    if "num_heads" not in given and embeds and not given.get("mlp"):
        if given.get("d_model", 0) % _HEADS:
            raise UsageError(
                f"{path}: its arrays do not show the number of heads, and MEAD's default of "
                f"{_HEADS} does not divide d_model {given.get('d_model')}: give num_heads"
            )
        given["num_heads"] = _HEADS
        notes.append(f"num_heads {_HEADS}: MEAD's default; the arrays do not show it")
    elif given.get("mlp"):
        given.setdefault("num_heads", 1)
    return given, notes


def _embeddings(
    given: dict[str, Any], arrays: Arrays, path: str, count: dict[str, int], notes: list[str]
) -> None:
    """Positions and token types, into `given`."""
    kind = given.get("embed_type")
    bias = kind == "learned-positional-w-bias"
    if "embed_type" not in given and count["positions"]:
        bias = f"{embeddings_key(arrays, path)}/x/bias" in arrays
        given["embed_type"] = f"learned-positional{'-w-bias' if bias else ''}"
    elif "embed_type" not in given and "rpr_k" not in given and "ra_type" not in given:
        notes.append(
            "no positions: the arrays have none; if they were sine waves, say so with"
            " word_embed_type positional"
        )
    if isinstance(kind, str) and ("learned" in kind) != bool(count["positions"]):
        has = f"has {count['positions'] or 'no'} learned positions"
        raise UsageError(f"{path}: {has}, which contradicts word_embed_type {kind}")
    if count["types"] and not bias and "token_type_vsz" not in given:
        if "features" not in given or "tt" in given["features"]:
            given["token_type_vsz"] = count["types"]
    if given.get("token_type_vsz", count["types"]) != count["types"]:
        has = f"has {count['types'] or 'no'} token types"
        raise UsageError(f"{path}: {has}, not token_type_vsz {given['token_type_vsz']}")
    most = given.get("mxlen")
    if count["positions"] and most is not None and most != count["positions"]:
        notes.append(
            f"mxlen {most}: the table of positions has {count['positions']}, which are kept"
        )
