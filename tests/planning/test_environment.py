"""Which Python compiles, and what is said where none can."""

from __future__ import annotations

import sys

import pytest

from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.planning import environment


@pytest.fixture
def make_python(tmp_path):
    def make(*parts: str) -> str:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_flag_comes_first_then_the_variable_then_the_folder_here_then_beside(
    tmp_path, make_python
):
    flag, variable = make_python("flag"), make_python("variable")
    here, beside = (
        make_python("here", ".venv-plan", "bin", "python"),
        make_python("beside", ".venv-plan", "bin", "python"),
    )
    environ = {environment.PYTHON: variable}
    places = tmp_path / "here", tmp_path / "beside"
    assert environment.find_python(flag, environ, *places) == flag
    assert environment.find_python(None, environ, *places) == variable
    assert environment.find_python(None, {}, *places) == here
    assert environment.find_python(None, {}, tmp_path / "elsewhere", places[1]) == beside


def test_without_any_one_line_says_what_is_missing_and_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "VERSIONS", {"libtpu": "99.0", "no-such-package": "1.0"})
    with pytest.raises(UsageError, match="make plan-env") as error:
        environment.find_python(None, {}, tmp_path, tmp_path)
    assert "no-such-package 1.0 (not installed)" in str(error.value) and "\n" not in str(
        error.value
    )


@pytest.mark.parametrize("named", ["flag", "variable"])
def test_a_python_that_is_not_there_is_not_passed_over(named, tmp_path, make_python):
    make_python("here", ".venv-plan", "bin", "python")
    gone = str(tmp_path / "gone")
    given, environ = (gone, {}) if named == "flag" else (None, {environment.PYTHON: gone})
    with pytest.raises(UsageError, match="gone: there is no such program"):
        environment.find_python(given, environ, tmp_path / "here", tmp_path)


def test_versions_must_be_exact(monkeypatch):
    monkeypatch.setattr(environment, "VERSIONS", {"numpy": "0.1"})
    (lack,) = environment.missing()
    assert lack.startswith("numpy 0.1 (here ")
    with pytest.raises(UsageError, match="numpy 0.1"):
        environment.prepare()


def test_the_versions_are_those_of_the_extra():
    tomllib = pytest.importorskip("tomllib")
    root = environment.Path(__file__).resolve().parents[2]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["plan"]
    assert {line.partition(";")[0].strip() for line in extra} == {
        f"{name}=={version}" for name, version in environment.VERSIONS.items()
    }


@pytest.mark.skipif(not environment.missing(), reason="this environment can compile")
def test_the_child_runs_this_package_whatever_is_installed_where_it_runs(capfd, monkeypatch):
    """The child gets no PYTHONPATH, and finds the package by its place."""
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    assert environment.in_child(sys.executable, "tpu_tlm.planning.environment", []) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: this environment cannot compile") and error.count("\n") == 1


def test_a_child_does_not_start_another(monkeypatch):
    monkeypatch.setenv("TPU_TLM_PLAN_CHILD", "1")
    with pytest.raises(UsageError, match="cannot compile for a TPU"):
        environment.in_child(sys.executable, "tpu_tlm.plan", [])


def test_a_killed_child_is_a_failure(tmp_path):
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    with pytest.raises(TlmError, match="signal 9"):
        environment.in_child(str(killer), "tpu_tlm.plan", [])
