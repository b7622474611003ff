"""The run directory: its layout, and whether new options still mean the same run."""

from __future__ import annotations

import dataclasses
import json
import posixpath
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tpu_tlm import filesystem
from tpu_tlm.config import cli
from tpu_tlm.config.options import options_of
from tpu_tlm.config.resolve import idle_options
from tpu_tlm.config.strict import mapping, read_json, read_yaml
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.filesystem.sealed import check_sealed, sealed

CHECKPOINTS = "checkpoints"
# Next to `checkpoints` when that cannot be written: its name and this.
EMERGENCY = "-emergency"
# State of a fine-tuning run, whose `CHECKPOINTS` hold the best model only.
PROGRESS = "progress"
# What a run keeps in its directory.
CONTENTS = (
    "config.yaml",
    "identity.json",
    "tokenizer",
    CHECKPOINTS,
    f"{CHECKPOINTS}{EMERGENCY}",
    PROGRESS,
    f"{PROGRESS}{EMERGENCY}",
    "npz",
    "tb",
    "metrics.jsonl",
    "report.html",
    "samples.jsonl",
    "loggers.json",
    "mlruns",
    "wandb",
    "features",
)
_TRAINED = "trained"  # key of identity.json: a checkpoint was committed
_SUM = "sha256"


@dataclasses.dataclass(frozen=True)
class Change:
    """An option of a continued run that is not what it was."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"--{self.name} was {_shown(self.old)} and is now {_shown(self.new)}"


class RunDir:
    """Where a run keeps what it makes, local or in object storage, and the record of what it is."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") or "/"
        self._files = filesystem.of(path)
        self._noted = False

    config = property(
        lambda self: self._join("config.yaml"),
        doc="The resolved options; `--config` reads them back.",
    )
    identity = property(
        lambda self: self._join("identity.json"),
        doc="Fingerprints of what the run is made of besides options.",
    )
    tokenizer = property(lambda self: self._join("tokenizer"), doc="The tokenizer's directory.")
    checkpoints = property(lambda self: self._join(CHECKPOINTS), doc="Directory of `Checkpoints`.")
    npz = property(lambda self: self._join("npz"), doc="Directory of exports.")
    tb = property(lambda self: self._join("tb"), doc="Directory of TensorBoard files.")
    metrics = property(
        lambda self: self._join("metrics.jsonl"), doc="The run's figures, one line each."
    )

    def _join(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def exists(self) -> bool:
        """Whether a run was started here."""
        return "config.yaml" in filesystem.list_names(self.path)

    def saved(self) -> bool:
        """Whether something was ever saved here: without a checkpoint a start is no run."""
        directories = (self.checkpoints, self._join(PROGRESS))
        if any(filesystem.is_directory(d) and filesystem.list_names(d) for d in directories):
            return True
        return self._compare_identity({})[1]

    def prepare(
        self,
        parts: Sequence[Any],
        identity: Mapping[str, str],
        *,
        write: bool = True,
        restart: bool = False,
    ) -> list[Change]:
        """Start the run here, or check that the options continue the one that is here.

        parts: the option instances of the training command; identity: name -> fingerprint of what
        must stay the same besides ("tokenizer", "training data"); write: False where another
        process of the run writes; restart: begin at step 0 where the run's checkpoints are missing.
        Returns the changed options. What an earlier start left that saved no checkpoint is
        replaced. Raises `UsageError` when an option or a fingerprint differs that makes it another
        run, when there are checkpoints without options, or options of a run that has saved
        checkpoints without them.
        """
        saved, exists = self.saved(), self.exists()
        continued = saved and exists
        changes = self._compare(parts) if continued else []
        if not exists and filesystem.list_names(self.checkpoints):
            raise UsageError(
                f"{self.path} holds checkpoints but no config.yaml, so what they are is not known: "
                "use a new --run_dir"
            )
        known, trained = self._compare_identity(identity if saved else {})
        if not saved:
            known = {}
        if continued and not restart:
            self._check_checkpoints(trained)
        if write:
            for directory in (self.path, self.checkpoints, self.tokenizer):
                filesystem.make_directory(directory)
            self._write_identity({**known, **identity}, trained and not restart)
            # Last: a directory counts as a run from here on.
            filesystem.write_bytes(self.config, sealed(cli.dump(*parts).encode()))
        return changes

    def _check_checkpoints(self, trained: bool) -> None:
        # In object storage a directory in which nothing was saved is no directory.
        places = (self.checkpoints, self.checkpoints + EMERGENCY)
        if trained and not any(filesystem.list_names(place) for place in places):
            raise UsageError(
                f"{self.checkpoints}: the checkpoints of this run are missing: restore them, use a "
                "new --run_dir, or begin again at step 0 with --restart true"
            )

    def note_commit(self) -> None:
        """Record that checkpoints were saved, so that their loss is noticed; once is enough.

        A record that cannot be written is a warning: the next commit tries again.
        """
        if self._noted:
            return
        known, trained = self._compare_identity({})
        try:
            if not trained:
                self._write_identity(known, True)
            self._noted = True
        except TlmError as error:
            print(f"warning: {error}", file=sys.stderr)

    def _write_identity(self, known: Mapping[str, str], trained: bool) -> None:
        body = {**known, _TRAINED: trained}
        filesystem.write_bytes(self.identity, _identity_text(body))

    def load(self, classes: Sequence[type]) -> tuple[Any, ...]:
        """The run's options, one instance per dataclass; keys of other dataclasses are left out.

        Raises `UsageError` when there is no run, or its file is damaged.
        """
        values = cli.canonical_values(self._values(), classes, self.config)
        return cli.build(classes, values, self.config, check_required=False)

    def _values(self) -> dict[str, Any]:
        restore = "restore it, or use a new --run_dir"
        try:
            raw = self._files.read(self.config)
        except FileNotFoundError:
            raise UsageError(f"{self.path} is not a run directory: it has no config.yaml") from None
        except OSError as error:
            raise UsageError(f"{self.config}: {filesystem.reason(error)}") from None
        check_sealed(self.config, raw, restore)
        try:
            return mapping(read_yaml(raw, self.config), self.config)
        except UsageError as error:
            raise UsageError(f"{self.config} is damaged ({error}); {restore}") from None

    def _compare(self, parts: Sequence[Any]) -> list[Change]:
        old_parts = cli.build(
            [type(part) for part in parts], self._values(), self.config, check_required=False
        )
        old, new = cli.as_values(*old_parts), cli.as_values(*parts)
        table = options_of([type(part) for part in parts])
        changes = [
            Change(name, old[name], new[name])
            for name in new
            if old[name] != new[name]
            # Where one is left to the tokenizer's files, the tokenizer's identity is compared.
            and not (table[name].declared.decided_by_files and None in (old[name], new[name]))
        ]
        # Other options make what is on disk, or the place in the data, mean something else. The
        # training data may move: `identity` compares it.
        idle = idle_options(parts)
        refused = [
            change
            for change in changes
            if not table[change.name].declared.may_change and change.name not in idle
        ]
        if refused:
            raise UsageError(
                f"{self.path} holds another run: {'; '.join(map(str, refused))}. Give the old "
                f"values to continue it, or a new --run_dir to begin another (--init_from "
                f"{self.path} starts that from these weights where the sizes agree)"
            )
        return changes

    def _compare_identity(self, identity: Mapping[str, str]) -> tuple[dict[str, str], bool]:
        """What is recorded so far, and whether checkpoints were saved; UsageError if it differs."""
        try:
            old, trained = self._read_identity(self._files.read(self.identity))
        except FileNotFoundError:
            return {}, False
        except OSError as error:
            raise UsageError(f"{self.identity}: {filesystem.reason(error)}") from None
        except (ValueError, UsageError) as error:
            raise UsageError(
                f"{self.identity} is damaged ({error}): restore it, or use a new --run_dir"
            ) from None
        for name, fingerprint in identity.items():
            if name in old and old[name] != fingerprint:
                raise UsageError(
                    f"{self.path} was started with another {name} (fingerprint {old[name][:12]}, "
                    f"now {fingerprint[:12]}): give the old one to continue, or a new --run_dir"
                )
        return old, trained

    def _read_identity(self, raw: bytes) -> tuple[dict[str, str], bool]:
        body = mapping(read_json(raw, "it"), "it")
        # Files of the first edition have neither; of this one, damage may hide one but not both.
        if {_TRAINED, _SUM} & set(body):
            body.pop(_SUM, None)
            if raw != _identity_text(body):
                raise ValueError("it does not have the checksum it was written with")
        trained = body.pop(_TRAINED, False)
        if not all(isinstance(value, str) for value in body.values()):
            raise ValueError("a fingerprint is not text")
        return body, trained


def _identity_text(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True)
    whole = {**body, _SUM: filesystem.sha256(text.encode())}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def _shown(value: Any) -> str:
    return (
        "none"
        if value is None
        else " ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
