"""Local attention in blocks against all scores with a mask, by whole training steps on a processor:
python -m benchmarks.long_texts [--tokens 2048] [--layers N] [--window W] [--rounds N].

A small model of ModernBERT's form (rotary positions, every third layer reaches all tokens), one row
of `--tokens` tokens. The first contender computes all scores in every layer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.harness import Contender, alternate, table
from benchmarks.our_step import timed
from benchmarks.workloads import Workload
from tpu_tlm.config import ModelConfig, OptimConfig

WIDTH, VOCAB = 256, 8192


def build(tokens: int, layers: int, window: int, blocks: bool) -> Callable[[int], float]:
    """A callable(calls) -> seconds per step; blocks: False computes all scores and masks them."""
    if not blocks:
        from tpu_tlm.models.layers import attention

        attention.blocks_of = lambda length, reach: None
    config = ModelConfig(
        d_model=WIDTH,
        d_ff=2 * WIDTH,
        num_heads=4,
        num_layers=layers,
        position_encoding=["rotary"],
        local_window=window,
        global_every=3,
        activation="geglu",
        mask_pad=False,
    )
    load = Workload(
        vocab=VOCAB,
        d_model=WIDTH,
        layers=layers,
        heads=4,
        d_ff=2 * WIDTH,
        rows=1,
        tokens=tokens,
        predictions=int(0.15 * tokens),
        steps_per_call=2,
    )
    return timed(config, load, OptimConfig())


def main() -> None:
    """Print the table; ratios are to all scores, above 1 is faster."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--window", type=int, default=64, help="tokens to each side")
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if options.tokens <= 2 * options.window or options.window < 1:
        parser.error(f"--tokens {options.tokens}: give more than two windows ({options.window})")
    if options.layers < 1 or options.rounds < 1:
        parser.error("--layers, --rounds: at least 1")
    contenders = [
        Contender(
            name,
            "benchmarks.long_texts:build",
            (options.tokens, options.layers, options.window, blocks),
        )
        for name, blocks in (("all scores", False), ("blocks", True))
    ]
    title = f"{options.layers} layers of {WIDTH}, 1 x {options.tokens}, window {options.window}"
    print(table(title, alternate(contenders, options.rounds)))


if __name__ == "__main__":
    main()
