"""Import directions, import circles and file sizes, as ARCHITECTURE.md states them."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "tpu_tlm"
COMMANDS = set(
    (
        "vocab preprocess train evaluate finetune predict embed convert plan doctor report "
        "quickstart"
    ).split()
)
ROOT_MODULES = COMMANDS | {"__init__", "__main__", "api", "errors", "filesystem"}
_ABOVE_MODELS = {"objectives", "tasks", "checkpoints", "formats", "training", "inference"}
_ABOVE_MODELS |= {"planning"}
_NO_MODEL = {"models", *_ABOVE_MODELS}
FORBIDDEN: dict[str, set[str]] = {
    "config": {"data", "devices", "distributed", *_NO_MODEL},
    "filesystem": {"config", "data", "devices", "distributed", *_NO_MODEL},
    "data": {"devices", *_NO_MODEL},
    "devices": {"data", *_NO_MODEL},
    "distributed": {"data", "devices", *_NO_MODEL},
    "models": {"data", "devices", "distributed", *_ABOVE_MODELS},
    "objectives": {"tasks", "checkpoints", "formats", "training", "inference", "planning"},
    "tasks": {"checkpoints", "formats", "training", "inference", "planning"},
    "checkpoints": {"devices", *_NO_MODEL} - {"checkpoints"},
    "formats": {"objectives", "tasks", "training", "inference", "planning"},
    "training": {"inference", "planning"},
    "inference": {"training", "planning"},
}


def _modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def _room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module of ours, whether it is imported when the file is) for each import statement."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in ast.iter_child_nodes(tree)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("tpu_tlm.") and name in MODULES:
                yield name, id(node) in top


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_rooms_below_its_own(name: str) -> None:
    room = _room(name)
    for other, _ in _imports(MODULES[name]):
        assert _room(other) not in FORBIDDEN.get(room, set()) or _room(other) == room, (
            f"{name} imports {other}"
        )
        doors = COMMANDS | {"__main__", "__init__", "api"}
        if _room(other) in COMMANDS and room not in doors:
            pytest.fail(f"{name} imports the command {other}")
        if _room(other) == "from_text" and room not in doors | {"from_text"}:
            pytest.fail(f"{name} imports {other}, which stands above it")


def test_no_module_imports_itself_through_others() -> None:
    graph = {
        name: sorted({other for other, now in _imports(path) if now and other != name})
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_only_the_named_modules_stand_in_the_package_s_root() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= ROOT_MODULES


@pytest.mark.parametrize("name", MODULES)
def test_files_stay_small(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


# What stands at the top of the repository beside rooms, files of trials above all, is a mistake.
TOP = set(
    (
        "benchmarks colab docker docs examples manifests recipes scripts tests tpu_tlm Makefile "
        "constraints.txt pyproject.toml LICENSE CITATION.cff README.md ARCHITECTURE.md "
        "CHANGELOG.md CODE_OF_CONDUCT.md CONTRIBUTING.md SECURITY.md"
    ).split()
)


def test_nothing_else_stands_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("a source archive has no repository")
    paths = [name.decode("utf-8", "surrogateescape") for name in listed.stdout.split(b"\0") if name]
    top = {path.split("/")[0] for path in paths if not path.startswith(".")}
    assert top == TOP
