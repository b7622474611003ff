"""Vectors of any number of texts into one file, restartable part by part."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.config.embed import EmbedConfig
from tpu_tlm.config.finetune import TaskDataConfig
from tpu_tlm.data.progress import ProgressBar, quantity
from tpu_tlm.errors import OptionError, UsageError
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.tasks.batches import bucket_lengths
from tpu_tlm.tasks.examples import Framer
from tpu_tlm.tasks.head import HeadSpec
from tpu_tlm.tasks.model import build_task_model, task_spec
from tpu_tlm.tasks.read import Row, read_rows
from tpu_tlm.training.finetuning.outputs import Outputs
from tpu_tlm.training.finetuning.source import Source, load_source

# Texts in a part, which is kept when the command is interrupted.
PART = 4096
_ENDINGS = (".npz", ".npy", ".parquet")


class Embedder:
    """Texts to vectors float32 `[texts, d]` under the encoder of a model.

    pooling: cls, mean, max, sqrt or last. max_length: tokens of a window; the vector of a longer
    text is the mean over its windows, weighted by their tokens. normalize: to length 1.
    """

    def __init__(
        self,
        source: Source,
        *,
        pooling: str = "mean",
        max_length: int | None = None,
        batch_size: int = 64,
        normalize: bool = False,
    ) -> None:
        self.spec = task_spec(source.spec, None, training=False)
        self.framer = Framer(self.spec, source.tokenizer, max_length=max_length, whole=True)
        self.normalize, self.batch_size = normalize, batch_size
        model = build_task_model(self.spec, HeadSpec(1, pooling=pooling), frozen=True)
        for path, variable in named_variables(model).items():
            if path in source.encoder:
                variable.assign(source.encoder[path])
        self.outputs = Outputs(
            lambda features: model.vectors(features)[0],
            lengths=[self.framer.max_length],
            limit=self.framer.max_length,
            pad_id=self.spec.pad_id,
            batch=batch_size,
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts in order."""
        if not len(texts):
            return np.zeros((0, self.spec.config.d_model), np.float32)
        examples = self.framer([Row(text, None, None, i) for i, text in enumerate(texts, 1)])
        sizes = examples.lengths()
        fixed = self.spec.seq_length if self.spec.config.mlp else None
        self.outputs.lengths = bucket_lengths(sizes, 6, self.framer.max_length, fixed)
        found = np.stack(self.outputs.windows(examples)).astype(np.float64)
        weight = sizes.astype(np.float64)
        total = np.zeros((len(texts), found.shape[1]))
        np.add.at(total, examples.of, found * weight[:, None])
        vectors = total / np.bincount(examples.of, weight, len(texts))[:, None]
        if self.normalize:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors.astype(np.float32)


def _texts(config: EmbedConfig) -> list[str]:
    if config.input.lower().endswith(".txt"):
        data = filesystem.read_bytes(config.input)
        try:
            lines = data.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            at = data[: error.start].count(b"\n") + 1
            raise UsageError(f"{config.input}:{at}: is not UTF-8; convert the file") from None
        lines = [line.rstrip("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise UsageError(f"{config.input}:{number}: is empty; leave out such lines")
        if not lines:
            raise UsageError(f"{config.input}: holds no texts")
        return lines
    columns = TaskDataConfig(text=config.text, header=config.header)
    rows = read_rows(config.input, "classify", columns, labelled=False)
    return [str(row.text) for row in rows]


def _parts(
    embedder: Embedder, texts: Sequence[str], directory: str, key: str
) -> Iterator[np.ndarray]:
    """Vectors of each part, from disk where a call before this one has made them."""
    filesystem.make_directory(directory)
    there = set(filesystem.list_names(directory))
    count = -(-len(texts) // PART)
    made, skipped, began = 0, 0, time.monotonic()
    display = ProgressBar()
    display.start("embedding", len(texts), " texts")
    for number in range(count):
        name = f"{key[:16]}-{number:06d}.npy"
        path = f"{directory}/{name}"
        if name in there:
            skipped += 1
            yield np.load(io.BytesIO(filesystem.read_bytes(path)))
            continue
        part = texts[number * PART : (number + 1) * PART]
        vectors = embedder(part)
        data = io.BytesIO()
        np.save(data, vectors)
        filesystem.write_bytes(path, data.getvalue())
        made += len(part)
        display.update(number * PART + len(part))
        yield vectors
    display.clear()
    if skipped:
        print(f"{skipped} of {count} parts were there from an interrupted call")
    if made:
        rate = made / max(time.monotonic() - began, 1e-9)
        print(f"{made:,} texts embedded, {quantity(rate)} texts/s", flush=True)


def embed(config: EmbedConfig) -> tuple[int, int]:
    """Write the vectors of a file's texts; returns (texts, width).

    NPZ and NPY hold `vectors` float32 `[texts, d]`, Parquet a column `vector` beside `text`. An
    interrupted call continues with the parts in `OUTPUT.parts`, which are removed at the end.
    Raises `UsageError` naming the file, line or flag of what cannot be used.
    """
    ending = next((e for e in _ENDINGS if config.output.lower().endswith(e)), None)
    if ending is None:
        raise OptionError(f"--output {config.output}: must end with {', '.join(_ENDINGS)}")
    if config.batch_size < 1:
        raise OptionError(f"--batch_size {config.batch_size}: must be at least 1")
    if ending == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise OptionError(
                f"--output {config.output}: Parquet needs pyarrow: pip install 'tpu-tlm[parquet]'"
            ) from None
    texts = _texts(config)
    source = load_source(
        config.model,
        step=config.step,
        tokenizer=config.tokenizer,
        mead_config=config.mead_config,
    )
    embedder = Embedder(
        source,
        pooling=config.pooling,
        max_length=config.max_length,
        batch_size=config.batch_size,
        normalize=config.normalize,
    )
    hashes = [filesystem.sha256(v.tobytes()) for _, v in sorted(source.encoder.items())]
    how: list[Any] = [config.pooling, config.max_length, config.normalize, hashes, texts]
    how.append(source.tokenizer.fingerprint())
    key = filesystem.sha256(json.dumps(how).encode())
    directory = f"{config.output}.parts"
    vectors = np.concatenate(list(_parts(embedder, texts, directory, key)))
    filesystem.write_bytes(config.output, _encoded(ending, vectors, texts))
    for name in filesystem.list_names(directory):
        filesystem.remove(f"{directory}/{name}")
    with contextlib.suppress(OSError):
        os.rmdir(directory)  # object storage has no directories
    return vectors.shape[0], vectors.shape[1]


def _encoded(ending: str, vectors: np.ndarray, texts: Sequence[str]) -> bytes:
    data = io.BytesIO()
    if ending == ".npz":
        np.savez(data, vectors=vectors)
    elif ending == ".npy":
        np.save(data, vectors)
    else:
        import pyarrow
        from pyarrow import parquet

        column = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(vectors.reshape(-1)), vectors.shape[1]
        )
        parquet.write_table(pyarrow.table({"text": list(texts), "vector": column}), data)
    return data.getvalue()
