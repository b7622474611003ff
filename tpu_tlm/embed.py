"""Write vectors of texts: python -m tpu_tlm.embed --model MODEL --input FILE --output NAME.npz.

The same command again continues an interrupted one.
"""

from __future__ import annotations

import sys

from tpu_tlm.config import cli
from tpu_tlm.config.embed import EmbedConfig
from tpu_tlm.distributed import pid1
from tpu_tlm.errors import outlive_output, run_command


def main(argv: list[str] | None = None) -> int:
    """Write the vectors, and print how many of what width."""
    if (code := pid1.run_below(argv)) is not None:
        return code
    outlive_output()
    (config,) = cli.parse("tpu_tlm.embed", __doc__ or "", [EmbedConfig], argv)
    from tpu_tlm.devices import select

    select.quiet()
    from tpu_tlm.training.finetuning.embed import embed

    texts, width = embed(config)
    print(f"{config.output}: {texts:,} vectors of {width} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
