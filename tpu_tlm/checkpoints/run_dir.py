"""The run directory: its layout, and whether new options still mean the same run."""

from __future__ import annotations

import dataclasses
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tpu_tlm.checkpoints.storage import storage_of
from tpu_tlm.config import cli
from tpu_tlm.config.text import DECIDED_BY_FILES
from tpu_tlm.errors import UsageError

# What may change when a run continues: how long, how fast, where and how often, and the numbers that only steer the updates
# to come. Everything not named here (sizes, objective, seed, batch size, order of the data, optimizer) makes what is on disk
# or the place in the data mean something else, so a change of it is refused. The training data may move: `identity` compares it.
CHANGEABLE = frozenset(
    """
    run_dir train_dir valid_dir eval_batch_size num_train_workers verify_data
    steps epochs steps_per_call saves_per_epoch save_steps keep keep_every eval_steps init_from export_npz tensorboard
    lr lr_schedule warmup_steps lr_end wsd_decay weight_decay clip grad_accum
    dropout ffn_pdrop embeddings_dropout layer_drop recompute mask_rate eval_mask_rate
    distribute tpu logical_cpus precision xla start_timeout grace_seconds
    """.split()
)


@dataclasses.dataclass(frozen=True)
class Change:
    """An option of a continued run that is not what it was."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"--{self.name} was {_shown(self.old)} and is now {_shown(self.new)}"


class RunDir:
    """Where a run keeps what it makes: paths, local or in object storage, and the record of what the run is."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") or "/"
        self._storage = storage_of(path)

    config = property(
        lambda self: self._join("config.yaml"),
        doc="The resolved options; `--config` reads them back.",
    )
    identity = property(
        lambda self: self._join("identity.json"),
        doc="Fingerprints of what the run is made of besides options.",
    )
    tokenizer = property(lambda self: self._join("tokenizer"), doc="The tokenizer's directory.")
    checkpoints = property(
        lambda self: self._join("checkpoints"), doc="Directory of `Checkpoints`."
    )
    npz = property(lambda self: self._join("npz"), doc="Directory of exports.")
    tb = property(lambda self: self._join("tb"), doc="Directory of TensorBoard files.")
    metrics = property(
        lambda self: self._join("metrics.jsonl"), doc="The run's figures, a line each."
    )

    def _join(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return "config.yaml" in self._storage.names(self.path)

    def prepare(
        self, parts: Sequence[Any], identity: Mapping[str, str], *, write: bool = True
    ) -> list[Change]:
        """Begin the run here, or check that the options continue the one that is here; returns what was changed.

        parts: the option instances of the training command; identity: name -> fingerprint of what must stay the same besides
        ("tokenizer", "training data"); write: False where another process of the run writes. UsageError when an option
        or a fingerprint differs that makes it another run, or checkpoints are here without options.
        """
        changes = self._compare(parts) if self.exists() else []
        if not self.exists() and self._storage.names(self.checkpoints):
            raise UsageError(
                f"{self.path} holds checkpoints but no config.yaml, so what they are is not known: use a new --run_dir"
            )
        known = self._compare_identity(identity)
        if write:
            for directory in (self.path, self.checkpoints, self.tokenizer):
                self._storage.make(directory)
            self._storage.write(
                self.identity,
                (json.dumps({**known, **identity}, indent=1, sort_keys=True) + "\n").encode(),
            )
            # Last: a directory counts as a run from here on.
            self._storage.write(self.config, cli.dump(*parts).encode())
        return changes

    def load(self, classes: Sequence[type]) -> tuple[Any, ...]:
        """The run's options, one instance per dataclass; keys of other dataclasses are left out. UsageError when there is no run."""
        known = cli.field_table(classes)
        values = {
            name: value
            for name, value in cli.canonical(self._values(), classes, self.config).items()
            if name in known
        }
        return cli.build(classes, values, self.config, check_required=False)

    def _values(self) -> dict[str, Any]:
        try:
            loaded = yaml.safe_load(self._storage.read(self.config).decode("utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{self.path} is not a run directory: it has no config.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise UsageError(
                f"{self.config} is damaged: not YAML; restore it, or use a new --run_dir"
            ) from None
        if not isinstance(loaded, dict):
            raise UsageError(
                f"{self.config} is damaged: not a mapping of options; restore it, or use a new --run_dir"
            )
        return loaded

    def _compare(self, parts: Sequence[Any]) -> list[Change]:
        old_parts = cli.build(
            [type(part) for part in parts], self._values(), self.config, check_required=False
        )
        old, new = cli.as_values(*old_parts), cli.as_values(*parts)
        changes = [
            Change(name, old[name], new[name])
            for name in new
            if old[name] != new[name]
            # Where one is left to the tokenizer's files, the identity of the tokenizer is compared.
            and not (name in DECIDED_BY_FILES and None in (old[name], new[name]))
        ]
        refused = [change for change in changes if change.name not in CHANGEABLE]
        if refused:
            raise UsageError(
                f"{self.path} holds another run: {'; '.join(map(str, refused))}. Give the old values to continue it, or a new "
                f"--run_dir to begin another (--init_from {self.path} starts that from these weights where the sizes agree)"
            )
        return changes

    def _compare_identity(self, identity: Mapping[str, str]) -> dict[str, str]:
        """What is recorded so far, after comparing; UsageError where it differs."""
        try:
            old = dict(json.loads(self._storage.read(self.identity)))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError):
            raise UsageError(
                f"{self.identity} is damaged: not JSON; restore it, or use a new --run_dir"
            ) from None
        for name, fingerprint in identity.items():
            if name in old and old[name] != fingerprint:
                raise UsageError(
                    f"{self.path} was begun with another {name} (fingerprint {old[name][:12]}, now {fingerprint[:12]}): "
                    "give the old one to continue, or a new --run_dir"
                )
        return old


def _shown(value: Any) -> str:
    return (
        "none"
        if value is None
        else " ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
