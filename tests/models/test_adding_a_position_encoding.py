"""docs/adding_a_position_encoding.md, executed: file, registry entry and test of the example."""

from __future__ import annotations

import importlib.util
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import fill, keys, small
from tests.paths import ROOT
from tpu_tlm.config import ModelConfig, cli, position_encodings
from tpu_tlm.errors import UsageError
from tpu_tlm.formats.mead.arrays import from_mead, to_mead
from tpu_tlm.models.layers.variables import named_variables
from tpu_tlm.models.registry import build_model
from tpu_tlm.models.spec import ModelSpec

NAME, MODULE = "distance-decay", "tpu_tlm.models.positions.distance_decay"


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """The page's code blocks, the first installed as a module and the second as an entry."""
    text = (ROOT / "docs" / "adding_a_position_encoding.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "distance_decay.py"
    path.write_text(found[0], encoding="utf-8")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, MODULE, module)
    spec.loader.exec_module(module)
    entries = eval("{" + found[1].strip() + "}", dict(vars(position_encodings)))  # noqa: S307
    for name, entry in entries.items():
        monkeypatch.setitem(position_encodings.POSITION_ENCODINGS, name, entry)
    return found


def test_its_test_passes(blocks):
    names = {}
    exec(blocks[2], names)  # noqa: S102
    names["test_distance_decay"]()


def test_the_entry_is_all_that_the_rest_needs(blocks):
    flags = ["--position_encoding", "learned", NAME]
    assert cli.parse("tpu_tlm.train", "", [ModelConfig], flags)[0].position_encoding == flags[1:]
    with pytest.raises(UsageError, match=NAME):
        cli.parse("tpu_tlm.train", "", [ModelConfig], ["--position_encoding", "distance"])
    spec = ModelSpec(small(position_encoding=[NAME]), 20, 8, kind="clm")
    model = fill(build_model(spec))
    values = {path: v.numpy() for path, v in named_variables(model).items()}
    arrays = to_mead(values, spec)
    assert "tpu_tlm/encoder/0/attn/decay_rate" in arrays
    assert set(from_mead(arrays, spec, "test")) == set(values)
    x = tf.constant(np.random.default_rng(1).integers(1, 20, (3, 8)), tf.int32)
    full, caches = model(x), model.caches(3, 8, tf.constant(0))
    for i in range(8):
        for cache in caches:
            cache.position = tf.constant(i)
        np.testing.assert_allclose(model.step(x, tf.constant(i), caches), full[:, i], atol=2e-4)
    assert np.abs(model(x, key=keys(0, 3)) - full).max() > 0
