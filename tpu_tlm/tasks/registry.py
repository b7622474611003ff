"""The tasks by name: one file and one entry each."""

from __future__ import annotations

from tpu_tlm.tasks.base import Task
from tpu_tlm.tasks.classify import Classify, Pair
from tpu_tlm.tasks.multilabel import MultiLabel
from tpu_tlm.tasks.regress import Regress
from tpu_tlm.tasks.tag import Tag

_ALL = (Classify, MultiLabel, Pair, Regress, Tag)
TASKS: dict[str, type[Task]] = {task.name: task for task in _ALL}
