"""Which slice is planned for, and what the process that compiles is told."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import tpu_tlm as tlm
from tpu_tlm.devices.installation import Machine
from tpu_tlm.errors import UsageError
from tpu_tlm.plan import main
from tpu_tlm.planning import environment, launch


@pytest.mark.parametrize(
    ("chips", "environ", "expected"),
    [
        (("v5e",), {"TPU_ACCELERATOR_TYPE": "v5litepod-1"}, "v5e-1"),
        # A host of a larger slice has but four of its chips.
        (("v5e",) * 4, {"TPU_ACCELERATOR_TYPE": "v5litepod-16"}, "v5e-16"),
        ((), {"TPU_ACCELERATOR_TYPE": "v6e-8"}, "v6e-8"),
        (("v6e",), {}, "v6e-1"),
        (("v5p",) * 4, {"TPU_ACCELERATOR_TYPE": "tpu-v5p-slice"}, "v5p-8"),
    ],
)
def test_local_is_the_machine_s_own_tpu(
    chips: tuple[str, ...], environ: dict[str, str], expected: str
) -> None:
    assert launch.slice_name("local", Machine(chips), environ) == expected


@pytest.mark.parametrize(("chips", "what"), [((), "no TPU"), (("v4",) * 4, "v4-4")])
def test_local_without_a_tpu_that_can_be_planned_for_is_wrong_use(
    chips: tuple[str, ...], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        launch.slice_name("local", Machine(chips), {})


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that writes the arguments of its plan to `told.json`, on a machine with a TPU."""
    monkeypatch.setattr(environment, "VERSIONS", {"no-such-package": "1.0"})
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-8")
    python = tmp_path / "python"
    told = tmp_path / "told.json"
    # Of `python -c CODE LOCATION MODULE ...`.
    code = f"import json, sys; open({str(told)!r}, 'w').write(json.dumps(sys.argv[5:]))"
    python.write_text(f"#!{sys.executable}\n{code}\nprint('{{\"step\": 1}}')\n")
    python.chmod(0o755)
    return python


def test_the_function_names_the_slice(compiler: Path) -> None:
    config = tlm.Config(steps=5, batch_size=8)
    assert tlm.plan(config, "local", plan_python=compiler, seq_length=16) == {"step": 1}
    told = json.loads(compiler.with_name("told.json").read_text())
    assert told[told.index("--tpu") + 1] == "v6e-8"


def test_the_command_names_the_slice_in_place_of_local(compiler: Path) -> None:
    given = ["--tpu", "local", "--plan_python", str(compiler), "--seq_length", "16"]
    assert main(given) == 0
    told = json.loads(compiler.with_name("told.json").read_text())
    assert told == [*given, "--tpu", "v6e-8"]
