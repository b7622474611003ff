"""The arrays of an ELMo: names in the file, paths of our variables, shapes."""

from __future__ import annotations

from typing import NamedTuple

from tpu_tlm.config.elmo import CHARACTERS, ElmoConfig


class Array(NamedTuple):
    """One array, in the same orientation in the file and in the model. `name` None: the file has
    no place for it."""

    path: str
    name: str | None
    shape: tuple[int, ...]


def arrays(config: ElmoConfig) -> list[Array]:
    """Every variable of the model, in order."""
    wide, width, dim = config.convolved, config.projection, config.dim
    found = [
        Array("embeddings/char_embed", "char_embed", (CHARACTERS, config.character_size)),
    ]
    for i, (size, count) in enumerate(config.filters):
        kernel = (1, size, config.character_size, count)
        found.append(Array(f"embeddings/cnn{i}/kernel", f"CNN/W_cnn_{i}", kernel))
        found.append(Array(f"embeddings/cnn{i}/bias", f"CNN/b_cnn_{i}", (count,)))
    for i in range(config.highway):
        for part in ("carry", "transform"):
            ours, theirs = f"embeddings/highway{i}/{part}", f"CNN_high_{i}"
            found.append(Array(f"{ours}/kernel", f"{theirs}/W_{part}", (wide, wide)))
            found.append(Array(f"{ours}/bias", f"{theirs}/b_{part}", (wide,)))
    if config.projected:
        found.append(Array("embeddings/projection/kernel", "CNN_proj/W_proj", (wide, width)))
        found.append(Array("embeddings/projection/bias", "CNN_proj/b_proj", (width,)))
    for layer in range(config.layers):
        for number, direction in enumerate(("forward", "backward")):
            ours = f"encoder/{layer}/{direction}"
            theirs = f"RNN_{number}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            found.append(Array(f"{ours}/kernel", f"{theirs}/W_0", (2 * width, 4 * dim)))
            found.append(Array(f"{ours}/bias", f"{theirs}/B", (4 * dim,)))
            if width != dim:
                found.append(Array(f"{ours}/projection", f"{theirs}/W_P_0", (dim, width)))
    found.append(Array("encoder/mix/weights", None, (config.layers + 1,)))
    found.append(Array("encoder/mix/gamma", None, (1,)))
    return found
