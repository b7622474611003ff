"""TensorFlow's SavedModel and BERT's TensorFlow checkpoint as formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpu_tlm import filesystem
from tpu_tlm.formats.format import Contents, Format, ReadOptions, WriteOptions, Written

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel

_INDEX = ".index"


def _is_saved_model(contents: Contents) -> bool:
    return bool({"saved_model.pb", "tfhub_module.pb"} & contents.names)


def _is_bert(contents: Contents) -> bool:
    if contents.is_directory:
        return any(name.endswith(_INDEX) for name in contents.names)
    return contents.path.endswith(_INDEX) or filesystem.exists(contents.path + _INDEX)


def _read_saved_model(path: str, options: ReadOptions) -> PretrainedModel:
    from tpu_tlm.formats.tensorflow.saved_model_read import read_saved_model

    return read_saved_model(path)


def _write_saved_model(saved: PretrainedModel, path: str, options: WriteOptions) -> Written:
    # Only here is tensorflow-text needed, and only for WordPiece.
    from tpu_tlm.formats.tensorflow.saved_model_write import write_saved_model

    return Written(*write_saved_model(saved, path, options.length))


def _read_bert(path: str, options: ReadOptions) -> PretrainedModel:
    from tpu_tlm.formats.tensorflow.bert_checkpoint import read_bert

    return read_bert(path)


def _write_bert(saved: PretrainedModel, path: str, options: WriteOptions) -> Written:
    from tpu_tlm.formats.tensorflow.bert_checkpoint import write_bert

    return Written(*write_bert(saved, path))


SAVED_MODEL = Format(
    "savedmodel",
    "a SavedModel",
    _is_saved_model,
    _read_saved_model,
    _write_saved_model,
    options=frozenset({"length"}),
)
BERT = Format("bert", "a BERT checkpoint (TensorFlow)", _is_bert, _read_bert, _write_bert)
