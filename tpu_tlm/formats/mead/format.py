"""NPZ files, ours and MEAD's, as a format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpu_tlm.formats.format import Contents, Format, ReadOptions, WriteOptions, Written

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel


def _sniff(contents: Contents) -> bool:
    return not contents.is_directory and contents.path.endswith(".npz")


def _read(path: str, options: ReadOptions) -> PretrainedModel:
    from tpu_tlm.formats.mead.npz import read_npz_model

    return read_npz_model(path, options.describe)


def _write(saved: PretrainedModel, path: str, options: WriteOptions) -> Written:
    from tpu_tlm.formats.mead.npz import npz_bytes

    return Written({"": npz_bytes(saved, options.origin)}, [])


FORMAT = Format("npz", "NAME.npz (ours or MEAD's)", _sniff, _read, _write, suffix=".npz")
