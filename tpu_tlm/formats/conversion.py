"""Conversion of a trained model to another format, read back and compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tpu_tlm.config import ConvertConfig, ModelConfig
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.compatibility import flags
from tpu_tlm.formats.electra_parts import PARTS, part_of
from tpu_tlm.formats.load import load
from tpu_tlm.formats.registry import FORMATS, target_of
from tpu_tlm.formats.save import check_same, save

if TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote.

    target: name of the format; part: of an ELECTRA, the model that was written; hashes: file ->
    SHA-256; notes: what a user should know; variables: how many were read back, equal bit for bit.
    """

    destination: str
    target: str
    part: str | None
    hashes: dict[str, str]
    notes: list[str] = field(default_factory=list)
    variables: int = 0

    def lines(self) -> list[str]:
        """What a command prints."""
        chosen = [f"of its two models: the {self.part}"] if self.part else []
        files = [f"  {name}: SHA-256 {digest}" for name, digest in sorted(self.hashes.items())]
        return [
            *chosen,
            f"wrote {self.destination} ({self.target})",
            *files,
            *(f"  note: {note}" for note in self.notes),
            f"read back: {self.variables} variables, the same bits",
        ]


def convert(
    config: ConvertConfig, model: ModelConfig | None = None
) -> tuple[list[str], Conversion]:
    """Convert as options describe; gives lines about what was read, and the conversion.

    `model`: options of an NPZ file of MEAD's, which holds none. Raises `UsageError` where the
    target has no place for the model or an option has no effect, `TlmError` for a damaged source.
    """
    target = target_of(config.destination, config.to)
    for name in ("family", "length"):
        if getattr(config, name) is not None and name not in target.options:
            takes = [one.name for one in FORMATS if name in one.options]
            raise UsageError(f"--{name}: has an effect with --to {', '.join(takes)} only")
    pretrained = _read(config, model or ModelConfig())
    written = convert_model(
        pretrained,
        config.destination,
        config.to,
        family=config.family,
        length=config.length,
        part=config.part,
        overwrite=config.overwrite,
    )
    return _summary(pretrained), written


def convert_model(
    pretrained: PretrainedModel,
    destination: str,
    to: str | None = None,
    *,
    family: str | None = None,
    length: int | None = None,
    part: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write a model in the format `to` (None: by the ending), read it back and compare.

    `part`: of an ELECTRA, discriminator or generator; None = both together for NPZ, else the
    discriminator. Raises `UsageError` when the format has no place for the model, `TlmError` when
    what is read back is another model; what was written is left, and named.
    """
    target = target_of(destination, to)
    chosen = None
    if pretrained.spec.kind == "electra" and (part or target.name != "npz"):
        family = family or ("electra" if "family" in target.options else None)
        chosen = part or PARTS[0]
        pretrained = part_of(pretrained, chosen)
    elif part:
        raise UsageError(
            f"--part {part}: {pretrained.source} is of kind {pretrained.spec.kind!r} and has no "
            "parts; only an ELECTRA has"
        )
    hashes, notes = save(
        pretrained, destination, target, family=family, length=length, overwrite=overwrite
    )
    try:
        variables = check_same(pretrained, load(destination))
    except TlmError as error:
        raise TlmError(f"{error}; {destination} is not the model: delete it") from error
    return Conversion(destination, target.name, chosen, hashes, list(notes), variables)


def _read(config: ConvertConfig, model: ModelConfig) -> PretrainedModel:
    from tpu_tlm.formats.mead.npz import (
        Describe,
        described_by,
        described_by_options,
        with_tokenizer,
    )

    describe: Describe | None = described_by(config.mead_config)
    if describe is None and model != ModelConfig():
        # Without any model option, MEAD's NPZ is refused rather than read with the defaults.
        describe = described_by_options(model)
    pretrained = load(config.source, step=config.step, describe=describe)
    return with_tokenizer(pretrained, config.tokenizer, describe)


def _summary(pretrained: PretrainedModel) -> list[str]:
    """Lines about what was read, and what of it is not used."""
    count = sum(value.size for value in pretrained.values.values())
    lines = [
        f"read {pretrained.source}: {pretrained.spec.kind}, {len(pretrained.values)} variables, "
        f"{count:,} parameters",
        *(f"  {name}: SHA-256 {digest}" for name, digest in sorted(pretrained.hashes.items())),
        f"  model flags: {flags(pretrained.spec.config)}",
    ]
    if pretrained.extras:
        lines.append(f"  kept with the model: {', '.join(pretrained.extras)}")
    if pretrained.unused:
        lines.append(f"  not used: {', '.join(pretrained.unused)}")
    return [*lines, *(f"  {line}" for line in pretrained.report())]
