"""Every known fault of an installation is found from versions alone, with the command that fixes
it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tpu_tlm.devices import installation
from tpu_tlm.devices.installation import (
    Finding,
    Machine,
    hardware_findings,
    numbers,
    package_findings,
    tensorflow_findings,
)
from tpu_tlm.errors import UsageError

PLAIN = Machine()
CPU = {
    "tensorflow-cpu": "2.20.0",
    "tensorflow-text": "2.20.1",
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "tokenizers": "0.23.3",
    "fastBPE": "0.1.0",
    "zstandard": "0.25.0",
    "PyYAML": "6.0.3",
}
TPU = {k: v for k, v in CPU.items() if k != "tensorflow-cpu"} | {
    "tensorflow-tpu": "2.20.0",
    "libtpu": "0.0.31",
}
PAIR = "pip install tensorflow-tpu==2.20.0 'libtpu>=0.0.14,<0.0.32'"


def without(versions: dict[str, str], name: str) -> dict[str, str]:
    """The versions but for one."""
    return {k: v for k, v in versions.items() if k != name}


def one(findings: list[Finding]) -> Finding:
    """The only finding."""
    assert len(findings) == 1, findings
    return findings[0]


@pytest.mark.parametrize(
    "versions", [CPU, TPU, without(CPU, "tensorflow-cpu") | {"tensorflow": "2.20.0"}]
)
def test_a_good_installation_has_no_finding(versions: dict[str, str]) -> None:
    assert tensorflow_findings(versions, PLAIN) == []
    assert package_findings(versions, PLAIN, (3, 13)) == []
    assert hardware_findings(versions, PLAIN) == []


@pytest.mark.parametrize(
    ("machine", "fix"),
    [
        (PLAIN, "tensorflow-cpu"),
        (Machine(nvidia=True), "tensorflow[and-cuda]"),
        (Machine(("v5e",)), "tensorflow-tpu=="),
    ],
)
def test_no_tensorflow_is_mended_by_the_build_that_fits(machine: Machine, fix: str) -> None:
    finding = one(tensorflow_findings({}, machine))
    assert finding.what == "TensorFlow is not installed"
    assert fix in finding.fix
    assert finding.stops


@pytest.mark.parametrize("version", ["0.0.32", "0.0.32.1", "0.0.52", "0.1.0"])
def test_libtpu_too_new(version: str) -> None:
    finding = one(tensorflow_findings(TPU | {"libtpu": version}, PLAIN))
    assert f"libtpu {version} is too new" in finding.what
    assert finding.fix == PAIR
    assert finding.stops


@pytest.mark.parametrize("version", ["0.0.14", "0.0.21.1", "0.0.31"])
def test_libtpu_that_loads(version: str) -> None:
    assert tensorflow_findings(TPU | {"libtpu": version}, PLAIN) == []


def test_libtpu_too_old_or_missing() -> None:
    assert "too old" in one(tensorflow_findings(TPU | {"libtpu": "0.0.10"}, PLAIN)).what
    assert "without libtpu" in one(tensorflow_findings(without(TPU, "libtpu"), PLAIN)).what


def test_libtpu_that_is_not_loaded_does_no_harm() -> None:
    assert tensorflow_findings(TPU | {"libtpu": "0.0.52"}, PLAIN, loads_libtpu=False) == []


def test_stock_build_over_the_tpu_build() -> None:
    finding = one(tensorflow_findings(TPU | {"tensorflow": "2.20.0"}, PLAIN))
    assert "both installed" in finding.what
    assert finding.fix == (
        "pip uninstall -y tensorflow && pip install --force-reinstall --no-deps "
        "tensorflow-tpu==2.20.0"
    )
    assert finding.stops


@pytest.mark.parametrize(("other", "stops"), [("2.20.0", False), ("2.19.0", True)])
def test_stock_build_over_the_cpu_build(other: str, stops: bool) -> None:
    finding = one(
        tensorflow_findings(CPU | {"tensorflow": other} | {"tensorflow-cpu": "2.20.0"}, PLAIN)[:1]
    )
    assert "tensorflow and tensorflow-cpu are both installed" in finding.what
    assert finding.stops is stops


def test_another_tensorflow_is_named_but_not_refused() -> None:
    finding = one(tensorflow_findings(CPU | {"tensorflow-cpu": "2.21.0"}, PLAIN))
    assert "2.21.0 is not 2.20" in finding.what
    assert not finding.stops


def test_accelerators_that_the_build_cannot_use() -> None:
    chips = one(hardware_findings(CPU, Machine(("v6e",) * 4)))
    assert "TPU chips (4 v6e), and tensorflow-cpu" in chips.what
    assert chips.fix == f"pip uninstall -y tensorflow-cpu && {PAIR}"
    assert chips.stops
    assert hardware_findings(TPU, Machine(("v6e",))) == []
    assert not one(hardware_findings(CPU, Machine(nvidia=True))).stops


@pytest.mark.parametrize("python", [(3, 9), (3, 14)])
def test_python_out_of_range(python: tuple[int, int]) -> None:
    finding = one(package_findings(CPU, PLAIN, python))
    assert f"Python {python[0]}.{python[1]}" in finding.what
    assert finding.stops


@pytest.mark.parametrize("name", ["keras", "numpy", "tokenizers", "zstandard", "PyYAML"])
def test_missing_requirement(name: str) -> None:
    finding = one(package_findings(without(CPU, name), PLAIN, (3, 11)))
    assert finding.what == f"{name} is not installed"
    assert finding.fix.startswith(f"pip install '{name}")


@pytest.mark.parametrize("version", ["2.15.0", "3.11.3", "4.0.0"])
def test_keras_out_of_range(version: str) -> None:
    assert (
        f"keras {version}" in one(package_findings(CPU | {"keras": version}, PLAIN, (3, 11))).what
    )


def test_fastbpe_not_built_with_and_without_a_compiler() -> None:
    with_compiler = one(package_findings(without(CPU, "fastBPE"), PLAIN, (3, 11)))
    assert with_compiler.fix == installation.FASTBPE
    assert not with_compiler.stops
    bare = one(package_findings(without(CPU, "fastBPE"), Machine(compiler=False), (3, 11)))
    assert "no C++ compiler" in bare.what
    assert bare.fix == f"apt-get install -y g++ && {installation.FASTBPE}"


def test_tensorflow_text_missing_or_of_another_version() -> None:
    missing = one(package_findings(without(TPU, "tensorflow-text"), PLAIN, (3, 11)))
    assert missing.fix == "pip install --no-deps 'tensorflow-text==2.20.*'"
    assert not missing.stops
    other = one(package_findings(CPU | {"tensorflow-text": "2.21.1"}, PLAIN, (3, 11)))
    assert "tensorflow-text 2.21.1 does not fit tensorflow-cpu 2.20.0" in other.what
    assert other.stops


def test_refuse_raises_the_first_that_stops() -> None:
    installation.refuse([Finding("a", "b", stops=False)])
    with pytest.raises(UsageError, match="c; fix: d"):
        installation.refuse([Finding("a", "b", stops=False), Finding("c", "d")])


def test_numbers_of_versions() -> None:
    assert numbers("2.20.0") == (2, 20, 0)
    assert numbers("2.21.0rc1") == (2, 21, 0)
    assert numbers("2.21.0.dev20251208") == (2, 21, 0)
    assert numbers("0.0.32") > numbers("0.0.31") < numbers("0.0.31.1")


def test_chips_are_told_from_google_s_network_cards(tmp_path: Path) -> None:
    for number, (vendor, device) in enumerate(
        [("0x1ae0", "0x0042"), ("0x1ae0", "0x0063"), ("0x1ae0", "0x0063"), ("0x10de", "0x006f")]
    ):
        slot = tmp_path / f"0000:00:0{number}.0"
        slot.mkdir()
        (slot / "vendor").write_text(f"{vendor}\n")
        (slot / "device").write_text(f"{device}\n")
    assert installation.tpu_chips(tmp_path) == ["v5e", "v5e"]
    assert installation.tpu_chips(tmp_path / "none") == []


def test_installed_knows_what_is_here() -> None:
    versions = installation.installed()
    assert numbers(versions["numpy"]) >= (1, 26)
    assert installation.tensorflow_build(versions) is not None
