"""The device switch: what is set before TensorFlow is imported, what is refused, what comes out;
real starts in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.paths import ROOT
from tests.ports import free_ports
from tpu_tlm.config import RuntimeConfig
from tpu_tlm.devices import installation, select, tpu
from tpu_tlm.devices.installation import Machine
from tpu_tlm.errors import TlmError, UsageError

CPU = {"tensorflow-cpu": "2.20.0"}
TPU = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31"}
V5E = Machine(("v5e",))

CONNECT = """
import json, sys
from tpu_tlm.devices import select
from tpu_tlm.config import RuntimeConfig
from tpu_tlm.errors import run_command

def main(argv):
    config = RuntimeConfig(**json.loads(argv[0]))
    select.prepare(config)
    devices = select.connect(config)
    names = "kind", "replicas", "name", "reason", "hosts", "host", "xla", "is_chief"
    found = {k: getattr(devices, k) for k in names}
    import tensorflow as tf
    if devices.strategy is not None:
        @tf.function
        def ranks():
            one_more = lambda: tf.distribute.get_replica_context().replica_id_in_sync_group + 1
            return devices.strategy.reduce("SUM", devices.strategy.run(one_more), axis=None)
        found["rank_sum"] = int(ranks())
    print(json.dumps(found))

sys.exit(run_command(main, sys.argv[1:]))
"""


def connect(
    environ: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`prepare` and `connect` in a fresh process."""
    env = (
        {k: v for k, v in os.environ.items() if k not in ("TF_CONFIG", "TPU_NAME")}
        | {"PYTHONPATH": str(ROOT)}
        | (environ or {})
    )
    command = [sys.executable, "-c", CONNECT, json.dumps(options)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def connected(environ: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    """The devices that such a process found."""
    done = connect(environ, **options)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def refused(code: int, environ: dict[str, str] | None = None, **options: Any) -> str:
    """The one line that such a process ended with."""
    done = connect(environ, **options)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# On this machine: a processor, and perhaps a GPU.

no_gpu = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")


@no_gpu
def test_auto_is_one_device_and_says_why() -> None:
    found = connected()
    assert found["reason"] == "one device: no TPU, no GPU, no other workers"
    assert (found["kind"], found["replicas"], found["hosts"], found["host"], found["is_chief"]) == (
        "cpu",
        1,
        1,
        0,
        True,
    )
    assert "rank_sum" not in found
    assert found["xla"] is (
        installation.tensorflow_build(installation.installed()) != "tensorflow-tpu"
    )


def test_mirror_over_a_split_processor() -> None:
    found = connected(distribute="mirror", logical_cpus=2)
    assert (found["kind"], found["replicas"], found["rank_sum"]) == ("cpu", 2, 3)
    assert found["reason"] == "mirrored over CPU:0, CPU:1: --distribute mirror"


@no_gpu
def test_mirror_without_gpus_is_refused() -> None:
    assert "--logical_cpus 2 splits the CPU" in refused(2, distribute="mirror")


def test_one_worker_of_one() -> None:
    (port,) = free_ports(1)
    # TensorFlow itself knows no master, and what else is in the cluster does not bother it.
    config = {
        "cluster": {"master": [f"127.0.0.1:{port}"], "other": ["b:1"]},
        "task": {"type": "master", "index": 0},
    }
    found = connected({"TF_CONFIG": json.dumps(config)}, distribute="multiworker")
    assert (found["hosts"], found["host"], found["is_chief"]) == (1, 0, True)
    assert found["rank_sum"] == found["replicas"] * (found["replicas"] + 1) // 2


@pytest.mark.skipif(bool(installation.tpu_chips()), reason="this machine has a TPU")
@pytest.mark.parametrize("options", [{"tpu": "local"}, {"distribute": "tpu"}])
def test_tpu_on_a_machine_without_one(options: dict[str, str]) -> None:
    assert "--tpu local: there is no TPU chip in this machine" in refused(1, **options)


def test_tpu_at_an_address_that_nobody_answers() -> None:
    address = f"grpc://127.0.0.1:{free_ports(1)[0]}"
    assert f"--tpu {address}: does not answer (Connection refused)" in refused(1, tpu=address)
    assert "is not grpc://host:port" in refused(2, tpu="grpc://127.0.0.1:http")


# Choices that contradict one another.


@pytest.mark.parametrize("distribute", ["none", "mirror", "multiworker"])
def test_tpu_with_another_way_to_distribute(distribute: str) -> None:
    with pytest.raises(UsageError, match=f"--tpu local and --distribute {distribute} contradict"):
        select.prepare(RuntimeConfig(tpu="local", distribute=distribute))


def test_logical_cpus_are_for_mirror() -> None:
    with pytest.raises(UsageError, match="--logical_cpus 2 is for --distribute mirror"):
        select.connect(RuntimeConfig(logical_cpus=2))


# TF_CONFIG and choices that leave its workers apart.

TWO = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
PS = {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}
EVALUATOR = {"cluster": {"chief": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}
WITH_MASTER = {
    "cluster": {"master": ["m:1"], "worker": ["a:1"]},
    "task": {"type": "master", "index": 0},
}


@pytest.mark.parametrize(
    ("options", "machine", "tf_config", "words"),
    [
        (
            {"distribute": "none"},
            Machine(),
            TWO,
            "--distribute none: TF_CONFIG names 2 workers, which would train separately in one "
            "--run_dir",
        ),
        (
            {"distribute": "mirror"},
            Machine(),
            WITH_MASTER,
            "--distribute mirror: TF_CONFIG names 2 workers, which would",
        ),
        (
            {"distribute": "tpu"},
            V5E,
            TWO,
            "--distribute tpu takes this machine's TPU: TF_CONFIG names 2 .* one worker per TPU "
            "slice, or",
        ),
        (
            {"tpu": "local"},
            V5E,
            TWO,
            "--tpu local: TF_CONFIG names 2 workers.* --distribute multiworker for GPUs",
        ),
        (
            {},
            V5E,
            TWO,
            "--distribute auto takes this machine's TPU: TF_CONFIG names 2 workers.* one worker "
            "per TPU slice",
        ),
        ({}, Machine(), PS, "task type 'ps' does not train"),
        ({}, V5E, EVALUATOR, "task type 'evaluator' does not train"),
    ],
)
def test_workers_that_would_train_apart(
    options: dict[str, str],
    machine: Machine,
    tf_config: dict[str, Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installation, "machine", lambda: machine)
    monkeypatch.setattr(tpu, "start", lambda *arguments: pytest.fail("a TPU is started"))
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    with pytest.raises(UsageError, match=words):
        select.connect(RuntimeConfig(**options))


def test_commands_that_write_nothing_may_run_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strategy:
        num_replicas_in_sync, extended = 4, SimpleNamespace(num_hosts=1)

    monkeypatch.setattr(installation, "machine", lambda: V5E)
    monkeypatch.setattr(tpu, "start", lambda *arguments: Strategy())
    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO))
    assert select.connect(RuntimeConfig(), trains=False).hosts == 1
    monkeypatch.setenv(
        "TF_CONFIG",
        json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}),
    )
    assert select.connect(RuntimeConfig()).hosts == 1


# Paths that a TPU of another machine does not see.


@pytest.mark.parametrize(
    ("options", "environ", "machine", "paths", "refused"),
    [
        (
            {"tpu": "a"},
            {},
            Machine(),
            {"--train_dir": "data", "--run_dir": "gs://b/run"},
            "--train_dir data: TPU a is another machine",
        ),
        (
            {"tpu": "grpc://10.0.0.2"},
            {},
            Machine(),
            {"--train_dir": "gs://b/d", "--valid_dir": None, "--run_dir": "/r"},
            "--run_dir /r: TPU",
        ),
        (
            {"distribute": "tpu"},
            {"TPU_NAME": "a"},
            Machine(),
            {"--valid_dir": "d"},
            "--valid_dir d: .*gs://",
        ),
        (
            {"tpu": "a"},
            {},
            Machine(),
            {"--train_dir": "gs://b/d", "--valid_dir": None, "--run_dir": "gs://b/run"},
            None,
        ),
        ({"tpu": "local"}, {"TPU_NAME": "a"}, V5E, {"--train_dir": "data"}, None),
        ({}, {}, V5E, {"--train_dir": "data"}, None),
        ({}, {"TPU_NAME": "a"}, Machine(), {"--train_dir": "data"}, None),
    ],
)
def test_paths_of_a_remote_tpu(
    options: dict[str, str],
    environ: dict[str, str],
    machine: Machine,
    paths: dict[str, str | None],
    refused: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installation, "machine", lambda: machine)
    monkeypatch.setattr(os, "environ", environ)
    if refused is None:
        select.check_paths(RuntimeConfig(**options), paths)
    else:
        with pytest.raises(UsageError, match=refused):
            select.check_paths(RuntimeConfig(**options), paths)


@pytest.mark.parametrize(
    "command", ["train --train_dir d --run_dir gs://b/r", "evaluate --model m --data d"]
)
def test_commands_ask_before_they_connect(command: str) -> None:
    """Nobody answers at this address, which would be exit code 1."""
    given = [sys.executable, "-m", "tpu_tlm", *command.split(), "--tpu", "grpc://127.0.0.1:1"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 2
        and " d: TPU grpc://127.0.0.1:1 is another machine" in done.stderr
        and done.stderr.count("\n") == 1
    )


# Variables.


def test_stock_build_needs_no_tpu_variables() -> None:
    assert select.variables(RuntimeConfig(), CPU, Machine(), {}) == {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "KERAS_BACKEND": "tensorflow",
    }


def test_tpu_machine_gets_the_plug_in() -> None:
    for config in (RuntimeConfig(), RuntimeConfig(tpu="local"), RuntimeConfig(distribute="tpu")):
        needed = select.variables(config, TPU, V5E, {})
        assert needed["PJRT_DEVICE"] == "TPU"
        assert needed["NEXT_PLUGGABLE_DEVICE_USE_C_API"] == "true"
        assert "--tf_mlir_enable_mlir_bridge=true" in needed["TF_XLA_FLAGS"]
        assert not {"TPU_SKIP_MDS_QUERY", "TPU_LOAD_LIBRARY"} & set(needed)


def test_tpu_build_leaves_the_tpu_alone_when_not_asked() -> None:
    needed = select.variables(RuntimeConfig(distribute="none"), TPU, V5E, {})
    assert needed["TPU_LOAD_LIBRARY"] == "0"
    assert not {"PJRT_DEVICE", "TPU_SKIP_MDS_QUERY"} & set(needed)


def test_tpu_build_elsewhere_does_not_wait_for_the_metadata_server() -> None:
    needed = select.variables(RuntimeConfig(), TPU, Machine(), {})
    assert (needed["TPU_SKIP_MDS_QUERY"], needed["TPU_LOAD_LIBRARY"]) == ("1", "0")
    assert "PJRT_DEVICE" not in needed
    hidden = select.variables(
        RuntimeConfig(), TPU, Machine(), {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}
    )
    assert "TPU_SKIP_MDS_QUERY" not in hidden and hidden["PJRT_DEVICE"] == "TPU"


def test_a_remote_tpu_gets_no_local_variables() -> None:
    needed = select.variables(RuntimeConfig(tpu="grpc://10.0.0.2:8470"), TPU, Machine(), {})
    assert "PJRT_DEVICE" not in needed


def test_the_name_of_the_tpu() -> None:
    assert select.tpu_name(RuntimeConfig(tpu="a"), {"TPU_NAME": "b"}) == "a"
    assert select.tpu_name(RuntimeConfig(), {"TPU_NAME": "b"}) == "b"
    assert select.tpu_name(RuntimeConfig(), {}) == "local"
    assert tpu.device_name(V5E, {"TPU_ACCELERATOR_TYPE": "v5litepod-8"}) == "v5litepod-8"
    assert tpu.device_name(V5E, {}) == "v5e"


# `prepare` with another installation than this one.


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make `prepare` see other versions and another machine, an environment of its own, and no
    TensorFlow imported yet.
    """

    def set_up(
        versions: dict[str, str], machine: Machine, imported: bool = False
    ) -> dict[str, str]:
        environ: dict[str, str] = {}
        monkeypatch.setattr(installation, "installed", lambda: versions)
        monkeypatch.setattr(installation, "machine", lambda: machine)
        monkeypatch.setattr(os, "environ", environ)
        modules = {k: v for k, v in sys.modules.items() if k != "tensorflow"} | (
            {"tensorflow": os} if imported else {}
        )
        monkeypatch.setattr(sys, "modules", modules)
        return environ

    return set_up


def test_prepare_refuses_a_libtpu_that_aborts(pretend: Any) -> None:
    environ = pretend(TPU | {"libtpu": "0.0.52"}, V5E)
    with pytest.raises(
        UsageError,
        match=(
            "libtpu 0.0.52 is too new .*fix: pip install tensorflow-tpu==2.20.0 "
            "'libtpu>=0.0.14,<0.0.32'"
        ),
    ):
        select.prepare(RuntimeConfig())
    assert environ == {}


def test_prepare_without_the_tpu_does_not_mind_libtpu(pretend: Any) -> None:
    environ = pretend(TPU | {"libtpu": "0.0.52"}, V5E)
    select.quiet()
    assert environ["TPU_LOAD_LIBRARY"] == "0"


def test_prepare_refuses_two_builds(pretend: Any) -> None:
    pretend(TPU | {"tensorflow": "2.20.0"}, V5E)
    with pytest.raises(UsageError, match="both installed"):
        select.prepare(RuntimeConfig())


def test_auto_does_not_pass_a_tpu_by_in_silence(pretend: Any) -> None:
    pretend(CPU, V5E)
    with pytest.raises(UsageError, match="TPU chips .*tensorflow-cpu cannot use them"):
        select.prepare(RuntimeConfig())
    select.prepare(RuntimeConfig(distribute="none"))


def test_prepare_sets_and_keeps_what_was_set(pretend: Any) -> None:
    environ = pretend(TPU, V5E)
    environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
    select.prepare(RuntimeConfig())
    assert environ["PJRT_DEVICE"] == "TPU"
    assert environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_prepare_after_the_import_is_too_late_for_a_tpu(pretend: Any) -> None:
    pretend(TPU, V5E, imported=True)
    with pytest.raises(UsageError, match="TensorFlow was imported before .*PJRT_DEVICE"):
        select.prepare(RuntimeConfig())


# TensorFlow's words for a TPU that does not start, as TensorFlow 2.20 said them.

REFUSED = "Graph execution error:\n\nRET_CHECK failure (tpu_node_interfaces.cc:433) *platform"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "TPUs not found ...: No OpKernel was registered to support Op "
            "'ConfigureDistributedTPU' used by {{node ...}}",
            "without TPU support",
        ),
        (
            "TPUs not found in the cluster. ... No matching devices found for "
            "'/device:TPU_SYSTEM:0' [Op:...]",
            "libtpu was not loaded",
        ),
        (
            REFUSED,
            "the TPU's runtime refuses: RET_CHECK failure (tpu_node_interfaces.cc:433) *platform; "
            "libtpu and TensorFlow must fit",
        ),
        (
            "Internal error when accessing libtpu multi-process lockfile.",
            "another process holds the TPU",
        ),
        ("<urlopen error [Errno -2] Name or service not known>", "inside Google Cloud only"),
        (
            "<urlopen error [Errno -3] Temporary failure in name resolution>",
            "inside Google Cloud only",
        ),
        (
            "something new\nwith more lines",
            "TensorFlow could not start it: ValueError: something new",
        ),
    ],
)
def test_failures_become_sentences(said: str, sentence: str) -> None:
    error = tpu.explained("x", ValueError(said))
    assert isinstance(error, TlmError)
    assert str(error).startswith("--tpu x: ") and sentence in str(error)


@pytest.mark.parametrize(
    ("machine", "environ", "sentence"),
    [
        (Machine(), {}, "there is no TPU chip in this machine"),
        (V5E, {}, "runtime refuses: RET_CHECK failure"),
        (Machine(), {"TPU_ACCELERATOR_TYPE": "v5litepod-4"}, "runtime refuses: RET_CHECK failure"),
    ],
)
def test_a_runtime_that_refuses(
    machine: Machine, environ: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "machine", lambda: machine)
    monkeypatch.setattr(os, "environ", environ)
    assert sentence in str(tpu.explained("local", ValueError(REFUSED)))


# A TensorFlow that waits for its TPU for ever, as it does for one that others hold or that lacks
# hosts.
WAITS = """
import sys, time
from types import SimpleNamespace as Space

resolvers = Space(TPUClusterResolver=lambda name: None)
system = Space(initialize_tpu_system=lambda resolver: time.sleep(60))
distribute = Space(cluster_resolver=resolvers, TPUStrategy=None)
tpu = Space(experimental=system)
sys.modules["tensorflow"] = Space(distribute=distribute, tpu=tpu, config=None)
from tpu_tlm.devices import tpu
tpu.start("local", 0.5)
"""


@pytest.mark.parametrize(
    ("hosts", "warned"), [("t1k-w-0,t1k-w-1", True), ("localhost", False), ("", False)]
)
def test_a_tpu_that_does_not_start_in_time(hosts: str, warned: bool) -> None:
    env = os.environ | {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": hosts}
    done = subprocess.run(
        [sys.executable, "-c", WAITS], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    ended = (
        "error: --tpu local: it did not start within 0.5 s; check that no other process holds it "
        "(--start_timeout waits longer)\n"
    )
    warning = "warning: TPU_WORKER_HOSTNAMES names 2 hosts; slices of several hosts are untested\n"
    assert (done.returncode, done.stderr) == (-9, warned * warning + ended)


ALONE = """
import sys
from types import SimpleNamespace as Space

resolvers = Space(TPUClusterResolver=lambda name: None)
strategy = Space(num_replicas_in_sync=8, extended=Space(num_hosts=int(sys.argv[1])))
distribute = Space(cluster_resolver=resolvers, TPUStrategy=lambda resolver: strategy)
errors = Space(OpError=KeyError)
tpu = Space(experimental=Space(initialize_tpu_system=lambda resolver: None))
sys.modules["tensorflow"] = Space(distribute=distribute, tpu=tpu, errors=errors)
from tpu_tlm.devices import tpu
from tpu_tlm.errors import UsageError
try:
    print(tpu.start("local", 60).num_replicas_in_sync)
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize(("seen", "says"), [("1", "names 2 hosts, and"), ("2", "8\n")])
def test_a_host_that_sees_only_its_own_chips_is_refused(seen: str, says: str) -> None:
    """Every host of the slice would train by itself."""
    env = os.environ | {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "a,b"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, seen],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert says in done.stdout, done.stderr


def test_the_stock_build_s_own_words_are_known() -> None:
    """TensorFlow without a TPU is asked for one, past our own checks."""
    if installation.tensorflow_build(installation.installed()) == "tensorflow-tpu":
        pytest.skip("this is the TPU build")
    code = (
        "import tensorflow as tf, sys\nfrom tpu_tlm.devices import tpu\n"
        "try: "
        "tf.tpu.experimental.initialize_tpu_system(tf.distribute.cluster_resolver.TPUClusterResolver('local'))\n"
        "except tf.errors.OpError as error: print(tpu.explained('local', error))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (
        "--tpu local: the installed TensorFlow is built without TPU support; fix: pip uninstall"
        in done.stdout
    ), done.stderr
