"""The initial values of a model's variables."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tpu_tlm.config import ModelConfig

if TYPE_CHECKING:
    from tpu_tlm.models.base import TransformerModel

# Half widths of MEAD's uniform initialisation, by the variable's name.
_MEAD_UNIFORM = {
    "table": 0.1,
    "positions": 0.1,
    "positions_long": 0.1,
    "positions_short": 0.1,
    "rpr_key": 0.05,
    "rpr_value": 0.05,
}
# The matrices at the end of a residual branch.
_BRANCH_ENDS = ("w_O/kernel", "squeeze/kernel", "from_sgu/kernel")


def _generator(seed: int, path: str) -> np.random.Generator:
    # Keyed by path: a variable's values do not change when another is added.
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, zlib.crc32(path.encode())], np.uint64))
    )


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Normal values, those beyond two standard deviations drawn again (BERT's initialisation)."""
    values = rng.standard_normal(shape, dtype=np.float32)
    while (beyond := np.abs(values) > 2.0).any():
        values[beyond] = rng.standard_normal(int(beyond.sum()), dtype=np.float32)
    return values * np.float32(std)


def _fans(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of a kernel; the fused query-key-value kernel counts as the three matrices it stands for."""
    if path.endswith("qkv/kernel"):
        return shape[0], shape[2] * shape[3]
    if path.endswith("w_O/kernel"):
        return shape[0] * shape[1], shape[2]
    return shape[0], shape[1]


def _branches(path: str, config: ModelConfig) -> int:
    """Residual branches of the stack that a variable belongs to."""
    if path.startswith("decoder/"):
        return 3 * (config.num_decoder_layers or config.num_layers)
    return config.num_layers if config.mlp else 2 * config.num_layers


def initial_value(path: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> np.ndarray:
    """The float32 initial value of one variable: norms at one, biases at zero (a spatial gate's at one), the rest by `weight_init`."""
    name = path.rsplit("/", 1)[-1]
    if path == "temperature":
        return np.full(shape, config.init_temp, np.float32)
    if name == "gamma" or path.endswith("sgu/proj/bias"):
        return np.ones(shape, np.float32)
    if name in ("bias", "beta", "rel_bias"):
        return np.zeros(shape, np.float32)
    rng = _generator(seed, path)
    if config.weight_init == "bert":
        value = _truncated_normal(rng, shape, config.weight_std)
    else:
        limit = _MEAD_UNIFORM.get(name)
        if limit is None:
            limit = float(np.sqrt(6.0 / sum(_fans(path, shape))))
        value = rng.uniform(-limit, limit, shape).astype(np.float32)
    if config.residual_scaling and path.endswith(_BRANCH_ENDS):
        value *= np.float32(_branches(path, config) ** -0.5)
    return value


def initial_values(
    shapes: Mapping[str, tuple[int, ...]],
    config: ModelConfig,
    vocab_size: int,
    pad_id: int,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """The float32 initial values of the variables of these paths and shapes, functions of (seed, path) alone; TensorFlow is not needed.

    Rows of the token table past the vocabulary are zero.
    """
    for path, shape in shapes.items():
        value = initial_value(path, shape, config, seed)
        if path == "embeddings/x/table":
            value[vocab_size:] = 0.0
            if config.weight_init == "mead":
                value[pad_id] = 0.0
        yield path, value


def initialize(model: TransformerModel, seed: int) -> None:
    """Give every variable its initial value."""
    from tpu_tlm.models.layers.variables import named_variables

    variables = named_variables(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    for path, value in initial_values(shapes, model.config, model.vocab_size, model.pad_id, seed):
        variables[path].assign(value)
