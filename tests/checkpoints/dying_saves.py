"""Run as a program: processes that die by SIGKILL inside `Checkpoints.save`, for test_killed.py.

`dying_saves.py stages BASE OUT`: for n = 0, 1, ... a copy OUT/n of BASE, in which a save of step 4
dies at its n-th point; ends with the first n at which it survives. `dying_saves.py moments OUT
COUNT`: COUNT directories in which repeated saves are killed at a random moment.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import time

import numpy as np
import tensorflow as tf  # noqa: F401 - once; every child is a fork, before it starts any thread

from tpu_tlm.checkpoints import tensor_bundle
from tpu_tlm.checkpoints.manager import Checkpoints
from tpu_tlm.filesystem import LocalDisk


def variables(step: int, size: int = 1000) -> dict[str, np.ndarray]:
    return {
        "encoder/kernel": np.arange(size, dtype=np.float32) + step,
        "optimizer/m": np.full((3, 5), step, np.float32),
    }


class DyingDisk(LocalDisk):
    """Kills its process at the n-th point: before, amid and after every change of the disk."""

    def __init__(self, point: int) -> None:
        self.left = point

    def point(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def write(self, path, data, version=None):
        self.point()
        with open(f"{path}.{os.getpid()}.tmp", "wb") as file:
            file.write(data[: len(data) // 2])
        self.point()
        super().write(path, data, version)
        self.point()

    def remove(self, path):
        self.point()
        super().remove(path)
        self.point()

    def remove_tree(self, directory):
        for name in self.names(directory):
            self.point()
            os.remove(os.path.join(directory, name))
        self.point()
        super().remove_tree(directory)
        self.point()

    @contextlib.contextmanager
    def staged(self, directory):
        self.point()
        with super().staged(directory) as local:
            self.point()
            yield local
            self.point()
        self.point()


def dying_write(disk: DyingDisk, write=tensor_bundle.write):
    def half_then_whole(prefix, values):
        write(prefix, values)
        data = prefix + tensor_bundle.DATA
        with open(data, "rb") as file:
            whole = file.read()
        os.truncate(data, len(whole) // 2)
        disk.point()
        with open(data, "wb") as file:
            file.write(whole)
        os.remove(prefix + tensor_bundle.INDEX)
        disk.point()
        write(prefix, values)

    return half_then_whole


def stages(base: str, out: str) -> None:
    for n in range(1000):
        directory = os.path.join(out, str(n))
        shutil.copytree(base, directory)
        child = os.fork()
        if child == 0:
            disk = DyingDisk(n)
            tensor_bundle.write = dying_write(disk)
            Checkpoints(directory, keep=2, files=disk).save(4, variables(4), {"position": 40})
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
            raise SystemExit(f"the save of point {n} ended with status {status}")
    raise SystemExit("the save never survived")


def moments(out: str, count: int) -> None:
    rng = random.Random(0)
    for n in range(count):
        directory = os.path.join(out, str(n))
        child = os.fork()
        if child == 0:
            checkpoints = Checkpoints(directory, keep=1)
            for step in range(1, 10_000):
                checkpoints.save(step, variables(step, 200_000), {"position": step * 10})
            os._exit(1)
        while not os.path.exists(os.path.join(directory, "checkpoint")):
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    if sys.argv[1] == "stages":
        stages(sys.argv[2], sys.argv[3])
    else:
        moments(sys.argv[2], int(sys.argv[3]))
