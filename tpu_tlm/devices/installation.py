"""Checks of an installation before TensorFlow is imported: versions, faults, and their fixes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tpu_tlm.errors import UsageError

# Distributions that a report lists, in its order; importlib.metadata takes any spelling.
DISTRIBUTIONS = (
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-tpu",
    "libtpu",
    "tensorflow-text",
    "keras",
    "numpy",
    "protobuf",
    "tokenizers",
    "fastBPE",
    "zstandard",
    "PyYAML",
)
INSTALL = {
    "tensorflow-cpu": "pip install 'tensorflow-cpu>=2.20,<2.21'",
    "tensorflow": "pip install 'tensorflow[and-cuda]>=2.20,<2.21'",
    "tensorflow-tpu": "pip install tensorflow-tpu==2.20.0 'libtpu>=0.0.14,<0.0.32'",
}
FASTBPE = "pip install cython setuptools wheel && pip install --no-build-isolation fastBPE==0.1.0"

# Requirements besides TensorFlow, as in pyproject.toml.
REQUIRED = {
    "keras": "keras>=3.12,<4",
    "numpy": "numpy>=1.26",
    "tokenizers": "tokenizers>=0.21",
    "zstandard": "zstandard>=0.22",
    "PyYAML": "PyYAML>=6.0",
}

# PCI device ids of TPU chips (Google's network cards have the same vendor id). v2 and v3 share one.
_GOOGLE = "0x1ae0"
_CHIPS = {
    "0x0027": "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "tpu7x",
}

Versions = Mapping[str, str]


@dataclass(frozen=True)
class Finding:
    """A fault of the installation.

    `what`: the fault; `fix`: the one command or step that removes it; `stops`: whether training
    cannot start with it.
    """

    what: str
    fix: str
    stops: bool = True


@dataclass(frozen=True)
class Machine:
    """The hardware facts that decide which packages fit.

    `chips`: generations of its TPU chips; `nvidia`: an NVIDIA driver; `compiler`: a C++ compiler.
    """

    chips: tuple[str, ...] = ()
    nvidia: bool = False
    compiler: bool = True


def machine() -> Machine:
    """Facts about this machine, found without loading a library."""
    compiler = any(shutil.which(name) for name in ("g++", "c++", "clang++"))
    return Machine(tuple(tpu_chips()), Path("/dev/nvidiactl").exists(), compiler)


def installed() -> dict[str, str]:
    """Distribution -> version, for those of `DISTRIBUTIONS` that are installed."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def tpu_chips(devices: Path = Path("/sys/bus/pci/devices")) -> list[str]:
    """Generation of each TPU chip in this machine ("v5e"), from its PCI devices."""
    chips = []
    for vendor in sorted(devices.glob("*/vendor")):
        if vendor.read_text(encoding="ascii").strip() == _GOOGLE:
            chip = _CHIPS.get((vendor.parent / "device").read_text(encoding="ascii").strip())
            if chip:
                chips.append(chip)
    return chips


def libtpu_path() -> str | None:
    """The libtpu.so of the installed `libtpu`, found without importing it."""
    spec = importlib.util.find_spec("libtpu")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "libtpu.so")


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: "2.20.0rc1" -> (2, 20, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[^0-9.]", version)[0]))


def tensorflow_build(versions: Versions) -> str | None:
    """The installed build of TensorFlow by its distribution's name; None without any.

    The TPU build comes before the others where several are installed.
    """
    return next(
        (name for name in ("tensorflow-tpu", "tensorflow", "tensorflow-cpu") if name in versions),
        None,
    )


def tensorflow_findings(
    versions: Versions, here: Machine, *, loads_libtpu: bool = True
) -> list[Finding]:
    """Faults that break the import of TensorFlow, or mix its builds.

    `loads_libtpu`: False where TPU_LOAD_LIBRARY=0 keeps TensorFlow from loading libtpu.
    """
    build = tensorflow_build(versions)
    if build is None:
        fitting = (
            "tensorflow-tpu" if here.chips else "tensorflow" if here.nvidia else "tensorflow-cpu"
        )
        return [Finding("TensorFlow is not installed", INSTALL[fitting])]
    found = _tpu_findings(versions, loads_libtpu) if build == "tensorflow-tpu" else []
    if "tensorflow" in versions and "tensorflow-cpu" in versions:
        what = (
            "tensorflow and tensorflow-cpu are both installed: they share one folder, "
            "and the last one installed has overwritten the other"
        )
        fix = (
            "pip uninstall -y tensorflow-cpu && pip install --force-reinstall --no-deps "
            f"tensorflow=={versions['tensorflow']}"
        )
        found.append(Finding(what, fix, stops=versions["tensorflow"] != versions["tensorflow-cpu"]))
    if numbers(versions[build])[:2] != (2, 20):
        found.append(
            Finding(
                f"{build} {versions[build]} is not 2.20, the tested version",
                INSTALL[build],
                stops=False,
            )
        )
    return found


def hardware_findings(versions: Versions, here: Machine) -> list[Finding]:
    """Accelerators of this machine that the installed TensorFlow cannot use."""
    build = tensorflow_build(versions)
    found = []
    if build in ("tensorflow", "tensorflow-cpu") and here.chips:
        what = (
            f"this machine has TPU chips ({len(here.chips)} {here.chips[0]}), "
            f"and {build} cannot use them"
        )
        found.append(Finding(what, f"pip uninstall -y {build} && {INSTALL['tensorflow-tpu']}"))
    if build == "tensorflow-cpu" and here.nvidia:
        what = "this machine has an NVIDIA GPU, and tensorflow-cpu cannot use it"
        found.append(
            Finding(
                what, f"pip uninstall -y tensorflow-cpu && {INSTALL['tensorflow']}", stops=False
            )
        )
    return found


def _tpu_findings(versions: Versions, loads_libtpu: bool) -> list[Finding]:
    found = []
    tpu, libtpu = f"tensorflow-tpu {versions['tensorflow-tpu']}", versions.get("libtpu")
    stock = [name for name in ("tensorflow", "tensorflow-cpu") if name in versions]
    if stock:
        what = (
            f"{' and '.join(stock)} and tensorflow-tpu are both installed: they share one folder, "
            "and "
            "the last one installed has overwritten the other (tensorflow-text, tf-keras and "
            "keras-hub pull in the stock build: install them with --no-deps)"
        )
        again = (
            f"pip install --force-reinstall --no-deps tensorflow-tpu=={versions['tensorflow-tpu']}"
        )
        found.append(Finding(what, f"pip uninstall -y {' '.join(stock)} && {again}"))
    if libtpu is None:
        found.append(
            Finding(
                f"{tpu} is installed without libtpu, so it sees no TPU", INSTALL["tensorflow-tpu"]
            )
        )
    elif loads_libtpu and numbers(libtpu) >= (0, 0, 32):
        found.append(
            Finding(
                f"libtpu {libtpu} is too new for {tpu}, whose import aborts with it",
                INSTALL["tensorflow-tpu"],
            )
        )
    elif loads_libtpu and numbers(libtpu) < (0, 0, 14):
        found.append(Finding(f"libtpu {libtpu} is too old for {tpu}", INSTALL["tensorflow-tpu"]))
    return found


def package_findings(versions: Versions, here: Machine, python: tuple[int, ...]) -> list[Finding]:
    """Faults of Python's version and of the packages besides TensorFlow."""
    found = []
    if not (3, 10) <= python[:2] < (3, 14):
        found.append(
            Finding(
                f"Python {python[0]}.{python[1]} is not one of 3.10 to 3.13",
                "make clean && PYTHON=python3.11 make env",
            )
        )
    found += [
        Finding(f"{name} is not installed", f"pip install '{need}'")
        for name, need in REQUIRED.items()
        if name not in versions
    ]
    if "keras" in versions and not (3, 12) <= numbers(versions["keras"]) < (4,):
        found.append(
            Finding(
                f"keras {versions['keras']} is not 3.12 or a later 3",
                f"pip install '{REQUIRED['keras']}'",
            )
        )
    found += _text_findings(versions)
    if "fastBPE" not in versions:
        first = "" if here.compiler else "apt-get install -y g++ && "
        why = (
            "is not built"
            if here.compiler
            else "is not built, and there is no C++ compiler to build it"
        )
        found.append(
            Finding(
                f"fastBPE {why}: BPE runs on 'tokenizers', which gives the same tokens",
                first + FASTBPE,
                stops=False,
            )
        )
    return found


def _text_findings(versions: Versions) -> list[Finding]:
    build = tensorflow_build(versions)
    if build is None:
        return []
    wanted = ".".join(versions[build].split(".")[:2])
    no_deps = "" if build == "tensorflow" else "--no-deps "
    fix = f"pip install {no_deps}'tensorflow-text=={wanted}.*'"
    text = versions.get("tensorflow-text")
    if text is None:
        return [
            Finding(
                "tensorflow-text is not installed: SavedModels that take strings cannot be written",
                fix,
                stops=False,
            )
        ]
    if numbers(text)[:2] != numbers(wanted):
        return [
            Finding(
                f"tensorflow-text {text} does not fit {build} {versions[build]}: it cannot be "
                "loaded",
                fix,
            )
        ]
    return []


def refuse(findings: list[Finding]) -> None:
    """Raise `UsageError` with the first finding that stops training, and its fix."""
    for finding in findings:
        if finding.stops:
            raise UsageError(f"{finding.what}; fix: {finding.fix}")
