"""Start-up of a TPU: TensorFlow's environment variables, and known failures as one line each."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

from tpu_tlm.devices import installation
from tpu_tlm.distributed.watchdog import guarded
from tpu_tlm.errors import TlmError, UsageError

# The TPU runtime is a plug-in (PJRT) since TensorFlow 2.15; without the first two variables
# TensorFlow uses the older runtime, which chips from v5e on refuse. The flags are those of the
# bridge that prepares a program for a TPU.
LOCAL_VARIABLES = {
    "PJRT_DEVICE": "TPU",
    "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
    "TF_XLA_FLAGS": (
        "--tf_mlir_enable_mlir_bridge=true "
        "--tf_mlir_enable_convert_control_to_data_outputs_pass=true "
        "--tf_mlir_enable_merge_control_flow_pass=true"
    ),
}

_INSTALL = installation.INSTALL["tensorflow-tpu"]
_NO_CHIP = (
    "there is no TPU chip in this machine: run on a TPU VM, in a Colab or Kaggle session with a "
    "TPU, "
    "or in a GKE pod that requests google.com/tpu; or give --distribute none"
)
_BUSY = (
    "another process holds the TPU: end it (a notebook's kernel, an earlier run), then run this "
    "again"
)
# Part of TensorFlow's message -> what it means; observed with TensorFlow 2.20 without a TPU.
_REFUSED = "RET_CHECK failure"
_NO_NAME = (
    "TPU names are resolved inside Google Cloud only; on the TPU's own machine give --tpu local"
)
_FAILURES = (
    (
        "No OpKernel was registered to support Op 'ConfigureDistributedTPU'",
        "the installed TensorFlow is built without TPU support; fix: "
        f"pip uninstall -y tensorflow tensorflow-cpu && {_INSTALL}",
    ),
    (
        "No matching devices found for '/device:TPU_SYSTEM:0'",
        f"libtpu was not loaded; fix: unset TPU_LOAD_LIBRARY; {_INSTALL}",
    ),
    ("libtpu multi-process lockfile", _BUSY),
    ("already in use", _BUSY),
    ("Name or service not known", _NO_NAME),
    ("Temporary failure in name resolution", _NO_NAME),
    (
        "googleapiclient",
        "resolving a TPU by name needs Google's client; fix: "
        "pip install google-api-python-client oauth2client",
    ),
)


def is_here(machine: installation.Machine, environ: Mapping[str, str]) -> bool:
    """Whether this machine has a TPU: by its chips, or by its environment where they are hidden."""
    return bool(machine.chips) or "TPU_ACCELERATOR_TYPE" in environ


def local_variables() -> dict[str, str]:
    """Environment variables for this machine's TPU, to be set before TensorFlow is imported."""
    path = installation.libtpu_path()
    return LOCAL_VARIABLES | ({"TF_PLUGGABLE_DEVICE_LIBRARY_PATH": path} if path else {})


def device_name(machine: installation.Machine, environ: Mapping[str, str]) -> str:
    """The TPU's kind, "v5litepod-8" or "v5e"; "TPU" where this machine does not know it."""
    return environ.get("TPU_ACCELERATOR_TYPE") or (machine.chips[0] if machine.chips else "TPU")


def require_local(machine: installation.Machine, environ: Mapping[str, str]) -> None:
    """Raise `TlmError` where there is no chip: TensorFlow with `LOCAL_VARIABLES` would crash."""
    if not is_here(machine, environ):
        raise TlmError(f"--tpu local: {_NO_CHIP}")


def _require_answer(address: str) -> None:
    # TensorFlow itself waits without end for an address that does not answer.
    host, _, port = address.removeprefix("grpc://").partition(":")
    try:
        socket.create_connection((host, int(port or 8470)), timeout=10).close()
    except ValueError:
        raise UsageError(f"--tpu {address}: is not grpc://host:port") from None
    except OSError as error:
        raise TlmError(
            f"--tpu {address}: does not answer ({error.strerror or error}); check that the TPU is "
            "started and in this network"
        ) from None


def explained(name: str, error: Exception) -> TlmError:
    """TensorFlow's failure to start TPU `name` as an error of one line."""
    text = str(error)
    for part, sentence in _FAILURES:
        if part in text:
            return TlmError(f"--tpu {name}: {sentence}")
    if _REFUSED in text:
        if name == "local" and not is_here(installation.machine(), os.environ):
            return TlmError(f"--tpu local: {_NO_CHIP}")
        first = next(line.strip() for line in text.splitlines() if _REFUSED in line)
        fit = "libtpu and TensorFlow must fit (python -m tpu_tlm.doctor)"
        return TlmError(f"--tpu {name}: the TPU's runtime refuses: {first[:300]}; {fit}")
    return TlmError(
        f"--tpu {name}: TensorFlow could not start it: {type(error).__name__}: "
        f"{text.strip().splitlines()[0] if text.strip() else ''}"
    )


def start(name: str, timeout: float) -> Any:
    """A `tf.distribute.TPUStrategy` over all cores of the TPU: "local", a name, or
    grpc://host:port.

    `timeout`: seconds after which the process is killed if TensorFlow still waits. Raises
    `TlmError` with the fix when the TPU cannot be started.
    """
    hosts = []
    if name == "local":
        require_local(installation.machine(), os.environ)
        hosts = [
            host for host in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if host.strip()
        ]
        if len(hosts) > 1:
            print(
                f"warning: TPU_WORKER_HOSTNAMES names {len(hosts)} hosts; slices of several hosts "
                "are untested",
                file=sys.stderr,
                flush=True,
            )
    elif name.startswith("grpc://"):
        _require_answer(name)
    import tensorflow as tf

    stuck = (
        f"--tpu {name}: it did not start within {timeout:g} s; check that no other process holds "
        "it "
        "(--start_timeout waits longer)"
    )
    try:
        with guarded(timeout, stuck):
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
            if name != "local":
                tf.config.experimental_connect_to_cluster(resolver)
            tf.tpu.experimental.initialize_tpu_system(resolver)
            strategy = tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError, ImportError, OSError, IndexError) as error:
        raise explained(name, error) from error
    if len(hosts) > 1 and strategy.extended.num_hosts < len(hosts):
        # Each host would train by itself, in one run directory.
        raise UsageError(
            f"--tpu local: TPU_WORKER_HOSTNAMES names {len(hosts)} hosts, and TensorFlow started "
            f"{strategy.num_replicas_in_sync} chips of {strategy.extended.num_hosts}: use a slice "
            "of one host"
        )
    return strategy
