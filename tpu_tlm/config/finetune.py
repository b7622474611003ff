"""Options of fine-tuning: data and columns, head, training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpu_tlm.config.commands import MEAD_CONFIG
from tpu_tlm.config.options import LARGEST_SEED, OptionGroup, opt

Task = Literal["classify", "multilabel", "pair", "regress", "tag"]
Pooling = Literal["auto", "cls", "mean", "max", "sqrt", "last", "2ha", "attention", "decoder"]


@dataclass(frozen=True)
class FinetuneConfig(OptionGroup):
    """Task and files."""

    task: Task = opt(
        "classify",
        "classify: one label per text; multilabel: any number of labels; pair: one label per pair "
        "of texts; regress: a number per text or pair; tag: one label per word",
        basic=True,
    )
    model: str = opt(
        "",
        "model to start from, of any kind that convert reads (run, NPZ, HuggingFace, BERT...)",
        required=True,
        unit="path",
        also_called=("model_name_or_path",),
    )
    train: str = opt(
        "",
        "training data; .tsv, .csv, .jsonl, .parquet; tag: columns of words and tags, or .jsonl",
        required=True,
        unit="file",
        may_change=True,
        basic=True,
        also_called=("train_file",),
    )
    valid: str | None = opt(
        None,
        "data for early stopping; none = a stratified share of --train",
        unit="file",
        may_change=True,
        basic=True,
        also_called=("validation_file",),
    )
    test: str | None = opt(
        None,
        "data for the report at the end",
        unit="file",
        may_change=True,
        basic=True,
        also_called=("test_file",),
    )
    run_dir: str = opt(
        "",
        "run directory: the same command again continues it",
        required=True,
        unit="dir",
        aliases=("basedir",),
        may_change=True,
        also_called=("output_dir",),
    )
    step: int | None = opt(
        None,
        "checkpoint of --model to take, if it is a run; none = the newest",
        unit="step",
        minimum=0,
    )
    tokenizer: str | None = opt(
        None,
        "a tokenizer: its directory (also HuggingFace's), vocab.txt, tokenizer.json, a "
        "SentencePiece model, fastBPE's vocab; none = the one stored with the model",
        unit="path",
    )
    codes: str | None = opt(
        None,
        "fastBPE's merges, where --tokenizer is its vocab; none = the file codes beside it",
        unit="file",
    )
    mead_config: str | None = opt(None, MEAD_CONFIG, unit="file")
    embeddings_index: str | None = opt(
        None,
        "MEAD's YAML or JSON list of label and file, which labels in a mead-train --config name",
        unit="file",
        may_change=True,
    )
    valid_share: float = opt(
        0.1,
        "share of --train that is held out when there is no --valid",
        unit="0..1",
        above=0,
        below=1,
    )
    serving: bool = opt(
        False,
        "also write RUN_DIR/serving, a SavedModel that takes strings (not of tags and pairs)",
        may_change=True,
    )
    seeds: int = opt(
        1,
        "runs with seeds --seed, --seed + 1, ...; mean and spread",
        unit="runs",
        minimum=1,
        maximum=1000,
        may_change=True,
        basic=True,
    )
    trials: bool = opt(
        False,
        "first try --trial_lrs x --trial_epochs, then train with the best",
        may_change=True,
    )
    trial_lrs: list[float] = opt(
        [],
        "learning rates to try; none = half, one and two times --lr",
        unit="number",
        above=0,
        may_change=True,
    )
    trial_epochs: list[float] = opt(
        [],
        "epochs to try; none = --epochs",
        unit="epochs",
        above=0,
        may_change=True,
    )


@dataclass(frozen=True)
class TaskDataConfig(OptionGroup):
    """Columns and texts."""

    text: str = opt(
        "text",
        "column of the text; without a header its number, from 0",
        unit="name",
        basic=True,
    )
    text2: str | None = opt(
        None,
        "column of the second text; none = text2 with --task pair, else no second text",
        basic=True,
    )
    label: str = opt(
        "label",
        "column of the label",
        unit="name",
        basic=True,
    )
    header: bool = opt(True, "the first line of a TSV or CSV file names the columns")
    label_separator: str = opt(",", "multilabel: between the labels of one text")
    max_length: int | None = opt(
        None,
        "tokens of a text at most; none = what the model takes, at most 512",
        unit="tokens",
        minimum=1,
        basic=True,
    )
    stride: int = opt(
        0,
        "texts over --max_length become windows that overlap by this many tokens, and their "
        "outputs are averaged; 0 = such texts are cut",
        unit="tokens",
        minimum=0,
    )
    buckets: int = opt(
        4,
        "lengths that texts are padded to, at most",
        unit="lengths",
        minimum=1,
        maximum=64,
    )
    group_by_length: bool = opt(
        True,
        "batches of texts of one of these lengths; false: batches of any texts, padded to the "
        "smallest of these lengths that takes the longest, as other programs have them",
    )


@dataclass(frozen=True)
class HeadConfig(OptionGroup):
    """Head."""

    pooling: Pooling = opt(
        "auto",
        "from token vectors to one vector; auto: cls where the model has BERT's pooler, last for "
        "causal models, else mean; sqrt: sum divided by the root of the length; 2ha, attention: "
        "learned attention; decoder: the state at the text's end token of an encoder-decoder's "
        "decoder, which reads the text again (BART, T5)",
        basic=True,
    )
    hidden: list[int] = opt(
        [],
        "sizes of hidden layers between pooling and output",
        unit="units",
        minimum=1,
    )
    head_dropout: float = opt(
        0.1,
        "on the inputs of the head's layers",
        unit="0..1",
        minimum=0,
        below=1,
    )
    dropout: float | None = opt(
        None,
        "in the encoder; none = as the model was trained, at least 0.1",
        unit="0..1",
        minimum=0,
        below=1,
    )
    pair_encoder: Literal["joint", "shared"] = opt(
        "joint",
        "two texts: joint: one sequence with token types; shared: each by itself, then "
        "(u, v, |u-v|, u*v)",
    )
    finetune: bool = opt(
        True,
        "false: the encoder is not trained; texts are encoded once, and kept on disk",
        basic=True,
    )
    freeze: int = opt(
        0,
        "the embeddings and the lowest blocks, this many, are not trained",
        unit="layers",
        minimum=0,
    )
    class_weights: Literal["none", "balanced"] = opt(
        "none",
        "balanced: every class counts the same in the loss",
        basic=True,
    )


@dataclass(frozen=True)
class FitConfig(OptionGroup):
    """Training."""

    lr: float | None = opt(
        None,
        "peak learning rate of the encoder; none = by the size of the model",
        unit="number",
        above=0,
        basic=True,
        may_change=True,
        also_called=("learning_rate",),
    )
    head_lr: float | None = opt(
        None,
        "peak learning rate of the head; none = lr",
        unit="number",
        above=0,
        may_change=True,
    )
    layer_decay: float = opt(
        1.0,
        "learning rate of each block, as a share of that of the block above",
        unit="0..1",
        above=0,
        maximum=1,
        may_change=True,
    )
    epochs: float | None = opt(
        None,
        "passes over the training data; none = by the number of texts",
        unit="epochs",
        above=0,
        basic=True,
        may_change=True,
        also_called=("num_train_epochs",),
    )
    batch_size: int = opt(
        32,
        "texts per optimizer step over all replicas",
        unit="texts",
        minimum=1,
        basic=True,
    )
    batch_tokens: int | None = opt(
        None,
        "tokens per optimizer step, padding included: short texts form larger batches; none = "
        "--batch_size",
        unit="tokens",
        minimum=1,
        only_with={"group_by_length": (True,)},
    )
    optimizer: Literal["adamw", "adam", "lamb", "adafactor", "sgd"] = opt(
        "adamw",
        "update rule",
        aliases=("optim",),
    )
    lr_schedule: Literal["cosine", "linear", "rsqrt", "wsd", "constant"] = opt(
        "linear",
        "shape after the warm-up",
        may_change=True,
    )
    warmup: float = opt(
        0.1,
        "share of the steps in which the learning rate rises",
        unit="0..1",
        minimum=0,
        below=1,
        may_change=True,
    )
    weight_decay: float = opt(
        0.01,
        "decoupled, not on norms and biases",
        unit="number",
        minimum=0,
        may_change=True,
    )
    clip: float = opt(
        1.0,
        "largest global gradient norm; 0 = no clipping",
        unit="norm",
        minimum=0,
        may_change=True,
    )
    beta2: float = opt(
        0.999,
        "decay of the second moment",
        unit="0..1",
        minimum=0,
        below=1,
    )
    eps: float = opt(
        1e-8,
        "added to the root of the second moment",
        unit="number",
        minimum=0,
    )
    grad_accum: int = opt(
        1,
        "micro-batches per optimizer step",
        unit="micro-batches",
        minimum=1,
        may_change=True,
    )
    metric: str | None = opt(
        None, "chooses the best checkpoint, from those of the report; none = the task's own"
    )
    patience: int = opt(
        0,
        "epochs without a better metric after which training stops; 0 = never",
        unit="epochs",
        minimum=0,
        may_change=True,
        basic=True,
    )
    seed: int = opt(
        0,
        "of the head's values, the order of texts, dropout",
        unit="integer",
        minimum=0,
        maximum=LARGEST_SEED,
    )
