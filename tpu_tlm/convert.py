"""The command that turns a trained model into another format: python -m tpu_tlm.convert RUN_OR_NPZ FILE.npz."""

from __future__ import annotations

import sys

from tpu_tlm import options
from tpu_tlm.config import ConvertConfig
from tpu_tlm.errors import UsageError, run_command


def main(argv: list[str] | None = None) -> int:
    """Convert; prints what was read and written."""
    (config,) = options.parse("tpu_tlm.convert", __doc__ or "", [ConvertConfig], argv)
    if not config.destination.endswith(".npz"):
        raise UsageError(f"{config.destination}: the name must end with .npz")
    from tpu_tlm import runtime

    runtime.quiet()
    from tpu_tlm.data import files
    from tpu_tlm.formats.mead_npz import encode_npz
    from tpu_tlm.training.saved import load_saved

    saved = load_saved(config.source, config.step)
    data = encode_npz(saved.values, saved.spec, saved.fingerprint)
    files.write_bytes(config.destination, data)
    count = sum(v.size for v in saved.values.values())
    print(f"read {saved.source}: {len(saved.values)} variables, {count:,} parameters")
    print(f"wrote {config.destination}: {len(data):,} bytes, SHA-256 {files.sha256(data)}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
