"""What TensorFlow finds once it is imported, as one line of JSON.

Run in a child process, since a libtpu that does not fit aborts the process.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

SECONDS = 180


@dataclass
class Seen:
    """What an imported TensorFlow offers.

    `version`; `devices` ("GPU: NVIDIA H200"); `schemes` of its file systems; `broken`: extra ->
    why it cannot be imported; `failure`: why TensorFlow itself could not be imported, the rest is
    empty then.
    """

    version: str = ""
    devices: list[str] = field(default_factory=list)
    schemes: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def look() -> Seen:
    """Import TensorFlow in this process and report what it finds."""
    import tensorflow as tf

    seen = Seen(version=tf.__version__)
    for device in tf.config.list_physical_devices():
        # libtpu lists TPU_SYSTEM whether or not there is a TPU.
        if device.device_type != "TPU_SYSTEM":
            name = (
                tf.config.experimental.get_device_details(device).get("device_name")
                if device.device_type == "GPU"
                else None
            )
            seen.devices.append(f"{device.device_type}: {name}" if name else device.device_type)
    seen.schemes = sorted(scheme for scheme in tf.io.gfile.get_registered_schemes() if scheme)
    for module in ("tensorflow_text", "fastBPE"):
        if importlib.util.find_spec(module) is not None:
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a broken extension raises is reported
                seen.broken[module] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return seen


def in_child(environ: Mapping[str, str]) -> Seen:
    """`look` in a child process with this environment; its failure, abort or hang is `failure`."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tpu_tlm.devices.probe"],
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Seen(failure=f"did not end within {SECONDS} seconds")
    last = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == 0 and last.startswith("{"):
        return Seen(**json.loads(last))
    if done.returncode < 0:
        number = -done.returncode
        how = f"was ended by signal {number} ({signal.Signals(number).name})"
    else:
        how = f"ended with exit code {done.returncode}"
    return Seen(failure=f"{how}: {_reason(done.stderr)}")


def _reason(stderr: str) -> str:
    """The most informative line: a fatal log line or an exception, not the stack trace after it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if re.search(r"^F\d{4} |: F ", line)]
    return (fatal or lines[-1:] or ["no message"])[0][:300]


if __name__ == "__main__":
    print(json.dumps(asdict(look())))
