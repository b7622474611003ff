"""Waiting of the processes that make one dataset together."""

from __future__ import annotations

import pytest

from tpu_tlm.data.share import CompleteElsewhere, Share, wait_until


def test_parts_are_dealt_out_once() -> None:
    shares = [Share(i, 3) for i in range(3)]
    for number in range(10):
        assert sum(share.has(number) for share in shares) == 1
    assert [share.leads for share in shares] == [True, False, False]


def test_a_process_that_nobody_waits_for_does_not_wait_for_ever() -> None:
    said: list[str] = []
    follower = Share(1, 2, complete=lambda: True)
    with pytest.raises(CompleteElsewhere):
        wait_until(lambda: False, "parts", said.append, follower, seconds=0.01)
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), "parts", said.append, Share(1, 2), seconds=0.01)
