"""What a quickstart keeps on disk, so that the same call goes on with it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config.quickstart import QuickstartConfig
from tpu_tlm.errors import UsageError

NAME = "quickstart.json"


@dataclass
class State:
    """The options of the first call, and what was decided so far.

    commands: name -> arguments; sentences: (masked sentence, word) of the held-out documents;
    tokens: of the whole text, estimated.
    """

    options: dict[str, Any]
    commands: dict[str, list[str]] = field(default_factory=dict)
    sentences: list[list[str]] = field(default_factory=list)
    tokens: int = 0


def read_state(directory: str, config: QuickstartConfig) -> State:
    """The state in a directory, or a new one where the directory is empty or not there.

    Raises `UsageError` for a directory that holds something else, or a quickstart with other
    options.
    """
    names = [field.name for field in fields(config) if field.name not in ("run_dir", "text")]
    options = {name: getattr(config, name) for name in names}
    options["text"] = [os.path.abspath(path) for path in config.text]
    path = f"{directory}/{NAME}"
    if not os.path.exists(path):
        if os.path.isdir(directory) and os.listdir(directory):
            raise UsageError(
                f"--run_dir {directory}: is not empty and holds no quickstart; give another"
            )
        return State(options)
    try:
        with open(path, encoding="utf-8") as file:
            state = State(**json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give another --run_dir") from None
    for name, value in options.items():
        if state.options.get(name) != value:
            raise UsageError(
                f"--run_dir {directory}: was begun with --{name} {state.options.get(name)}, now "
                f"{value}; give another --run_dir"
            )
    return state


def write_state(directory: str, state: State) -> None:
    """Write the state into its directory."""
    os.makedirs(directory, exist_ok=True)
    text = json.dumps(vars(state), indent=1, ensure_ascii=False)
    filesystem.write_bytes(f"{directory}/{NAME}", text.encode())
