"""What the cells of the notebooks do in Colab and on a TPU; how the notebooks are stored."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tpu_tlm.planning.environment import VERSIONS, find_python

COLAB = ROOT / "colab"
NOTEBOOKS = sorted(path.name for path in COLAB.glob("*.ipynb"))


def _cells(name: str) -> list[dict[str, Any]]:
    return json.loads((COLAB / name).read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_clean(name: str) -> None:
    """No outputs, one cell of parameters with form fields, a badge that names the file itself."""
    cells = _cells(name)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", ())]
    assert all("# @param" in line for line in parameters["source"])
    badge = "".join(cells[0]["source"])
    assert f"/colab/{name}" in badge and "colab-badge.svg" in badge


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_cell_is_explained(name: str) -> None:
    """Before each cell of code stand two sentences or more."""
    cells = _cells(name)
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown", cell["metadata"]["id"]
            text = re.sub(r"^#.*$", "", "".join(before["source"]), flags=re.M)
            assert len(re.findall(r"\.[)]?(?=\s|$)", text)) >= 2, cell["metadata"]["id"]


def _cell(name: str, part: str) -> str:
    """The one cell of code that has `part` in it."""
    (source,) = ["".join(c["source"]) for c in _cells(name) if part in "".join(c["source"])]
    return source


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Calls of a google.colab that notes them; its upload gives two files."""
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("calls = []\n")
    note = "from google.colab import calls\ndef {0}(*args):\n    calls.append({1})\n"
    (package / "drive.py").write_text(note.format("mount", "args"))
    (package / "auth.py").write_text(note.format("authenticate_user", "args"))
    given = "    return {'one.csv': b'text,label\\n', 'two.csv': b'text,label\\n'}\n"
    (package / "files.py").write_text(note.format("upload", "'upload'") + given)
    import google

    monkeypatch.setattr(google, "__path__", [*google.__path__, str(package.parent)])
    from google.colab import calls  # type: ignore[import-not-found]

    yield calls
    for module in [m for m in sys.modules if m.startswith("google.colab")]:
        del sys.modules[module]
    del google.colab


def _opened(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """The names of a notebook after its cell of storage, with these settings."""
    source = _cell(name, "drive.mount").split("if not text:")[0]
    names = source.split("places = [")[1].split("]")[0].split(", ")
    found: dict[str, Any] = {**dict.fromkeys(names, "here"), **settings}
    exec(compile(source, name, "exec"), found)
    return found


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_drive_and_buckets_are_opened(name: str, colab: list[Any]) -> None:
    """For every setting that may be a path there."""
    source = _cell(name, "drive.mount")
    for place in source.split("places = [")[1].split("]")[0].split(", "):
        for path, expected in (
            ("/content/drive/MyDrive/x", [("/content/drive",)]),
            ("gs://bucket/x", [()]),
            ("here", []),
        ):
            _opened(name, {place: path})
            assert colab == expected, (place, path)
            colab.clear()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_upload_is_asked_for_once(name: str, colab: list[Any], tmp_path: Path) -> None:
    asked, kept = ("train", "run_dir") if name == "finetune.ipynb" else ("text", "work")
    settings = {asked: "upload", kept: str(tmp_path / "kept")}
    for _ in range(2):
        path = Path(_opened(name, settings)[asked])
        assert colab == ["upload"]
        files = [path] if asked == "train" else sorted(path.iterdir())
        assert [f.name for f in files] == ["one.csv", "two.csv"][: len(files)]
        assert all(f.read_bytes() == b"text,label\n" for f in files)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_an_upload_without_colab_says_the_way(name: str, tmp_path: Path) -> None:
    asked, kept = ("train", "run_dir") if name == "finetune.ipynb" else ("text", "work")
    with pytest.raises(FileNotFoundError, match=f"Files pane, and set {asked} to the path"):
        _opened(name, {asked: "upload", kept: str(tmp_path / "kept")})


class _Shell:
    """A stand-in for IPython's shell that notes what `!` would run in a cell of these names."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names, self.ran = names, list[str]()

    def system(self, command: str) -> None:
        self.ran.append(command.format_map(self.names))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_package_that_pip_cannot_install_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`!` goes on after a failure, and the next cell would say only that a module is missing."""
    pytest.importorskip("IPython")
    from IPython.core.inputtransformer2 import TransformerManager

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "tpu_tlm" else found("json")
    )
    names: dict[str, Any] = {"package": "tpu-tlm @ git+https://example.org/none"}
    shell = _Shell(names)
    names["get_ipython"] = lambda: shell
    source = TransformerManager().transform_cell(_cell(name, "tensorflow-tpu"))
    with pytest.raises(ModuleNotFoundError, match="`package` may be"):
        exec(compile(source, name, "exec"), names)
    assert [line.partition(" -m ")[2] for line in shell.ran] == [
        'pip install -q "tpu-tlm @ git+https://example.org/none"'
    ]


@pytest.fixture
def plan_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Shell]:
    """Runs the cell of the plan, with other names than a CPU runtime's, in an empty directory."""
    pytest.importorskip("IPython")
    from IPython.core.inputtransformer2 import TransformerManager

    import tpu_tlm as tlm
    from tpu_tlm import filesystem

    monkeypatch.chdir(tmp_path)
    for variable in ("TPU_ACCELERATOR_TYPE", "TPU_TLM_PLAN_PYTHON"):
        monkeypatch.delenv(variable, raising=False)
    source = TransformerManager().transform_cell(_cell("pretrain_on_tpu.ipynb", "tlm.plan("))

    def run(**names: Any) -> _Shell:
        given: dict[str, Any] = dict(tlm=tlm, filesystem=filesystem, sys=sys)
        given |= dict(work="work", preset="bert-tiny", batch_size=8, steps=9, package="tpu-tlm")
        given |= dict(tpu=True, plan_first=False) | names
        shell = _Shell(given)
        given["get_ipython"] = lambda: shell
        exec(compile(source, "plan", "exec"), given)
        return shell

    return run


def _compiler(path: Path, answer: dict[str, Any]) -> None:
    """A Python that gives this answer to every plan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    path.chmod(0o755)


ANSWER = {"batch": 8, "length": 16, "tpu": "v6e-1", "hbm_bytes": 2**30, "hbm_limit_bytes": 2**35}


def test_the_plan_is_for_the_runtime_s_own_chip(
    plan_cell: Callable[..., _Shell],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-1")
    python = tmp_path / ".venv-plan" / "bin" / "python"
    _compiler(python, {"step": {**ANSWER, "fits": True}, "run": {"steps": 9, "hours": 0.5}})
    assert plan_cell().ran == []
    shown = capsys.readouterr().out
    assert "on v6e-1: fits, 1.0 of 32.0 GiB" in shown and "at least 30.0 minutes" in shown
    _compiler(python, {"step": {**ANSWER, "fits": False}})
    plan_cell()
    assert "DOES NOT FIT" in capsys.readouterr().out
    (tmp_path / "work" / "run" / "checkpoints").mkdir(parents=True)
    plan_cell()
    assert "begun already" in capsys.readouterr().out


def test_a_plan_that_cannot_be_made_says_why_and_how(
    plan_cell: Callable[..., _Shell],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a TPU; without the compiler; and where the compiler's environment is to be made."""
    assert plan_cell(tpu=False, plan_first=True).ran == []
    assert "no plan: tpu local: this machine has no TPU" in capsys.readouterr().out
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v6e-1")
    monkeypatch.setattr("tpu_tlm.planning.environment.missing", lambda: ["jax 1 (not installed)"])
    # Not what `make plan-env` has made beside this environment.
    monkeypatch.setattr(find_python, "__defaults__", (tmp_path / "none",))
    assert plan_cell().ran == []
    shown = capsys.readouterr().out
    assert "lacks jax 1" in shown and "tick plan_first" in shown
    made, installed = plan_cell(plan_first=True).ran
    assert made.endswith("-m venv --without-pip .venv-plan")
    assert "--python .venv-plan/bin/python install " in installed and '"tpu-tlm"' in installed
    assert all(f" {name}=={version}" in installed for name, version in VERSIONS.items())
    assert "tick plan_first" not in capsys.readouterr().out
