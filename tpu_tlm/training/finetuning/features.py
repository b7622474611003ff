"""Pooled vectors of texts under an encoder that is not trained, kept on disk."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf

from tpu_tlm import filesystem
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.tasks.batches import bucket_lengths
from tpu_tlm.tasks.examples import Examples
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import TaskModel, build_task_model, initial_values
from tpu_tlm.training.finetuning.outputs import Outputs
from tpu_tlm.training.finetuning.source import Source


def encoder_outputs(
    model: TaskModel, spec: ModelSpec, examples: Examples, batch: int = 64, buckets: int = 4
) -> list[np.ndarray]:
    """Pooled vectors float32 `[width]` of each window; of pairs both vectors joined."""

    def forward(features: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.concat(model.stored_vectors(features), axis=-1)

    sizes = examples.lengths()
    lengths = bucket_lengths(
        sizes, buckets, int(sizes.max()) + 8, spec.seq_length if spec.config.mlp else None
    )
    outputs = Outputs(forward, lengths=lengths, limit=lengths[-1], pad_id=spec.pad_id, batch=batch)
    return outputs.windows(examples)


def cached_vectors(
    source: Source, spec: ModelSpec, head: HeadSpec, examples: Examples, directory: str, name: str
) -> dict[str, np.ndarray]:
    """`u` (and `v` of pairs encoded each by itself) of every window: float32 `[windows, d]`.

    Computed once for the same texts, model and pooling, and read from `directory` afterwards.
    """
    parts = [np.concatenate([x.reshape(-1), [-1]]).tobytes() for x in examples.ids]
    for other in (examples.second, examples.types):
        parts += [np.concatenate([x.reshape(-1), [-1]]).tobytes() for x in other or ()]
    hashes = [filesystem.sha256(v.tobytes()) for _, v in sorted(source.encoder.items())]
    made_by = repr((head.pooling, head.pooler and not head.fresh, spec.to_json(), hashes))
    key = filesystem.sha256(b"".join([made_by.encode(), *parts]))
    path = f"{directory}/{name}-{key[:16]}.npy"
    if filesystem.exists(path):
        joined = np.load(io.BytesIO(filesystem.read_bytes(path)))
    else:
        model = build_task_model(spec, head, frozen=True)
        values = initial_values(model, source.encoder, source.pooler, 0)
        for variable_path, variable in named_variables(model).items():
            variable.assign(values[variable_path])
        joined = np.stack(encoder_outputs(model, spec, examples))
        filesystem.make_directory(directory)
        data = io.BytesIO()
        np.save(data, joined)
        filesystem.write_bytes(path, data.getvalue())
        print(f"encoded {len(joined):,} {name} texts once, into {path}", flush=True)
    if not head.shared:
        return {"u": joined}
    half = joined.shape[1] // 2
    return {"u": joined[:, :half], "v": joined[:, half:]}
