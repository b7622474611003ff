"""The notebooks' install lines against the packages that Colab's runtimes have, on demand.

`make colab-check`: they are resolved for both kinds of runtimes, and installed for real in a
Debian of Colab's Python. Needs an index of packages; the latter also root and mmdebstrap.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("COLAB_CHECK"),
        reason="packages are installed on demand: make colab-check",
    ),
]
PYTHON = "3.13"
PINS = {kind: ROOT / "tests" / "data_files" / "colab" / f"{kind}.txt" for kind in ("tpu", "gpu")}
NOTEBOOKS = sorted(path.name for path in (ROOT / "colab").glob("*.ipynb"))


def cells(name: str) -> str:
    """All code of a notebook."""
    book = json.loads((ROOT / "colab" / name).read_text())
    found = [cell["source"] for cell in book["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(source) for source in found)


def tpu_requirements(name: str) -> list[str]:
    """What the notebook installs on a TPU runtime before this package."""
    (line,) = [
        li for li in cells(name).splitlines() if "pip install" in li and "tensorflow-tpu" in li
    ]
    return re.findall(r'"([^"]+)"', line)


def own_requirement(name: str) -> str:
    """This package with the extras that the notebook asks for, from the working tree."""
    (package,) = re.findall(r'^package = "(tpu-tlm[^" ]*) @ git', cells(name), re.M)
    return f"{package} @ file://{ROOT}"


def pinned(kind: str) -> dict[str, str]:
    lines = [li for li in PINS[kind].read_text().splitlines() if "==" in li]
    return {_plain(name): version for name, _, version in (li.partition("==") for li in lines)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.split("[")[0]).lower()


def resolved(kind: str, requirements: list[str]) -> dict[str, str]:
    """Name -> version of what pip would have in the runtime; fails where a pin would change."""
    argv = ["-m", "uv", "pip", "compile", "-q", "--no-header", "--no-annotate", "-"]
    argv += ["--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_35"]
    done = subprocess.run(
        [sys.executable, *argv, "-c", str(PINS[kind])],
        input="\n".join(requirements),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "==" in line]
    return {_plain(name): version for name, _, version in (li.partition("==") for li in lines)}


@pytest.mark.parametrize("kind", PINS)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_changes_no_package_of_the_runtime(name: str, kind: str) -> None:
    given = tpu_requirements(name) if kind == "tpu" else ["tensorflow"]
    found, there = resolved(kind, [*given, own_requirement(name)]), pinned(kind)
    assert {n: v for n, v in found.items() if n in there and there[n] != v} == {}
    assert found["tensorflow-tpu" if kind == "tpu" else "tensorflow"].startswith("2.20.")
    added = sorted(set(found) - set(there))
    print(f"{name} adds to the {kind} runtime: {' '.join(added)}")
    assert len(added) < 20 and not {"jax", "torch", "keras", "numpy", "protobuf"} & set(added)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a Debian with Colab's Python."""
    if os.geteuid() or not shutil.which("mmdebstrap"):
        pytest.skip("needs root and mmdebstrap")
    root = tmp_path_factory.mktemp("colab") / "root"
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    made = ["mmdebstrap", "-q", "--variant=minbase", f"--include={packages}", "trixie", str(root)]
    subprocess.run(made, check=True)
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("name", "imported"),
    [
        ("pretrain_on_tpu.ipynb", "tpu_tlm.train"),
        ("finetune.ipynb", "sklearn.metrics, scipy.stats"),
    ],
)
def test_it_trains_in_the_python_of_the_tpu_runtime(
    name: str, imported: str, runtime: Path, tmp_path: Path
) -> None:
    from tests.colab.runner import wheel

    (built,) = wheel(tmp_path).glob("*.whl")
    shutil.copy(built, runtime / "root")
    shutil.copy(PINS["tpu"], runtime / "root" / "pins.txt")
    for path in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if os.path.exists(path):
            shutil.copy(path, f"{runtime}{path}")
    needed, own = tpu_requirements(name), own_requirement(name)
    extra = own.partition(" @")[0].removeprefix("tpu-tlm")
    # Of the runtime's packages those that the install line meets, as they stand there.
    met = resolved("tpu", [*needed, own])
    there = [f"{n}=={v}" for n, v in pinned("tpu").items() if n in met]
    environment = {
        variable: value
        for variable, value in os.environ.items()
        if variable.startswith(("PIP_INDEX", "PIP_EXTRA", "PIP_CERT", "http", "HTTP", "no_proxy"))
    }
    environment |= {
        "PATH": "/usr/sbin:/usr/bin:/bin",
        "TPU_SKIP_MDS_QUERY": "1",
        "HOME": "/root",
    }

    def inside(*argv: str) -> str:
        # TensorFlow asks both about the processors.
        mounts = f"mount -t proc proc {runtime}/proc && mount --bind /sys {runtime}/sys"
        call = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec chroot {runtime} "$@"', "sh"]
        done = subprocess.run([*call, *argv], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
        return done.stdout

    place = f"/opt/{Path(name).stem}"
    inside("python3", "-m", "venv", place)
    python = f"{place}/bin/python"
    pip = (python, "-m", "pip")
    inside(*pip, "install", "-q", "--no-cache-dir", "--no-deps", *there)
    before = set(inside(*pip, "freeze").split())
    inside(*pip, "install", "-q", "--no-cache-dir", *needed)
    inside(*pip, "install", "-q", "--no-cache-dir", f"/root/{built.name}{extra}")
    after = inside(*pip, "freeze").split()
    changed = before - set(after)
    assert changed == set(), "packages of the runtime were replaced"
    inside(*pip, "check")
    inside(python, "-c", f"import {imported}")
    assert "ready to train" in inside(python, "-m", "tpu_tlm.doctor")
    shutil.rmtree(f"{runtime}{place}")
