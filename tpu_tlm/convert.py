"""Convert a trained model to another format.

python -m tpu_tlm.convert SOURCE NAME.npz, or SOURCE DIR --to hf
"""

from __future__ import annotations

import sys
import typing

from tpu_tlm.config import ConvertConfig, ModelConfig, cli
from tpu_tlm.errors import UsageError, run_command

if typing.TYPE_CHECKING:
    from tpu_tlm.formats.mead.npz import Describe
    from tpu_tlm.formats.pretrained import PretrainedModel


def _read(config: ConvertConfig, model: ModelConfig) -> PretrainedModel:
    from tpu_tlm import filesystem
    from tpu_tlm.data.tokenizers.factory import load_tokenizer
    from tpu_tlm.formats.load import load
    from tpu_tlm.formats.mead.npz import described_by_json, described_by_options

    describe: Describe | None = None
    if config.mead_config is not None:
        describe = described_by_json(filesystem.read_bytes(config.mead_config), config.mead_config)
    elif model != ModelConfig():
        # Without any model flag, MEAD's NPZ is refused rather than read with the defaults.
        describe = described_by_options(model)
    saved = load(config.source, step=config.step, describe=describe)
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
        saved = saved.replaced(
            own_tokenizer=tokenizer, fingerprint=saved.fingerprint or tokenizer.fingerprint()
        )
        saved.tokenizer()
    return saved


def _show(saved: PretrainedModel) -> None:
    """Print what was read, and what of it is not used."""
    from tpu_tlm.formats.compatibility import flags

    count = sum(value.size for value in saved.values.values())
    print(
        f"read {saved.source}: {saved.spec.kind}, {len(saved.values)} variables, "
        f"{count:,} parameters"
    )
    for name, digest in sorted(saved.hashes.items()):
        print(f"  {name}: SHA-256 {digest}")
    print(f"  model flags: {flags(saved.spec.config)}")
    if saved.extras:
        print(f"  kept with the model: {', '.join(saved.extras)}")
    if saved.unused:
        print(f"  not used: {', '.join(saved.unused)}")
    for line in saved.report():
        print(f"  {line}")


def main(argv: list[str] | None = None) -> int:
    """Convert, read the result back and compare it; print what was read and written."""
    config, model = cli.parse("tpu_tlm.convert", __doc__ or "", [ConvertConfig, ModelConfig], argv)
    from tpu_tlm.formats.registry import FORMATS, target_of

    target = target_of(config.destination, config.to)
    for name in ("family", "length"):
        if getattr(config, name) is not None and name not in target.options:
            takes = [one.name for one in FORMATS if name in one.options]
            raise UsageError(f"--{name}: has an effect with --to {', '.join(takes)} only")
    from tpu_tlm.devices import select

    select.quiet()
    from tpu_tlm.formats.electra_parts import PARTS, part_of
    from tpu_tlm.formats.load import load
    from tpu_tlm.formats.save import check_same, save

    saved = _read(config, model)
    _show(saved)
    family = config.family
    if saved.spec.kind == "electra" and (config.part or target.name != "npz"):
        family = family or ("electra" if "family" in target.options else None)
        saved = part_of(saved, config.part or PARTS[0])
        print(
            f"of its two models: the {config.part or PARTS[0]}"
            + ("" if config.part else " (--part generator gives the other)")
        )
    elif config.part:
        raise UsageError(
            f"--part {config.part}: {saved.source} is of kind {saved.spec.kind!r} and has no "
            "parts; only an ELECTRA has"
        )
    hashes, notes = save(
        saved,
        config.destination,
        target,
        family=family,
        length=config.length,
        overwrite=config.overwrite,
    )
    print(f"wrote {config.destination} ({target.name})")
    for name, digest in sorted(hashes.items()):
        print(f"  {name}: SHA-256 {digest}")
    for note in notes:
        print(f"  note: {note}")
    print(f"read back: {check_same(saved, load(config.destination))} variables, the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
