"""The options of a fine-tuning run, and what stands for those that are not given."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import RuntimeConfig
from tpu_tlm.config.finetune import FinetuneConfig, FitConfig, HeadConfig, TaskDataConfig
from tpu_tlm.errors import OptionError, UsageError

CLASSES = (FinetuneConfig, TaskDataConfig, HeadConfig, FitConfig, RuntimeConfig)


@dataclass(frozen=True)
class FinetuneOptions:
    """All options, one instance per group."""

    run: FinetuneConfig
    data: TaskDataConfig
    head: HeadConfig
    fit: FitConfig
    runtime: RuntimeConfig

    def parts(self) -> tuple[Any, ...]:
        """The instances in the order of the command line."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def changed(self, **values: Any) -> FinetuneOptions:
        """A copy with some options changed, by name."""
        left, parts = dict(values), {}
        for field in dataclasses.fields(self):
            group = getattr(self, field.name)
            own = {f.name for f in dataclasses.fields(group)} & left.keys()
            parts[field.name] = dataclasses.replace(group, **{n: left.pop(n) for n in own})
        if left:
            raise UsageError(f"unknown options: {', '.join(left)}")
        return FinetuneOptions(**parts)


def check(options: FinetuneOptions) -> None:
    """Raise `UsageError` for options that exclude each other."""
    run, data, head = options.run, options.data, options.head
    if run.task == "tag":
        if data.text2 is not None:
            raise OptionError("--text2: --task tag takes the words of one text")
        if head.pooling != "auto":
            raise OptionError(f"--pooling {head.pooling}: --task tag has an output for every word")
    if run.serving and (run.task in ("tag", "pair") or data.text2 is not None):
        raise OptionError("--serving: a SavedModel takes single texts, not tags or pairs")
    two = data.text2 is not None or run.task == "pair"
    if two and data.stride:
        raise OptionError("--stride: pairs of texts are not cut into windows; leave it out")
    if head.pair_encoder == "shared" and not two:
        raise OptionError("--pair_encoder shared: needs two texts: --task pair, or --text2 COLUMN")
    if head.class_weights == "balanced" and run.task == "regress":
        raise OptionError("--class_weights balanced: --task regress has no classes")
    if head.pooling == "decoder" and options.fit.layer_decay != 1:
        raise OptionError("--layer_decay: has no order of blocks for --pooling decoder")
    if not head.finetune and head.freeze:
        raise OptionError("--freeze: --finetune false freezes the whole encoder; leave one out")


def default_epochs(examples: int) -> float:
    """Passes over so many examples: small data needs more of them."""
    for limit, epochs in ((500, 20.0), (2000, 10.0), (10_000, 5.0), (100_000, 3.0)):
        if examples < limit:
            return epochs
    return 2.0


def default_lr(parameters: int, finetune: bool) -> float:
    """Peak learning rate: smaller models take larger ones (BERT's 2e-5 to 5e-5, arXiv 1810.04805;
    tiny models 1e-4 to 3e-4)."""
    if not finetune:
        return 2e-3
    for limit, lr in ((2e6, 5e-4), (8e6, 2e-4), (40e6, 5e-5), (200e6, 3e-5)):
        if parameters < limit:
            return lr
    return 1e-5
