"""Helpers of the tests against `transformers`: strict loading, outputs, packaged real models."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Set by `make test-hf`: what is missing is a failure then.
REQUIRED = bool(os.environ.get("REQUIRE_TRANSFORMERS"))
# Ends of the names of the classes with a classification head.
CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification")
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None and not REQUIRED,
    reason="transformers needs torch, which is not installed: make test-hf",
)


def packaged(module: str) -> Path:
    """The folder `model` of an installed package; skips the test where it is missing."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        (pytest.fail if REQUIRED else pytest.skip)(
            f"the package with {module} is not installed: make test-hf"
        )
    return Path(found.submodule_search_locations[0]) / "model"


def load(architecture: str, directory: Path | str, **options: Any) -> Any:
    """The model in a directory as `transformers` loads it, in evaluation mode.

    Fails on an array that is missing, unexpected or of another size.
    """
    import transformers

    model, found = getattr(transformers, architecture).from_pretrained(
        str(directory), output_loading_info=True, **options
    )
    wrong = {kind: sorted(keys) for kind, keys in found.items() if keys}
    assert not wrong, f"{architecture} from {directory}: {wrong}"
    return model.eval()


def targets(x: Any) -> Any:
    """Target ids `[B, 9]` for sources `[B, T]`: a start token and some of the source."""
    import numpy as np

    return np.concatenate([np.zeros_like(x[:, :1]), np.maximum(x[:, 2:10], 5)], axis=1)


def outputs(model: Any, x: Any, attention: Any, tt: Any = None) -> dict[str, Any]:
    """Last hidden state (`hidden`) and logits of a model of `transformers` as arrays.

    `x`, `attention`, `tt`: ids, attention mask and token types `[B, T]`.
    """
    import numpy as np
    import torch

    if model.config.is_encoder_decoder:
        ids, seen, y = (torch.from_numpy(np.asarray(v)) for v in (x, attention, targets(x)))
        own = {} if type(model).__name__.endswith(CLASSIFIERS) else {"decoder_input_ids": y}
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=seen, **own)
        return {"logits": out.logits.numpy()}
    given = {
        "input_ids": x,
        "attention_mask": attention,
        **({} if tt is None else {"token_type_ids": tt}),
    }
    with torch.no_grad():
        out = model(
            **{k: torch.from_numpy(np.asarray(v, np.int64)) for k, v in given.items()},
            output_hidden_states=True,
        )
    found = {"hidden": out.hidden_states[-1]}
    for key in ("logits", "prediction_logits", "seq_relationship_logits", "pooler_output"):
        if out.get(key) is not None:
            found[key] = out[key]
    return {key: value.numpy() for key, value in found.items()}
