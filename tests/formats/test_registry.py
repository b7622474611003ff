"""The registry of formats: detection, destinations, and the page that shows how to add one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.paths import DATA_FILES
from tpu_tlm.errors import UsageError
from tpu_tlm.formats import registry
from tpu_tlm.formats.load import load
from tpu_tlm.formats.registry import FORMATS, detect, target_of, targets

BERT = str(DATA_FILES / "hf_golden" / "bert")
PAGE = DATA_FILES.parents[1] / "docs" / "adding_a_format.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_adds_a_format_that_every_command_knows(tmp_path, monkeypatch):
    from tpu_tlm.convert import main

    monkeypatch.setattr(registry, "FORMATS", list(FORMATS))
    scope = {"FORMATS": registry.FORMATS, "SOURCE": BERT, "TARGET": str(tmp_path / "a.plain")}
    format_code, line, test, family = blocks()
    for code in (format_code, line, test):
        exec(compile(code, str(PAGE), "exec"), scope)
    assert main([BERT, str(tmp_path / "b.plain")]) == 0
    assert main([str(tmp_path / "b.plain"), str(tmp_path / "c.npz")]) == 0
    for name in ("a.plain", "b.plain", "c.npz"):
        found = load(str(tmp_path / name))
        for path, value in load(BERT).values.items():
            np.testing.assert_array_equal(found.values[path], value)
    exec(compile(family, str(PAGE), "exec"), scope)
    keys = {key for one in scope["RenamedBert"]().pairs(load(BERT).spec) for key in one.keys}
    assert "encoder.blocks.1.attention.self.query.weight" in keys


def test_every_format_has_a_name_of_its_own():
    names = [one.name for one in FORMATS]
    assert len(set(names)) == len(names) and set(targets()) < set(names)


@pytest.mark.parametrize(
    ("path", "asked", "says"),
    [
        ("x", None, "--to npz, savedmodel, hf, bert"),
        ("x", "npz", "ends with .npz"),
        ("x.npz", "hf", "writes a directory"),
        ("x", "run", "--to run"),
        ("x", "gguf", "--to gguf"),
    ],
)
def test_a_destination_that_does_not_say_its_format(path, asked, says):
    with pytest.raises(UsageError, match=says):
        target_of(path, asked)


def test_what_is_at_a_path(tmp_path):
    assert detect(BERT).name == "hf"
    for name, says in (("nothing", "no such file"), ("", "not a model")):
        with pytest.raises(UsageError, match=says):
            detect(str(tmp_path / name))
    with pytest.raises(UsageError, match="--step"):
        load(BERT, step=3)


def test_a_damaged_newer_checkpoint_is_reported(tmp_path):
    """Every command prints `report()`, which names what was skipped."""
    from tpu_tlm.checkpoints.manager import Checkpoints

    source = load(BERT)
    arrays = {f"model/{path}": value for path, value in source.values.items()}
    checkpoints = Checkpoints(str(tmp_path / "run" / "checkpoints"))
    import json

    state = {"spec": json.loads(source.spec.to_json())}
    for step in (1, 2):
        checkpoints.save(step, arrays, state)
    (newest,) = (tmp_path / "run" / "checkpoints" / "step-00000002").glob("*.data*")
    newest.write_bytes(newest.read_bytes()[:-1])
    found = load(str(tmp_path / "run"))
    assert found.source.endswith("step-00000001")
    assert len(found.skipped) == 1 and "step-00000002" in found.report()[0]
