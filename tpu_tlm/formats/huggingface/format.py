"""HuggingFace directories as a format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpu_tlm.formats.format import Contents, Format, ReadOptions, WriteOptions, Written

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel


def _sniff(contents: Contents) -> bool:
    return any(
        name.endswith((".safetensors", ".safetensors.index.json")) for name in contents.names
    )


def _read(path: str, options: ReadOptions) -> PretrainedModel:
    from tpu_tlm.formats.huggingface.read import read_hf

    return read_hf(path)


def _write(saved: PretrainedModel, directory: str, options: WriteOptions) -> Written:
    from tpu_tlm.formats.huggingface.write import hf_files

    return Written(*hf_files(saved, options.family))


FORMAT = Format(
    "hf",
    "a HuggingFace directory (safetensors)",
    _sniff,
    _read,
    _write,
    options=frozenset({"family"}),
)
