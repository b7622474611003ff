"""What a run says when it stops before its last step: what is saved, and how to continue."""

from __future__ import annotations

import sys

from tpu_tlm.distributed.preemption import PreemptionWatcher


def _last(committed: str) -> str:
    return f"the last good checkpoint is {committed}" if committed else "there is no checkpoint yet"


def last_good(committed: str) -> str:
    """After values that are not finite: the last checkpoint, and what to change."""
    return f"{_last(committed)}; try a smaller --lr, more --warmup_steps or a smaller --clip"


def stopped(reason: str, step: int, committed: str) -> str:
    """After a stop with everything saved."""
    how = "the same command continues"
    if "ipykernel" in sys.modules:
        how = "run the cell again to continue"
    return f"stopped by {reason} at step {step}; saved in {committed}: {how}"


def unsaved(error: str, committed: str) -> str:
    """After a checkpoint that could not be written."""
    return f"{error}; {_last(committed)}; make room or access, then the same command continues"


def late_saved(notice: PreemptionWatcher, step: int, committed: str) -> str:
    """At the end of the grace period, without unsaved steps."""
    return (
        f"stopped --grace_seconds {notice.grace:g} after {notice.reason} with nothing to save since"
        f" step {step}: {_last(committed)}; the same command continues"
    )


def late_unsaved(notice: PreemptionWatcher, step: int, committed: str) -> str:
    """At the end of the grace period, with unsaved steps."""
    return (
        f"stopped --grace_seconds {notice.grace:g} after {notice.reason}: step {step} could not be"
        f" saved in that time; {_last(committed)}; the same command continues from there; give more"
        " --grace_seconds, or a smaller --steps_per_call"
    )


def abandoned(step: int, saved_at: int, committed: str) -> str:
    """After a second SIGINT, which does not wait for the device and a save."""
    lost = f"steps {saved_at + 1} to {step} are lost" if step > saved_at else "no step is lost"
    return (
        f"ended by a second Ctrl-C without saving: {lost}, and those of the device call in"
        f" progress; {_last(committed)}; the same command continues from there"
    )
