"""Options of a training run: data, optimizer, run directory, devices."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.cli import opt


@dataclass(frozen=True)
class DataConfig:
    """Data."""

    train_dir: str = opt("", "dataset directory to train on", required=True, unit="dir")
    valid_dir: str | None = opt(None, "dataset directory to evaluate on", unit="dir")
    batch_size: int = opt(256, "examples per optimizer step over all replicas", unit="examples")
    eval_batch_size: int | None = opt(
        None, "examples per evaluation step; none = batch_size", unit="examples"
    )
    window_shards: int = opt(
        16,
        "shards, or 4 MiB pieces of larger ones, permuted together (held twice in memory)",
        unit="shards",
    )
    num_train_workers: int = opt(4, "shards read in parallel", unit="shards")
    verify_data: bool = opt(False, "check every shard's checksum before training")


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    optimizer: str = opt(
        "adamw",
        "update rule",
        choices=("adamw", "adam", "lamb", "adafactor", "sgd"),
        aliases=("optim",),
    )
    lr: float = opt(4e-4, "peak learning rate", unit="number")
    lr_schedule: str = opt(
        "cosine",
        "shape after the warm-up; wsd: constant, then a linear decay",
        choices=("cosine", "linear", "rsqrt", "wsd", "constant"),
    )
    warmup_steps: int | None = opt(
        None,
        "linear warm-up from lr/warmup_steps to lr; none = a tenth of the steps, at most 10000",
        unit="steps",
    )
    lr_end: float = opt(
        0.0, "linear, cosine, wsd: learning rate at the last step, as a share of lr", unit="0..1"
    )
    wsd_decay: float = opt(0.1, "wsd: share of the steps that decay", unit="0..1")
    weight_decay: float = opt(
        1e-2, "decoupled, not on norms and biases; adam has none", unit="number"
    )
    clip: float = opt(1.0, "largest global gradient norm; 0 = no clipping", unit="norm")
    beta1: float = opt(0.9, "decay of the first moment (sgd: momentum)", unit="0..1")
    beta2: float = opt(0.98, "decay of the second moment", unit="0..1")
    eps: float = opt(
        1e-6, "adamw, adam, lamb: added to the root of the second moment", unit="number"
    )
    grad_accum: int = opt(
        1, "micro-batches per optimizer step; batch_size is divided by it", unit="micro-batches"
    )


@dataclass(frozen=True)
class RunConfig:
    """Run."""

    run_dir: str = opt(
        "",
        "run directory: the same command again continues it",
        required=True,
        unit="dir",
        aliases=("basedir",),
    )
    objective: str = opt(
        "mlm",
        "what is learned; mlm: hidden tokens; clm: the next token; dual-encoder: which texts belong together; seq2seq: "
        "one text from another; electra: which tokens were replaced; discriminator: the same from given records; or your own, "
        "path/to/file.py:Name",
        unit="name",
    )
    causal: bool = opt(False, "the same as --objective clm")
    steps: int | None = opt(None, "optimizer steps; none = from --epochs", unit="steps")
    epochs: float = opt(
        32.0, "passes over the training data, when --steps is not given", unit="epochs"
    )
    steps_per_call: int = opt(
        100, "optimizer steps the device runs before the host hears of it", unit="steps"
    )
    saves_per_epoch: int = opt(
        10, "checkpoints per epoch, when --save_steps is not given", unit="saves"
    )
    save_steps: int | None = opt(None, "steps between checkpoints", unit="steps")
    keep: int = opt(5, "newest checkpoints kept", unit="checkpoints")
    keep_every: int = opt(
        0, "checkpoints at multiples of this many steps are kept for good; 0 = none", unit="steps"
    )
    eval_steps: int | None = opt(
        None, "steps between evaluations; none = at every save", unit="steps"
    )
    init_from: str | None = opt(
        None,
        "weights to start from, of any kind that convert reads (run, NPZ, HuggingFace, BERT...), with a fresh optimizer",
        unit="path",
    )
    export_npz: bool = opt(False, "write an NPZ in MEAD's layout at every save", aliases=("npz",))
    tensorboard: bool = opt(True, "write TensorBoard scalars", aliases=("tb",))
    seed: int = opt(0, "of initial weights, order of examples, masks and dropout", unit="integer")

    def __post_init__(self) -> None:
        if self.causal:
            object.__setattr__(self, "objective", "clm")
            object.__setattr__(
                self, "causal", False
            )  # one way to say it: either spelling continues the same run


@dataclass(frozen=True)
class RuntimeConfig:
    """Devices."""

    distribute: str = opt(
        "auto",
        "how replicas are made; auto picks by what is there",
        choices=("auto", "tpu", "multiworker", "mirror", "none"),
    )
    tpu: str | None = opt(
        None, "TPU to use: local, a name, or grpc://host:port", unit="name", aliases=("tpu_ep",)
    )
    logical_cpus: int = opt(
        0,
        "mirror: split the processor into so many devices, to try it without GPUs; 0 = do not",
        unit="devices",
    )
    precision: str = opt(
        "auto",
        "bfloat16: parameters stay float32; auto: bfloat16 on TPU, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    xla: bool = opt(True, "compile the step with XLA (always so on TPU)")
    start_timeout: float = opt(
        600.0, "several workers, or a TPU: how long to wait for them at the start", unit="seconds"
    )
    trust_network: bool = opt(
        False,
        "several workers on several machines without TPU_TLM_JOB_TOKEN: accept anyone who can "
        "reach the workers' ports",
    )
    grace_seconds: float = opt(
        25.0,
        "longest time from SIGTERM or Google Cloud's notice to the end, the save included; 0 = no limit",
        unit="seconds",
    )
