"""Initial values drawn from a truncated normal: the bits of the definition."""

from __future__ import annotations

import numpy as np
import pytest

from tpu_tlm.config import ModelConfig
from tpu_tlm.models.initializers import (
    _generator,
    _truncated_normal,
    initial_value,
    initial_values,
)


def plain(rng, shape, std):
    """All values are looked at again until none is beyond."""
    values = np.asarray(rng.standard_normal(shape, dtype=np.float32))
    while (beyond := np.abs(values) > 2.0).any():
        values[beyond] = rng.standard_normal(int(beyond.sum()), dtype=np.float32)
    return values * np.float32(std)


@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (400, 300), (20, 3, 12, 64)])
def test_values_are_those_of_the_definition(shape):
    for seed in range(20):
        found = _truncated_normal(_generator(seed, "path"), shape, 0.02)
        assert found.dtype == np.float32 and found.shape == shape
        np.testing.assert_array_equal(found, plain(_generator(seed, "path"), shape, 0.02))
        assert (np.abs(found) <= np.float32(0.04)).all()


def test_values_of_many_variables_come_in_order_and_are_those_of_each_alone():
    # Sizes that threads take different times for.
    shapes = {f"encoder/{i}/kernel": (1 + 4000 * (i % 3), 20) for i in range(17)}
    found = list(initial_values(shapes, ModelConfig(), 20, 0, 3))
    assert [path for path, _ in found] == list(shapes)
    for path, value in found:
        np.testing.assert_array_equal(value, initial_value(path, shapes[path], ModelConfig(), 3))
    assert not list(initial_values({}, ModelConfig(), 20, 0, 3))


def test_an_error_in_a_thread_reaches_the_caller():
    with pytest.raises(ValueError, match="negative dimensions"):
        list(initial_values({"a/kernel": (2, 2), "b/kernel": (-1, 2)}, ModelConfig(), 20, 0, 3))
