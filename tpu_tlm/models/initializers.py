"""The initial values of a model's variables."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from tpu_tlm.config import ModelConfig

if TYPE_CHECKING:
    from tpu_tlm.models.base import TransformerModel

# MEAD draws the token table uniformly within this.
_MEAD_TABLE = 0.1
# Threads that draw the values of variables, and variables that are drawn before they are taken.
_THREADS = 4
# The matrices at the end of a residual branch.
_BRANCH_ENDS = ("w_O/kernel", "squeeze/kernel", "from_sgu/kernel")


def _generator(seed: int, path: str) -> np.random.Generator:
    # Keyed by path: a variable's values do not change when another is added.
    return np.random.Generator(
        np.random.Philox(key=np.array([seed, zlib.crc32(path.encode())], np.uint64))
    )


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Normal values, redrawn beyond two standard deviations (BERT's initialization)."""
    values = np.asarray(rng.standard_normal(shape, dtype=np.float32))
    flat = values.reshape(-1)
    beyond = np.flatnonzero(np.abs(flat) > 2.0)
    # Only what was drawn again can be beyond again.
    while beyond.size:
        again = rng.standard_normal(beyond.size, dtype=np.float32)
        flat[beyond] = again
        beyond = beyond[np.abs(again) > 2.0]
    values *= np.float32(std)
    return values


def _fans(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of a kernel; a fused query-key-value kernel counts as three matrices."""
    if path.endswith("qkv/kernel"):
        return shape[0], shape[2] * shape[3]
    if path.endswith("w_O/kernel"):
        return shape[0] * shape[1], shape[2]
    return shape[0], shape[1]


def _mead_limit(path: str, name: str, shape: tuple[int, ...]) -> float:
    """Half width of MEAD's uniform initialization."""
    if name == "table":
        return _MEAD_TABLE
    if name != "kernel":
        from tpu_tlm.models.positions.registry import find_table

        table = find_table(name)
        if table is not None and table.mead_uniform is not None:
            return table.mead_uniform
    return float(np.sqrt(6.0 / sum(_fans(path, shape))))


def _branches(path: str, config: ModelConfig) -> int:
    """Number of residual branches of the stack that a variable belongs to."""
    if path.startswith("decoder/"):
        return 3 * (config.num_decoder_layers or config.num_layers)
    return config.num_layers if config.mlp else 2 * config.num_layers


def initial_value(path: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> np.ndarray:
    """The float32 initial value of one variable.

    Scales of norms and the bias of a spatial gate start at one, other names that end in `bias` or
    `beta` at zero, the rest by `weight_init`: a normal truncated at two standard deviations
    (bert), or uniform (mead: Glorot's limit for matrices, 0.1 for the token table, what
    `positions.base.Table` says for position tables). With `residual_scaling`, matrices at the end
    of a residual branch are divided by the square root of the number of branches (GPT-2).
    """
    name = path.rsplit("/", 1)[-1]
    if path == "temperature":
        return np.full(shape, config.init_temp, np.float32)
    if name == "gamma" or path.endswith("sgu/proj/bias"):
        return np.ones(shape, np.float32)
    if name.endswith(("bias", "beta")):
        return np.zeros(shape, np.float32)
    rng = _generator(seed, path)
    if config.weight_init == "bert":
        value = _truncated_normal(rng, shape, config.weight_std)
    else:
        limit = _mead_limit(path, name, shape)
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
    """The float32 initial values of the variables with these paths and shapes.

    Functions of (seed, path) alone; with `weight_init: bert` TensorFlow is not needed. Rows of the
    token table after the vocabulary are zero; so is the padding row with `weight_init: mead`.
    They are drawn in threads, a few variables ahead of the one that is taken.
    """

    def made(path: str) -> np.ndarray:
        value = initial_value(path, shapes[path], config, seed)
        if path == "embeddings/x/table":
            value[vocab_size:] = 0.0
            if config.weight_init == "mead":
                value[pad_id] = 0.0
        return value

    ahead: deque[tuple[str, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for path in shapes:
            if len(ahead) == _THREADS:
                first, value = ahead.popleft()
                yield first, value.result()
            ahead.append((path, pool.submit(made, path)))
        for first, value in ahead:
            yield first, value.result()


def initialize(model: TransformerModel, seed: int) -> None:
    """Assign every variable its initial value."""
    from tpu_tlm.models.layers.variables import named_variables

    variables = named_variables(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    for path, value in initial_values(shapes, model.config, model.vocab_size, model.pad_id, seed):
        variables[path].assign(value)
