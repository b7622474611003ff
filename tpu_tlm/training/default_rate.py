"""The learning rate where neither a flag, a file nor a keyword gives one."""

from __future__ import annotations

from dataclasses import replace

from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.config import Config, OptimConfig
from tpu_tlm.config.optimizer import CONTINUED_RATE, rate_of_size


def with_default_rate(config: Config, full: Config) -> Config:
    """`full` with the learning rate that `config`, the options as they were given, leaves open.

    A run that is continued keeps its own where a size or a preset would give another. A run that
    took its sizes from `--init_from` has the share of a rate of that size, unless a preset gives
    one.
    full: the options with what was taken from `--init_from`.
    """
    # A file that gives the default counts as giving nothing, but means it.
    if "lr" in config.given or config.optim.lr == OptimConfig().lr:
        return full
    run = RunDir(full.run.run_dir)
    if run.exists() and run.saved():
        (old,) = run.load([OptimConfig])
        rate = old.lr
    elif full.run.init_from and full.run.preset is None:
        model = full.model
        usual = rate_of_size(model.d_model, model.num_layers, full.optim.optimizer)
        rate = CONTINUED_RATE * usual
    else:
        return full
    if rate == full.optim.lr:
        return full
    return replace(full, optim=replace(full.optim, lr=rate))
