"""Two workers that divide the optimizer's state save and continue the run of two that do not."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np

from tests.distributed.test_workers import FOREVER, PLAIN, Job, corpus, saved
from tpu_tlm.checkpoints.manager import Checkpoints

__all__ = ["corpus"]

SHARDED = ["--shard_optimizer", "true", "--keep", "9", *PLAIN]


def test_stopped_and_continued_they_have_the_same_bits(corpus, tmp_path: Path) -> None:  # noqa: F811
    plain = ["--keep", "9", *PLAIN]
    run, whole = tmp_path / "run", tmp_path / "whole"
    job = Job(corpus, run, *FOREVER, "--save_steps", "4", *SHARDED, workers=2)
    job.until(lambda: max(job.train(), default=0) >= 6)
    job.processes[1].send_signal(signal.SIGTERM)
    said = job.end(143)
    assert all("optimizer state divided among 2 replicas" in out for out, _ in said)
    step = saved(run)
    assert step >= 6
    last = str(step + 4)
    Job(corpus, run, "--steps", last, "--save_steps", "4", *SHARDED, workers=2).end(0)
    Job(corpus, whole, "--steps", last, "--save_steps", "4", *plain, workers=2).end(0)
    for at in (4, int(last)):
        one, other = (dict(Checkpoints(str(r / "checkpoints")).at(at).load()) for r in (run, whole))
        assert list(one) == list(other) and any(name.startswith("slots/") for name in one)
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)
