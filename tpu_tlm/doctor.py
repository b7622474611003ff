"""python -m tpu_tlm.doctor: check the installation, the devices and the file systems."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sys
import textwrap

from tpu_tlm import __version__
from tpu_tlm.config import DoctorConfig, RuntimeConfig, cli
from tpu_tlm.devices import installation, probe, select
from tpu_tlm.devices.installation import Finding, Machine, Versions
from tpu_tlm.devices.probe import Seen
from tpu_tlm.errors import run_command


def seen_findings(
    versions: Versions, here: Machine, seen: Seen, python: tuple[int, ...]
) -> list[Finding]:
    """Faults of TensorFlow as the probe saw it; none where it is not installed."""
    build = installation.tensorflow_build(versions)
    if build is None:
        return []
    again = "pip install --force-reinstall --no-deps"
    if seen.failure:
        return [
            Finding(f"importing TensorFlow {seen.failure}", f"{again} {build}=={versions[build]}")
        ]
    found = []
    if "gs" not in seen.schemes:
        fix = (
            "pip install tensorflow-io-gcs-filesystem"
            if python[:2] < (3, 13)
            else installation.INSTALL[build]
        )
        found.append(Finding("TensorFlow cannot open gs:// files", fix, stops=False))
    if "tensorflow_text" in seen.broken:
        fix = f"{again} tensorflow-text=={versions.get('tensorflow-text', '2.20.*')}"
        found.append(
            Finding(f"tensorflow-text cannot be imported ({seen.broken['tensorflow_text']})", fix)
        )
    if "fastBPE" in seen.broken:
        what = (
            f"fastBPE cannot be imported ({seen.broken['fastBPE']}): BPE runs on 'tokenizers', "
            "which gives the same tokens"
        )
        found.append(
            Finding(what, f"pip uninstall -y fastBPE && {installation.FASTBPE}", stops=False)
        )
    if (
        here.nvidia
        and build == "tensorflow"
        and not any(device.startswith("GPU") for device in seen.devices)
    ):
        what = (
            "there is an NVIDIA driver, and TensorFlow sees no GPU: its CUDA libraries are "
            "missing or do not fit"
        )
        found.append(Finding(what, installation.INSTALL["tensorflow"], stops=False))
    return found


def findings(
    versions: Versions, here: Machine, seen: Seen, python: tuple[int, ...]
) -> list[Finding]:
    """All faults, those that stop training first."""
    known = installation.tensorflow_findings(
        versions, here, loads_libtpu=os.environ.get("TPU_LOAD_LIBRARY") != "0"
    )
    found = [
        *known,
        *installation.hardware_findings(versions, here),
        *installation.package_findings(versions, here, python),
    ]
    # A fault of the versions explains why the import failed; it need not be said twice.
    if not (seen.failure and any(finding.stops for finding in known)):
        found += seen_findings(versions, here, seen, python)
    return sorted(found, key=lambda finding: not finding.stops)


def _line(title: str, text: str) -> str:
    return textwrap.fill(
        text,
        110,
        initial_indent=f"{title:11}" if len(title) < 11 else f"{title} ",
        subsequent_indent=" " * 11,
        break_on_hyphens=False,
    )


def report(versions: Versions, here: Machine, seen: Seen, found: list[Finding]) -> str:
    """The report as text."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(".").free / 2**30
    lines = [
        _line(
            "tpu_tlm",
            f"{__version__} on Python {platform.python_version()}, {platform.system()} "
            f"{platform.machine()}",
        ),
        _line(
            "machine",
            f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {disk:.0f} GiB free on disk here",
        ),
        _line(
            "installed",
            ", ".join(f"{name} {version}" for name, version in versions.items())
            or "nothing that is needed",
        ),
        _line("devices", ", ".join(seen.devices) or "unknown: TensorFlow was not imported"),
        _line("TPU chips", ", ".join(here.chips) or "none in this machine"),
        _line(
            "files",
            ", ".join(f"{scheme}://" for scheme in seen.schemes)
            or "unknown: TensorFlow was not imported",
        ),
    ]
    for finding in found:
        lines += [
            "",
            _line("PROBLEM" if finding.stops else "note", finding.what),
            f"{'  fix:':11}{finding.fix}",
        ]
    problems = sum(finding.stops for finding in found)
    lines += [
        "",
        f"{problems} problem{'s' * (problems > 1)} to fix before training"
        if problems
        else "ready to train",
    ]
    return "\n".join(lines)


def check_places(paths: list[str], as_json: bool) -> int:
    """Try out directories, local or gs://, and print what works; 1 when one cannot be used."""
    from tpu_tlm.filesystem.check import check_place

    checks = {path: check_place(path) for path in paths}
    if as_json:
        told = {path: [dataclasses.asdict(one) for one in found] for path, found in checks.items()}
        print(json.dumps({"places": told}, indent=2))
    for path, found in checks.items() if not as_json else ():
        print(path)
        for one in found:
            state = "ok" if one.good else "PROBLEM" if one.stops else "note"
            print(_line(f"  {one.name}", f"{state}: {one.found}"))
    return int(any(one.stops and not one.good for found in checks.values() for one in found))


def main(argv: list[str] | None = None) -> int:
    """Print what there is, what is wrong and how to fix it; exit code 1 if something stops
    training.

    With paths (gs://BUCKET/DIRECTORY, /directory, ./directory) these are tried out instead.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    paths = [word for word in argv if "://" in word or word.startswith(("/", "./", "../"))]
    rest = [word for word in argv if word not in paths]
    (config,) = cli.parse("tpu_tlm.doctor", __doc__ or "", [DoctorConfig], rest)
    if paths:
        return check_places(paths, config.json)
    versions, here, python = (
        installation.installed(),
        installation.machine(),
        tuple(sys.version_info[:2]),
    )
    environ = select.variables(RuntimeConfig(), versions, here, os.environ) | os.environ
    seen = (
        probe.in_child(environ)
        if installation.tensorflow_build(versions)
        else Seen(failure="was not tried: it is not installed")
    )
    found = findings(versions, here, seen, python)
    if config.json:
        facts = {
            "versions": versions,
            "machine": dataclasses.asdict(here),
            "seen": dataclasses.asdict(seen),
        }
        print(
            json.dumps(
                facts | {"findings": [dataclasses.asdict(finding) for finding in found]}, indent=2
            )
        )
    else:
        print(report(versions, here, seen, found))
    return 1 if any(finding.stops for finding in found) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
