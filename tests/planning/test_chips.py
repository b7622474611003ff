"""Slices by name."""

from __future__ import annotations

import pytest

from tpu_tlm.devices.peaks import peak_flops
from tpu_tlm.errors import UsageError
from tpu_tlm.planning.chips import CHIPS, GIB, parse_slice


@pytest.mark.parametrize(
    ("name", "topology", "chips"),
    [
        ("v5e-1", "v5e:1x1", 1),
        ("v5e-8", "v5e:2x4", 8),
        ("v5litepod-4", "v5e:2x2", 4),
        ("V6E-256", "v6e:16x16", 256),
        ("v5p-8", "v5p:2x2x1", 4),
    ],
)
def test_names(name, topology, chips):
    slice_ = parse_slice(name)
    assert (slice_.topology, slice_.chips) == (topology, chips)


def test_a_slice_is_called_as_it_was_asked_for():
    assert [parse_slice(name).name for name in ("v5e-8", "v5litepod-8", "v5p-8")] == [
        "v5e-8",
        "v5e-8",
        "v5p-8",
    ]


@pytest.mark.parametrize(
    "name", ["v5e", "v5e-3", "v7-8", "local", "grpc://10.0.0.2:8470", "v5p-5", "v5p-6", ""]
)
def test_what_is_no_slice_is_wrong_use_and_says_what_is(name):
    with pytest.raises(UsageError, match="--tpu") as error:
        parse_slice(name)
    assert "v5" in str(error.value).partition(":")[2]


def test_the_peaks_are_those_of_training():
    assert all(peak_flops(name, "bfloat16") == chip.peak for name, chip in CHIPS.items())


def test_the_memory_is_what_the_compiler_allows():
    assert CHIPS["v5e"].hbm == 15.75 * GIB
