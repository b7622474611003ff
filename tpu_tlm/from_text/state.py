"""What a quickstart keeps on disk, so that the same call goes on with it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import strict
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
        if os.path.exists(directory) and not os.path.isdir(directory):
            raise UsageError(f"--run_dir {directory}: is a file; give a directory")
        if os.path.isdir(directory) and os.listdir(directory):
            raise UsageError(
                f"--run_dir {directory}: is not empty and holds no quickstart; give another"
            )
        return State(options)
    state = _parsed(filesystem.read_bytes(path), path)
    for name, value in options.items():
        if state.options.get(name) != value:
            raise UsageError(
                f"--run_dir {directory}: was begun with --{name} {state.options.get(name)}, now "
                f"{value}; give another --run_dir"
            )
    return state


def _parsed(data: bytes, path: str) -> State:
    values = strict.mapping(strict.read_json(data, path), path)
    state = State(
        options=strict.entry(values, "options", dict, path),
        commands=strict.entry(values, "commands", dict, path),
        sentences=strict.entry(values, "sentences", list, path),
        tokens=strict.entry(values, "tokens", int, path, minimum=0),
    )
    for name, words in [*state.commands.items(), *(("sentences", s) for s in state.sentences)]:
        whole = isinstance(words, list) and all(isinstance(word, str) for word in words)
        if not whole or (name == "sentences" and len(words) != 2):
            raise UsageError(f"{path}: {name}: is damaged; give another --run_dir")
    return state


def write_state(directory: str, state: State) -> None:
    """Write the state into its directory."""
    filesystem.make_directory(directory)
    text = json.dumps(vars(state), indent=1, ensure_ascii=False)
    filesystem.write_bytes(f"{directory}/{NAME}", text.encode())
