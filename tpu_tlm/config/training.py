"""Options of a training run: data, run directory, devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpu_tlm.config.objectives import OBJECTIVES
from tpu_tlm.config.options import LARGEST_SEED, SET, OptionGroup, opt
from tpu_tlm.config.presets import preset_option


@dataclass(frozen=True)
class DataConfig(OptionGroup):
    """Data."""

    train_dir: str = opt(
        "",
        "dataset directory to train on, made by preprocess",
        required=True,
        unit="dir",
        may_change=True,
        may_differ=True,
        also_called=("train_file", "train_data_file", "dataset_name"),
    )
    valid_dir: str | None = opt(
        None,
        "dataset directory to evaluate on",
        unit="dir",
        basic=True,
        may_change=True,
        may_differ=True,
        also_called=("validation_file", "eval_data_file"),
    )
    batch_size: int = opt(
        256,
        "examples per optimizer step, over all replicas and micro-batches together",
        unit="examples",
        minimum=1,
        basic=True,
        may_change=True,
        also_called={
            "per_device_train_batch_size": "the examples of all devices together",
            "per_gpu_train_batch_size": "the examples of all devices together",
            "train_batch_size": "",
        },
    )
    eval_batch_size: int | None = opt(
        None,
        "examples per evaluation step; none = batch_size",
        unit="examples",
        minimum=1,
        may_change=True,
        also_called={"per_device_eval_batch_size": "the examples of all devices together"},
    )
    window_shards: int = opt(
        16,
        "shards (or 4 MiB pieces of larger ones) that are permuted together; twice that is held "
        "in memory",
        unit="shards",
        minimum=1,
    )
    num_train_workers: int = opt(
        4,
        "shards that are read in parallel",
        unit="shards",
        minimum=1,
        maximum=1024,
        may_change=True,
        may_differ=True,
        also_called=("dataloader_num_workers",),
    )
    verify_data: bool = opt(
        False,
        "verify the checksum of every shard before training",
        may_change=True,
        may_differ=True,
    )


@dataclass(frozen=True)
class RunConfig(OptionGroup):
    """Run."""

    run_dir: str = opt(
        "",
        "run directory; the same command again continues the run in it",
        required=True,
        unit="dir",
        aliases=("basedir",),
        may_change=True,
        also_called=("output_dir", "save_dir", "checkpoint_dir", "out_dir"),
    )
    preset: str | None = preset_option(may_change=True)
    objective: str = opt(
        "mlm",
        "mlm: masked tokens; clm: next token; dual-encoder: which texts belong together; seq2seq: "
        "one text from another; electra: replaced tokens, with a generator; discriminator: "
        "replaced tokens, from labelled records; or a file of your own, path/to/file.py:Class",
        choices=OBJECTIVES,
        open_choice=".py:",
        shorthands={"causal": "clm"},
        basic=True,
    )
    steps: int | None = opt(
        None,
        "optimizer steps; none = from --epochs",
        unit="steps",
        minimum=1,
        conflicts=("epochs",),
        basic=True,
        may_change=True,
        also_called=("max_steps", "num_train_steps", "train_steps", "total_steps", "max_iters"),
    )
    epochs: float = opt(
        32.0,
        "passes over the training data, unless --steps is given",
        unit="epochs",
        above=0,
        basic=True,
        may_change=True,
        also_called=("num_train_epochs", "num_epochs", "max_epochs"),
    )
    steps_per_call: int = opt(
        100,
        "optimizer steps per call of the device program",
        unit="steps",
        minimum=1,
        may_change=True,
        also_called=("steps_per_loop", "steps_per_execution"),
    )
    saves_per_epoch: int = opt(
        10,
        "checkpoints per epoch, unless --save_steps is given",
        unit="checkpoints",
        minimum=1,
        may_change=True,
    )
    save_steps: int | None = opt(
        None,
        "steps between checkpoints",
        unit="steps",
        minimum=1,
        conflicts=("saves_per_epoch",),
        may_change=True,
        also_called=("save_checkpoints_steps", "checkpoint_every"),
    )
    keep: int = opt(
        5,
        "number of newest checkpoints that are kept",
        unit="checkpoints",
        minimum=1,
        may_change=True,
        also_called=("save_total_limit", "keep_checkpoint_max"),
    )
    keep_every: int = opt(
        0,
        "checkpoints at multiples of this step are kept forever; 0 = none",
        unit="steps",
        minimum=0,
        may_change=True,
    )
    keep_best: bool = opt(
        True,
        "keep the checkpoint with the best validation loss, too (RUN@best names it to other "
        "commands)",
        may_change=True,
        also_called=("load_best_model_at_end", "save_best"),
    )
    eval_steps: int | None = opt(
        None,
        "steps between evaluations; none = at every checkpoint",
        unit="steps",
        minimum=1,
        may_change=True,
    )
    init_from: str | None = opt(
        None,
        "model whose weights the run starts from (a run, RUN@STEP, RUN@best, NPZ, HuggingFace "
        "directory, BERT checkpoint); the optimizer starts afresh",
        unit="path",
        basic=True,
        may_change=True,
        also_called=("model_name_or_path", "init_checkpoint", "resume_from_checkpoint"),
    )
    new_token_init: Literal["mean", "random"] = opt(
        "mean",
        "values of tokens that the data have and --init_from lacks (preprocess --add_tokens): the "
        "mean of the pieces that each replaces, or random ones",
        only_with={"init_from": (SET,)},
        may_change=True,
    )
    export_npz: bool = opt(
        False,
        "write an NPZ file in MEAD's layout at every checkpoint",
        aliases=("npz",),
        may_change=True,
    )
    tensorboard: bool = opt(True, "write TensorBoard logs", aliases=("tb",), may_change=True)
    log: list[str] = opt(
        [],
        "also send metrics and options to these programs, by their own libraries and settings",
        unit="name",
        choices=("wandb", "mlflow"),
        may_change=True,
        also_called=("report_to",),
    )
    samples: int = opt(
        4,
        "tokens of the validation data that are guessed at every save, for the report and "
        "TensorBoard; 0 = none",
        unit="tokens",
        minimum=0,
        maximum=64,
        may_change=True,
    )
    report: bool = opt(
        True,
        "write report.html, a page with curves, options and data, at every checkpoint",
        may_change=True,
    )
    seed: int = opt(
        0,
        "seed of initial weights, order of examples, masks and dropout",
        unit="integer",
        minimum=0,
        maximum=LARGEST_SEED,
    )
    restart: bool = opt(
        False,
        "begin at step 0 where the checkpoints of this run are missing",
        may_change=True,
    )


@dataclass(frozen=True)
class RuntimeConfig(OptionGroup):
    """Devices."""

    distribute: Literal["auto", "tpu", "multiworker", "mirror", "none"] = opt(
        "auto",
        "distribution strategy; auto: chosen by the devices that are found",
        may_change=True,
    )
    tpu: str | None = opt(
        None,
        "TPU to use: local, a name, or grpc://host:port",
        unit="name",
        aliases=("tpu_ep",),
        may_change=True,
        also_called=("tpu_name",),
    )
    logical_cpus: int = opt(
        0,
        "mirror: number of devices that the CPU is split into, for trying it without GPUs; 0 = off",
        unit="devices",
        minimum=0,
        maximum=1024,
        only_with={"distribute": ("mirror",)},
        may_change=True,
    )
    precision: Literal["auto", "float32", "bfloat16"] = opt(
        "auto",
        "dtype of the computation, parameters stay float32; auto: bfloat16 on TPU, else float32",
        basic=True,
        may_change=True,
        also_called={"mixed_precision": "", "bf16": "--precision bfloat16", "fp16": "bfloat16"},
    )
    xla: bool = opt(True, "compile the step with XLA (always on TPU)", may_change=True)
    xla_cache: str = opt(
        "auto",
        "directory of programs that XLA has compiled for this CPU, for the next start; auto: in "
        "the user's cache directory, none: compile at every start",
        unit="directory",
        may_change=True,
        may_differ=True,
    )
    start_timeout: float = opt(
        600.0,
        "seconds to wait at the start for other workers or for a TPU",
        unit="seconds",
        above=0,
        may_change=True,
    )
    trust_network: bool = opt(
        False,
        "several workers on several machines without TPU_TLM_JOB_TOKEN: accept anyone who can "
        "reach the workers' ports",
        may_change=True,
    )
    grace_seconds: float = opt(
        25.0,
        "seconds from a SIGTERM or preemption notice until the run has saved and ended; 0 = no "
        "limit",
        unit="seconds",
        minimum=0,
        may_change=True,
    )
