"""Device selection: variables to set before TensorFlow is imported, and the strategy."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tpu_tlm.config import RuntimeConfig
from tpu_tlm.config.keras_backend import FIX, unusable_backend
from tpu_tlm.devices import installation, program_cache, tpu
from tpu_tlm.devices.quiet_logs import quiet_logs
from tpu_tlm.distributed import multi_worker
from tpu_tlm.distributed.peers import PeerGroup
from tpu_tlm.distributed.tf_config import cluster_of, named, workers
from tpu_tlm.errors import UsageError


@dataclass(frozen=True)
class Devices:
    """The devices of a run.

    `strategy`: a `tf.distribute.Strategy`, or None for one device; `kind`: "cpu", "gpu" or "tpu";
    `replicas`: over all hosts; `host`: the number of this host among `hosts`; `name`: of one device
    ("NVIDIA H200", "v5litepod-8"), for its peak FLOP/s; `reason`: why these were chosen; `xla`:
    whether XLA can compile for them; `peers`: the processes that train together.
    """

    strategy: Any | None
    kind: str
    replicas: int
    name: str
    reason: str
    hosts: int = 1
    host: int = 0
    xla: bool = True
    peers: PeerGroup = field(default_factory=PeerGroup)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the shared files: checkpoints, metrics, exports."""
        return self.host == 0


def _check(config: RuntimeConfig) -> None:
    if config.tpu and config.distribute not in ("auto", "tpu"):
        raise UsageError(
            f"--tpu {config.tpu} and --distribute {config.distribute} contradict each other: "
            "leave one out"
        )
    if config.logical_cpus and config.distribute != "mirror":
        raise UsageError(f"--logical_cpus {config.logical_cpus} is for --distribute mirror")


def _wants_tpu(
    config: RuntimeConfig, machine: installation.Machine, environ: Mapping[str, str]
) -> bool:
    return (
        bool(config.tpu)
        or config.distribute == "tpu"
        or (config.distribute == "auto" and tpu.is_here(machine, environ))
    )


def _refuse_apart(config: RuntimeConfig, wants_tpu: bool, environ: Mapping[str, str]) -> None:
    """Raise `UsageError` where the workers of TF_CONFIG would each train by themselves."""
    cluster = named(environ)
    alone = wants_tpu or config.distribute in ("mirror", "none")
    if cluster is None or len(cluster.addresses) < 2 or not alone:
        return
    apart = (
        f"TF_CONFIG names {len(cluster.addresses)} workers, which would train separately in one "
        "--run_dir"
    )
    if not wants_tpu:
        raise UsageError(
            f"--distribute {config.distribute}: {apart}: give --distribute multiworker, or start "
            "one "
            "worker only"
        )
    flag = (
        f"--tpu {config.tpu}"
        if config.tpu
        else f"--distribute {config.distribute} takes this machine's TPU"
    )
    raise UsageError(
        f"{flag}: {apart}: start one worker per TPU slice, or give --distribute multiworker for "
        "GPUs "
        "or CPUs"
    )


def tpu_name(config: RuntimeConfig, environ: Mapping[str, str]) -> str:
    """The TPU to use: from the option, else from TPU_NAME, else this machine's own."""
    return config.tpu or environ.get("TPU_NAME") or "local"


def check_paths(config: RuntimeConfig, paths: Mapping[str, str | None]) -> None:
    """Raise `UsageError` for a path on this machine's disk where a remote TPU could not reach it.

    `paths`: by flag. The TPU's own host reads and writes. Call it before `connect`.
    """
    name = tpu_name(config, os.environ)
    if name == "local" or not _wants_tpu(config, installation.machine(), os.environ):
        return
    for flag, path in paths.items():
        if path and "://" not in path:
            raise UsageError(
                f"{flag} {path}: TPU {name} is another machine, which does not see this disk; use "
                "a "
                "bucket, gs://..."
            )


def variables(
    config: RuntimeConfig,
    versions: installation.Versions,
    machine: installation.Machine,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Environment variables that TensorFlow must find when it is imported for this choice."""
    needed = {"TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow"}
    if installation.tensorflow_build(versions) != "tensorflow-tpu":
        return needed
    if not tpu.is_here(machine, environ):
        # Elsewhere libtpu would wait minutes for Google Cloud's metadata server.
        needed["TPU_SKIP_MDS_QUERY"] = "1"
    if not _wants_tpu(config, machine, environ):
        # The TPU stays free for another process, and a libtpu that does not fit does no harm.
        needed["TPU_LOAD_LIBRARY"] = "0"
    elif tpu_name(config, environ) == "local":
        needed |= tpu.local_variables()
    return needed


def prepare(config: RuntimeConfig) -> None:
    """Set the environment for the import of TensorFlow and check the installation.

    Call it before TensorFlow is imported; variables that are already set stay as they are. Raises
    `UsageError` with the fix for an installation that cannot work (libtpu too new, no TensorFlow,
    two builds, TPU chips and a build without TPU) and for contradicting options; `TlmError` for
    `--tpu local` on a machine without a TPU.
    """
    _check(config)
    if problem := unusable_backend(os.environ):
        raise UsageError(f"{problem}: tpu_tlm trains with Keras' TensorFlow backend; {FIX}")
    versions, machine = installation.installed(), installation.machine()
    wanted = _wants_tpu(config, machine, os.environ)
    loads = wanted and os.environ.get("TPU_LOAD_LIBRARY") != "0"
    installation.refuse(installation.tensorflow_findings(versions, machine, loads_libtpu=loads))
    if wanted:
        installation.refuse(installation.hardware_findings(versions, machine))
        if tpu_name(config, os.environ) == "local":
            tpu.require_local(machine, os.environ)
    needed = variables(config, versions, machine, os.environ)
    missing = {key: value for key, value in needed.items() if key not in os.environ}
    if wanted and missing and "tensorflow" in sys.modules:
        names = ", ".join(missing)
        raise UsageError(
            f"TensorFlow was imported before {names} were set; call devices.select.prepare first, "
            "or "
            "set them in the environment"
        )
    os.environ.update(missing)
    if config.xla and not wanted:
        program_cache.start(config.xla_cache)


def quiet() -> None:
    """`prepare` for commands that need no accelerator: TensorFlow on the CPU, without its log."""
    prepare(RuntimeConfig(distribute="none", xla_cache="none"))


def connect(config: RuntimeConfig, *, trains: bool = True) -> Devices:
    """Initialize the devices of this choice; imports TensorFlow.

    `trains`: False for a command that may run on each worker of TF_CONFIG by itself, since it
    writes nothing. Raises `UsageError` where the choice does not fit the machine or TF_CONFIG,
    `TlmError` where a TPU does not start or workers are missing.
    """
    _check(config)
    machine = installation.machine()
    wants_tpu = _wants_tpu(config, machine, os.environ)
    if trains:
        _refuse_apart(config, wants_tpu, os.environ)
    if wants_tpu:
        return _tpu(config, machine)
    if config.distribute == "multiworker":
        return _multiworker(config, "--distribute multiworker")
    if config.distribute == "auto" and workers(os.environ) > 1:
        return _multiworker(config, "TF_CONFIG names several workers")
    import tensorflow as tf

    quiet_logs()
    gpus = tf.config.list_physical_devices("GPU")
    if config.distribute == "mirror" or (config.distribute == "auto" and len(gpus) > 1):
        return _mirror(config, gpus)
    why = (
        "--distribute none"
        if config.distribute == "none"
        else f"no TPU, {len(gpus) or 'no'} GPU, no other workers"
    )
    return Devices(
        None,
        "gpu" if gpus else "cpu",
        1,
        _name(gpus),
        f"one device: {why}",
        xla=bool(gpus) or _host_xla(),
    )


def _host_xla() -> bool:
    # The TPU build of TensorFlow has no XLA for the host's CPU.
    return installation.tensorflow_build(installation.installed()) != "tensorflow-tpu"


def _name(gpus: list[Any]) -> str:
    import tensorflow as tf

    return (
        str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU"))
        if gpus
        else "CPU"
    )


def _tpu(config: RuntimeConfig, machine: installation.Machine) -> Devices:
    name, asked = tpu_name(config, os.environ), config.distribute == "tpu" or bool(config.tpu)
    strategy = tpu.start(name, config.start_timeout)
    replicas = int(strategy.num_replicas_in_sync)
    hosts = int(strategy.extended.num_hosts)
    reason = f"TPU {name}, {replicas} cores: " + ("requested" if asked else "this machine has one")
    return Devices(
        strategy, "tpu", replicas, tpu.device_name(machine, os.environ), reason, hosts=hosts
    )


def _mirror(config: RuntimeConfig, gpus: list[Any]) -> Devices:
    import tensorflow as tf

    if gpus and not config.logical_cpus:
        devices = [f"GPU:{i}" for i in range(len(gpus))]
    else:
        count = config.logical_cpus or len(tf.config.list_logical_devices("CPU"))
        if count < 2:
            raise UsageError(
                "--distribute mirror needs GPUs; to try it without, --logical_cpus 2 splits the "
                "CPU "
                "in two"
            )
        _split_cpu(count)
        devices = [f"CPU:{i}" for i in range(count)]
    strategy = tf.distribute.MirroredStrategy(devices)
    why = (
        "--distribute mirror"
        if config.distribute == "mirror"
        else f"{len(devices)} GPUs and no TPU"
    )
    on_gpu = devices[0].startswith("GPU")
    reason = f"mirrored over {', '.join(devices)}: {why}"
    return Devices(
        strategy,
        "gpu" if on_gpu else "cpu",
        len(devices),
        _name(gpus if on_gpu else []),
        reason,
        xla=on_gpu or _host_xla(),
    )


def _split_cpu(count: int) -> None:
    import tensorflow as tf

    processor = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:  # TensorFlow is already initialized: its devices are fixed
        there = len(tf.config.list_logical_devices("CPU"))
        if there < count:
            raise UsageError(
                f"--logical_cpus {count}: TensorFlow already runs in this process with {there}"
            ) from None


def _multiworker(config: RuntimeConfig, why: str) -> Devices:
    cluster = cluster_of(os.environ)
    strategy, peers = multi_worker.start(
        cluster, config.start_timeout, trust_network=config.trust_network
    )
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    hosts, replicas = len(cluster.addresses), int(strategy.num_replicas_in_sync)
    reason = (
        f"{cluster.title(cluster.host)}, {cluster.host} of {hosts}, {replicas} replicas in all: "
        f"{why}"
    )
    kind, xla = "gpu" if gpus else "cpu", bool(gpus) or _host_xla()
    return Devices(
        strategy,
        kind,
        replicas,
        _name(gpus),
        reason,
        hosts=hosts,
        host=cluster.host,
        xla=xla,
        peers=peers,
    )
