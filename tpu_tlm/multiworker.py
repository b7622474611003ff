"""Starting several workers, one process each, from TF_CONFIG."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from tpu_tlm.cluster import Cluster
from tpu_tlm.errors import TlmError
from tpu_tlm.meeting import meet
from tpu_tlm.team import Team

# All workers stand ready when TensorFlow connects them, which then takes a second or two; one that dies in it is waited for without end.
_CONNECTING = 180.0
# A process of its own: TensorFlow holds Python's lock while it connects, so no thread of this one could act.
_GUARD = """
import os, select, sys
seconds, process = float(sys.argv[1]), int(sys.argv[2])
if not select.select([0], [], [], seconds)[0]:
    os.write(2, b"error: the workers met, but TensorFlow could not connect them within %d s; start the job again\\n" % seconds)
    os.kill(process, 9)
"""


@contextlib.contextmanager
def _guarded(seconds: float = _CONNECTING) -> Iterator[None]:
    command = [sys.executable, "-I", "-S", "-c", _GUARD, str(seconds), str(os.getpid())]
    # Its standard input ends when the block does, or this process.
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        yield


def start(cluster: Cluster, timeout: float) -> tuple[Any, Team]:
    """A `tf.distribute.MultiWorkerMirroredStrategy` over the workers of a job, and the line to them.

    timeout: seconds within which all must have come. Raises `TlmError` naming those that did not, or where TensorFlow cannot connect them.
    """
    alone = len(cluster.addresses) == 1
    team = Team() if alone else meet(cluster, timeout)
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    communication = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(implementation=communication.NCCL if gpus else communication.RING)
    # TensorFlow's own wait for the others cannot be interrupted: nobody begins it before all can.
    team.gather("TensorFlow is loaded")
    with _guarded() if not alone else contextlib.nullcontext():
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
        except (tf.errors.OpError, RuntimeError) as error:
            raise TlmError(
                f"TensorFlow could not connect {cluster.title(cluster.host)} to the others: {str(error).splitlines()[0]}"
            ) from error
    if threading.current_thread() is threading.main_thread():
        # TensorFlow has taken SIGTERM to itself, where it does nothing: give it back.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
    if not alone:
        atexit.register(team.end_now)
    return strategy, team
