"""Which format a path holds, and which one a destination's name asks for."""

from __future__ import annotations

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError

RUN, NPZ, HF, BERT, SAVED_MODEL = "run", "npz", "hf", "bert", "savedmodel"
# What can be written.
TARGETS = (NPZ, HF, BERT, SAVED_MODEL)
_HINT = "a run directory, NAME.npz, a HuggingFace directory (safetensors), a BERT checkpoint or a SavedModel can be read"


def detect(path: str) -> str:
    """The format of what lies at a path. Raises `UsageError` saying what was looked for when it is none of them."""
    if filesystem.is_directory(path):
        names = set(filesystem.list_names(path))
        if "checkpoints" in names:
            return RUN
        if "saved_model.pb" in names or "tfhub_module.pb" in names:
            return SAVED_MODEL
        if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
            return HF
        if any(name.endswith(".index") for name in names):
            return BERT
        if "config.json" in names and any(
            name.startswith("pytorch_model") or name.endswith(".bin") for name in names
        ):
            raise UsageError(
                f"{path}: holds PyTorch's pickled weights; save them as safetensors (transformers' save_pretrained does)"
            )
        raise UsageError(f"{path}: holds no model that is known here; {_HINT}")
    if path.endswith(".npz"):
        return NPZ
    if path.endswith(".index") or filesystem.exists(path + ".index"):
        return BERT
    if not filesystem.exists(path):
        raise UsageError(f"{path}: there is no such file or directory; {_HINT}")
    raise UsageError(f"{path}: is no model that is known here; {_HINT}")


def target_of(path: str, asked: str | None) -> str:
    """The format to write: the one that was asked for, or what the name says (.npz). Raises `UsageError` when neither says it."""
    if asked is not None:
        if (asked == NPZ) != path.endswith(".npz"):
            raise UsageError(
                f"{path}: --to {asked} {'needs a name that ends with .npz' if asked == NPZ else 'writes a directory, not an NPZ'}"
            )
        return asked
    if path.endswith(".npz"):
        return NPZ
    raise UsageError(
        f"{path}: give --to {', '.join(TARGETS)} (a name that ends with .npz says it by itself)"
    )
