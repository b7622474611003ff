"""A `MultiWorkerMirroredStrategy` over the workers of TF_CONFIG, one process each."""

from __future__ import annotations

import atexit
import contextlib
import signal
import threading
from typing import Any

from tpu_tlm.distributed.peers import PeerGroup
from tpu_tlm.distributed.rendezvous import meet
from tpu_tlm.distributed.tf_config import Cluster
from tpu_tlm.distributed.watchdog import guarded
from tpu_tlm.errors import TlmError

# All workers are ready when TensorFlow connects them, which then takes a second or two; but it
# waits without end for a worker that dies meanwhile.
_CONNECTING = 180.0
_STUCK = (
    "the workers found one another, but TensorFlow could not connect them within {:.0f} s; "
    "start the job again"
)


def _resolver(cluster: Cluster, gpus: int) -> Any:
    """The cluster in TensorFlow's terms, which has no `master`. `gpus`: those of this machine."""
    import tensorflow as tf

    spec = tf.train.ClusterSpec({"worker": list(cluster.addresses)})
    here: dict[str, Any] = {
        "task_type": "worker",
        "task_id": cluster.host,
        "num_accelerators": {"GPU": gpus},
    }
    return tf.distribute.cluster_resolver.SimpleClusterResolver(spec, rpc_layer="grpc", **here)


def start(
    cluster: Cluster, timeout: float, *, trust_network: bool = False
) -> tuple[Any, PeerGroup]:
    """The strategy over the workers of a job, and the connections to them.

    `timeout`: seconds within which all must be connected. `trust_network`: see
    `handshake.trust_of`. Raises `TlmError` naming missing workers, or where TensorFlow cannot
    connect them; `PeerLost` where one of them dies meanwhile.
    """
    alone = len(cluster.addresses) == 1
    peers = PeerGroup() if alone else meet(cluster, timeout, trust_network=trust_network)
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    communication = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=communication.NCCL if gpus else communication.RING
    )
    try:
        # TensorFlow's own wait for the others cannot be interrupted: none begins before all can.
        peers.gather("TensorFlow is loaded")
        with (
            guarded(_CONNECTING, _STUCK.format(_CONNECTING))
            if not alone
            else contextlib.nullcontext()
        ):
            strategy = tf.distribute.MultiWorkerMirroredStrategy(
                _resolver(cluster, len(gpus)), options
            )
    except (tf.errors.OpError, RuntimeError, TlmError) as error:
        why = peers.explained(error)
        if not isinstance(why, TlmError):
            said = str(error).strip().splitlines() or [type(error).__name__]
            why = TlmError(
                f"TensorFlow could not connect {cluster.title(cluster.host)} to the others: "
                f"{said[0]}"
            )
        peers.fail(why)
        raise why from (None if why is error else error)
    finally:
        if not alone:
            atexit.register(peers.end_now)
    if threading.current_thread() is threading.main_thread():
        # TensorFlow installs its own SIGTERM handler, which does nothing: restore Python's.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    return strategy, peers
