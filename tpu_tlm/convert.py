"""Convert a trained model to another format.

python -m tpu_tlm.convert SOURCE NAME.npz, or SOURCE DIR --to hf
"""

from __future__ import annotations

import sys

from tpu_tlm.config import ConvertConfig, ModelConfig, cli
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import outlive_output, run_command


def main(argv: list[str] | None = None) -> int:
    """Convert, read the result back and compare it; print what was read and written."""
    if (code := pid1.run_below(argv)) is not None:
        return code
    outlive_output()
    config, model = cli.parse("tpu_tlm.convert", __doc__ or "", [ConvertConfig, ModelConfig], argv)
    from tpu_tlm.devices import select

    select.quiet()
    from tpu_tlm.formats.conversion import convert

    summary, written = convert(config, model)
    print("\n".join([*summary, *written.lines()]))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
