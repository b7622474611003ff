"""ELMo's pair of files as a format."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from tpu_tlm import filesystem
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.format import Contents, Format, ReadOptions, WriteOptions, Written

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel

_WEIGHTS, _OPTIONS = "weights.hdf5", "options.json"


def _sniff(contents: Contents) -> bool:
    if contents.is_directory:
        return any(name.endswith(_WEIGHTS) for name in contents.names)
    if contents.path.endswith(_OPTIONS):
        weights = contents.path.removesuffix(_OPTIONS) + _WEIGHTS
        return filesystem.exists(weights)
    return contents.path.endswith(".hdf5") and filesystem.exists(contents.path)


def files_of(path: str) -> tuple[str, str]:
    """Paths of options and weights at a path: a directory, or one of the two files.

    In a directory both have one start, as in `NAME_options.json` and `NAME_weights.hdf5`. Raises
    `UsageError` where one is missing, or there are several models.
    """
    if not filesystem.is_directory(path):
        stem = path.removesuffix(_OPTIONS).removesuffix(_WEIGHTS)
        options, weights = stem + _OPTIONS, stem + _WEIGHTS
        if path not in (options, weights):
            raise UsageError(f"{path}: the name of ELMo's weights must end with {_WEIGHTS}")
    else:
        names = [name for name in filesystem.list_names(path) if name.endswith(_WEIGHTS)]
        if len(names) > 1:
            raise UsageError(f"{path}: holds {len(names)} models ({', '.join(names)}); name one")
        weights = posixpath.join(path, names[0])
        options = weights.removesuffix(_WEIGHTS) + _OPTIONS
    for wanted in (options, weights):
        if not filesystem.exists(wanted):
            raise UsageError(f"{path}: an ELMo needs {wanted} too, which is not there")
        filesystem.check_inside(posixpath.dirname(wanted), posixpath.basename(wanted), path)
    return options, weights


def _read(path: str, options: ReadOptions) -> PretrainedModel:
    from tpu_tlm.formats.elmo.read import read_elmo

    return read_elmo(path)


def _write(saved: PretrainedModel, directory: str, options: WriteOptions) -> Written:
    from tpu_tlm.formats.elmo.read import elmo_files

    return Written(*elmo_files(saved))


FORMAT = Format("elmo", "an ELMo (options.json, weights.hdf5)", _sniff, _read, _write)
