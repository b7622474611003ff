"""The file formats, and which one a path holds or a destination asks for."""

from __future__ import annotations

from tpu_tlm import filesystem
from tpu_tlm.config.other_programs import FORMATS as FORMATS_ELSEWHERE
from tpu_tlm.config.suggest import did_you_mean
from tpu_tlm.errors import UsageError
from tpu_tlm.formats import run_directory
from tpu_tlm.formats.elmo import format as elmo
from tpu_tlm.formats.format import Format, contents_of
from tpu_tlm.formats.huggingface import format as huggingface
from tpu_tlm.formats.mead import format as npz
from tpu_tlm.formats.tensorflow import format as tensorflow

# In the order in which they are tried on a path.
FORMATS: list[Format] = [
    run_directory.FORMAT,
    npz.FORMAT,
    tensorflow.SAVED_MODEL,
    huggingface.FORMAT,
    tensorflow.BERT,
    elmo.FORMAT,
]


def targets() -> list[str]:
    """Names of the formats that can be written."""
    return [one.name for one in FORMATS if one.write is not None]


def _known() -> str:
    return f"supported are {', '.join(one.description for one in FORMATS)}"


def detect(path: str) -> Format:
    """The format of what is at a path. Raises `UsageError` when it is none of them."""
    contents = contents_of(path)
    for one in FORMATS:
        if one.sniff(contents):
            return one
    if contents.is_directory and "config.json" in contents.names:
        if any(name.endswith((".bin", ".pt", ".pth")) for name in contents.names):
            raise UsageError(
                f"{path}: has PyTorch's pickled weights, which can run code and are not read; "
                "convert them once with transformers: AutoModel.from_pretrained(DIR)"
                ".save_pretrained(NEW_DIR) writes safetensors"
            )
    if not contents.is_directory and not filesystem.exists(path):
        raise UsageError(f"{path}: no such file or directory; {_known()}")
    raise UsageError(f"{path}: is not a model of a known format; {_known()}")


def target_of(path: str, asked: str | None) -> Format:
    """The format to write: the one asked for, or what the ending of the destination says.

    Raises `UsageError` when neither says it, or they contradict each other.
    """
    writable = {one.name: one for one in FORMATS if one.write is not None}
    by_suffix = [one for one in writable.values() if one.suffix and path.endswith(one.suffix)]
    if asked is None:
        if by_suffix:
            return by_suffix[0]
        raise UsageError(f"{path}: give --to {', '.join(writable)} (the ending .npz says npz)")
    if asked not in writable:
        ours = FORMATS_ELSEWHERE.get(asked.lower().replace("-", "_"))
        near = f"; it is --to {ours} here" if ours else did_you_mean(asked, writable, "--to ")
        raise UsageError(f"--to {asked}: supported are {', '.join(writable)}{near}")
    target = writable[asked]
    if target.suffix and target not in by_suffix:
        raise UsageError(f"{path}: --to {asked} needs a name that ends with {target.suffix}")
    if not target.suffix and by_suffix:
        raise UsageError(f"{path}: --to {asked} writes a directory, not a {by_suffix[0].suffix}")
    return target
