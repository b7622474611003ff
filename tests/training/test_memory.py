"""Models that are too large for the machine are refused before they are built."""

from __future__ import annotations

import pytest

from tests.toy_runs import fit, options_of
from tpu_tlm.config import ModelConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec
from tpu_tlm.training.memory import check_size


@pytest.mark.parametrize(
    "flags",
    [
        ("--d_model", 10**9),
        ("--d_ff", 2 * 10**9),
        ("--num_layers", 10**9),
        ("--rpr_k", 10**9),
        ("--d_k", 2 * 10**9),
    ],
)
def test_sizes_beyond_any_memory_are_refused_at_once(flags, toy_corpus, tmp_path):
    with pytest.raises(UsageError, match=f"{flags[0]}.*{flags[1]}|parameters"):
        fit(options_of(toy_corpus, tmp_path / "run", *flags))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"position_encoding": ["learned"], "max_positions": 16},
        {"embedding_size": 8},
        {"mlp": True},
        {"shared_layers": True},
        {"d_k": 4},
        {"rpr_k": [1, 5], "rpr_value_on": False},
        {"single_head": True, "num_heads": 1},
    ],
)
def test_the_bound_is_below_the_number_of_parameters(sizes):
    config = ModelConfig(**{"d_model": 32, "d_ff": 16, "num_heads": 2, "num_layers": 2, **sizes})
    spec = ModelSpec(config, vocab_size=30, seq_length=16)
    count = sum(v.shape.num_elements() for v in build_model(spec).trainable_variables)
    check_size(spec, 4 * count)
    check_size(spec, None)
    with pytest.raises(UsageError, match="parameters"):
        check_size(spec, 4 * count // 10)
