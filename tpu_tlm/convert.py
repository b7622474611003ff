"""The command that turns a trained model into another format: python -m tpu_tlm.convert SOURCE NAME.npz, or SOURCE DIR --to hf."""

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
    elif (
        model != ModelConfig()
    ):  # without a single model flag an NPZ of MEAD's is refused rather than read with the defaults
        describe = described_by_options(model)
    saved = load(config.source, config.step, describe)
    if config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer)
        saved = saved.replaced(
            own_tokenizer=tokenizer, fingerprint=saved.fingerprint or tokenizer.fingerprint()
        )
        saved.tokenizer()
    return saved


def main(argv: list[str] | None = None) -> int:
    """Convert, read the result back and compare it; prints what was read, what was not used, and what was written."""
    config, model = cli.parse("tpu_tlm.convert", __doc__ or "", [ConvertConfig, ModelConfig], argv)
    from tpu_tlm.formats.detect import HF, NPZ, SAVED_MODEL, target_of

    target = target_of(config.destination, config.to)
    for name, only in (("family", HF), ("length", SAVED_MODEL)):
        if getattr(config, name) is not None and target != only:
            raise UsageError(f"--{name}: is of use with --to {only} only")
    from tpu_tlm.devices import select

    select.quiet()
    from tpu_tlm.formats.compatibility import flags
    from tpu_tlm.formats.electra_parts import PARTS, part_of
    from tpu_tlm.formats.registry import check_same, read_model, write_model

    saved = _read(config, model)
    count = sum(value.size for value in saved.values.values())
    print(
        f"read {saved.source}: {saved.spec.kind}, {len(saved.values)} variables, {count:,} parameters"
    )
    for name, digest in sorted(saved.hashes.items()):
        print(f"  {name}: SHA-256 {digest}")
    print(f"  model flags: {flags(saved.spec.config)}")
    if saved.extras:
        print(f"  kept beside the model: {', '.join(saved.extras)}")
    if saved.unused:
        print(f"  not used: {', '.join(saved.unused)}")
    for note in saved.notes:
        print(f"  note: {note}")
    family = config.family
    if saved.spec.kind == "electra" and (config.part or target != NPZ):
        family = family or ("electra" if target == HF else None)
        saved = part_of(saved, config.part or PARTS[0])
        print(
            f"of its two models: the {config.part or PARTS[0]}"
            + ("" if config.part else " (--part generator gives the other)")
        )
    elif config.part:
        raise UsageError(
            f"--part {config.part}: {saved.source} is of kind {saved.spec.kind!r} and has no parts; only an ELECTRA has"
        )
    hashes, notes = write_model(
        saved,
        config.destination,
        target,
        family=family,
        length=config.length,
        overwrite=config.overwrite,
    )
    print(f"wrote {config.destination} ({target})")
    for name, digest in sorted(hashes.items()):
        print(f"  {name}: SHA-256 {digest}")
    for note in notes:
        print(f"  note: {note}")
    print(
        f"read back: {check_same(saved, read_model(config.destination))} variables, the same bits"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
