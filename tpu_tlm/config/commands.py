"""Options of the commands that use a trained model, and of plan and doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tpu_tlm.config.objectives import (
    OBJECTIVES,
    ContrastiveConfig,
    ContrastiveLoss,
    ElectraConfig,
    LabelOne,
    MlmConfig,
)
from tpu_tlm.config.options import LARGEST_SEED, SET, OptionGroup, opt, same_as
from tpu_tlm.config.presets import preset_option
from tpu_tlm.config.text import PairsConfig, PreprocessConfig

_STEP = "checkpoint of the run that is used; none = the newest valid one"
_RUN = "none = the run's"
_GENERATE = {"task": ("generate",)}
# Not of a fine-tuned run, which keeps one checkpoint and its tokenizer.
_PRETRAINED = {"task": ("fill-mask", "generate", "respond")}
MEAD_CONFIG = "MEAD's hyper-parameters of an NPZ that MEAD wrote: a JSON file, or JSON itself"


@dataclass(frozen=True)
class EvaluateConfig(OptionGroup):
    """Evaluation."""

    model: str = opt(
        "",
        "run directory, NPZ file or HuggingFace directory",
        required=True,
        unit="path",
        also_called=("model_name_or_path", "run_dir"),
    )
    data: str = opt(
        "",
        "dataset directory",
        required=True,
        unit="dir",
        also_called=("valid_dir", "validation_file"),
    )
    batch_size: int | None = opt(
        None,
        "examples per step, not for a dual encoder (--candidates); none = 64",
        unit="examples",
        minimum=1,
        basic=True,
        also_called={"per_device_eval_batch_size": "the examples of all devices together"},
    )
    candidates: int | None = opt(
        None,
        "dual encoder: pairs, in the order of the dataset, among which a second text is ranked; "
        "none = 100",
        unit="pairs",
        minimum=2,
    )
    eval_mask_rate: float | None = same_as(
        MlmConfig,
        "eval_mask_rate",
        f"mlm, electra: fraction of the maskable tokens that are predicted; {_RUN}, else 0.15",
    )
    loss: ContrastiveLoss | None = same_as(
        ContrastiveConfig, "loss", f"dual encoder: loss; {_RUN}, else symmetric"
    )
    margin: float | None = same_as(
        ContrastiveConfig, "margin", f"triplet: margin; {_RUN}, else 0.2"
    )
    disc_weight: float | None = same_as(
        ElectraConfig,
        "disc_weight",
        f"ELECTRA: weight of the discriminator's loss; {_RUN}, else 50",
    )
    label_one: LabelOne | None = same_as(
        ElectraConfig, "label_one", f"discriminator: meaning of label 1; {_RUN}, else replaced"
    )
    step: int | None = opt(None, _STEP, unit="step", minimum=0)
    objective: str | None = opt(
        None,
        "objective to evaluate with; none = the one that trains this kind of model",
        unit="name",
        choices=OBJECTIVES,
        open_choice=".py:",
    )


@dataclass(frozen=True)
class ConvertConfig(OptionGroup):
    """Conversion."""

    source: str = opt(
        "",
        "run directory, NPZ file (this package's or MEAD's), HuggingFace directory, BERT "
        "checkpoint or SavedModel",
        positional=True,
    )
    destination: str = opt("", "NAME.npz, or a new directory", positional=True)
    to: str | None = opt(
        None,
        "format to write; hf: HuggingFace directory; bert: TensorFlow checkpoint as Google's BERT; "
        "savedmodel: takes raw strings; none = npz for a name that ends with .npz",
        basic=True,
    )
    step: int | None = opt(None, _STEP, unit="step", minimum=0, basic=True)
    tokenizer: str | None = opt(
        None,
        "a tokenizer's directory or file, for a model that comes without one",
        unit="path",
        basic=True,
    )
    mead_config: str | None = opt(None, f"{MEAD_CONFIG}; none = the model flags", unit="file")
    preset: str | None = preset_option()
    family: str | None = opt(
        None,
        "hf: model family to write, by its model_type (distilbert, modernbert, ...); none = that "
        "of the source, or the nearest",
        basic=True,
    )
    part: Literal["discriminator", "generator"] | None = opt(
        None,
        "ELECTRA: model to write; none = both for npz, the discriminator for other formats",
    )
    length: int | None = opt(
        None,
        "savedmodel: tokens that a text is cut and padded to; none = those of a training example",
        unit="tokens",
        minimum=1,
    )
    overwrite: bool = opt(False, "write into a directory that is not empty", basic=True)


@dataclass(frozen=True)
class PredictConfig(OptionGroup):
    """Prediction."""

    task: Literal["fill-mask", "generate", "respond", "classify", "tag", "score"] = opt(
        "fill-mask",
        "fill-mask: predict the masked tokens of the texts; generate: continue the texts; "
        "respond: choose responses to them; classify, tag, score: of a fine-tuned run (the texts "
        "of a pair are separated by a tab)",
        positional=True,
    )
    model: str = opt(
        "",
        "run directory, NPZ file or HuggingFace directory",
        required=True,
        unit="path",
        also_called=("model_name_or_path", "run_dir"),
    )
    text: list[str] = opt(
        [],
        "input texts; none = lines of standard input",
        unit="text",
        basic=True,
        may_be_empty=True,
        also_called=("prompt", "input"),
    )
    candidates: str | None = opt(
        None,
        "respond: text file with one response per line to choose from",
        unit="file",
        basic=True,
        only_with={"task": ("respond",)},
    )
    top_k: int | None = opt(
        None,
        "fill-mask, respond: number of answers (none = 5); generate: sample from the k most "
        "probable tokens (none = all)",
        unit="tokens",
        minimum=1,
        basic=True,
        only_with=_PRETRAINED,
    )
    temperature: float = opt(
        1.0,
        "generate: the logits are divided by this; 0 = always the most probable token",
        unit="number",
        minimum=0,
        basic=True,
        only_with=_GENERATE,
        conflicts=("beam",),
    )
    top_p: float = opt(
        1.0,
        "generate: sample from the fewest tokens whose probabilities add up to this",
        unit="fraction",
        above=0,
        maximum=1,
        only_with=_GENERATE,
        conflicts=("beam",),
    )
    max_tokens: int = opt(
        64,
        "generate: maximum number of new tokens",
        unit="tokens",
        minimum=1,
        basic=True,
        only_with=_GENERATE,
        also_called=("max_new_tokens", "max_length"),
    )
    beam: int = opt(
        0,
        "generate: width of a beam search; 0 = sample",
        unit="texts",
        minimum=0,
        maximum=65536,
        only_with=_GENERATE,
        also_called=("num_beams",),
    )
    beam_rule: Literal["gnmt", "transformers"] = opt(
        "gnmt",
        "beam search: gnmt: scores are log-probability / ((5 + tokens) / 6) ** length_penalty; "
        "transformers: log-probability / tokens ** length_penalty, texts end as in its generate",
        only_with={**_GENERATE, "beam": (SET,)},
    )
    length_penalty: float | None = opt(
        None,
        "beam search: exponent of the length; none = 0.6, with beam_rule transformers 1",
        unit="number",
        minimum=-100,
        only_with={**_GENERATE, "beam": (SET,)},
    )
    early_stopping: Literal["false", "true", "never"] = opt(
        "false",
        "beam search by beam_rule transformers: its early_stopping",
        only_with={**_GENERATE, "beam_rule": ("transformers",)},
    )
    seed: int = opt(
        0,
        "generate: seed of the sampling",
        unit="integer",
        minimum=0,
        maximum=LARGEST_SEED,
        only_with=_GENERATE,
    )
    step: int | None = opt(None, _STEP, unit="step", minimum=0, only_with=_PRETRAINED)
    tokenizer: str | None = opt(
        None,
        "a tokenizer's directory or file; none = the one that comes with the model",
        unit="path",
        only_with=_PRETRAINED,
    )
    mead_config: str | None = opt(None, MEAD_CONFIG, unit="file", only_with=_PRETRAINED)
    json: bool = opt(False, "print one JSON object per line instead of a table", basic=True)


@dataclass(frozen=True)
class DoctorConfig(OptionGroup):
    """Checks."""

    json: bool = opt(False, "print the findings as JSON", basic=True)


@dataclass(frozen=True)
class PlanConfig(OptionGroup):
    """Planning: --tpu names a slice, such as v5e-8; --train_dir and --run_dir are not needed."""

    seq_length: int | None = same_as(
        PreprocessConfig,
        "seq_length",
        "tokens of an example, without --train_dir",
        conflicts=("train_dir",),
        basic=True,
    )
    seq_length_y: int | None = same_as(
        PairsConfig,
        "seq_length_y",
        "tokens of the second text, without --train_dir; none = as the first",
        conflicts=("train_dir",),
    )
    vocab_size: int | None = opt(
        None,
        "entries of the vocabulary, without --train_dir",
        unit="entries",
        minimum=1,
        conflicts=("train_dir",),
        basic=True,
    )
    task: Literal["classify", "multilabel", "pair", "regress", "tag"] | None = opt(
        None,
        "plan fine-tuning for a task, of --init_from or of the model flags; none = pre-training",
        conflicts=("train_dir",),
        basic=True,
    )
    labels: int = opt(2, "fine-tuning: labels of the task", unit="labels", minimum=1, maximum=2**20)
    search: bool = opt(True, "search the largest batch that fits (compiles several times)")
    sweep: bool = opt(
        False,
        "print a table over --sweep_batches, --sweep_lengths and --sweep_accum instead",
        basic=True,
    )
    sweep_batches: list[int] = opt(
        [],
        "batches over all chips; none = 1/4, 1/2, 1 and 2 times --batch_size",
        unit="examples",
        minimum=1,
        only_with={"sweep": (True,)},
    )
    sweep_lengths: list[int] = opt(
        [],
        "tokens of an example; none = those of the data",
        unit="tokens",
        minimum=1,
        only_with={"sweep": (True,)},
    )
    sweep_accum: list[int] = opt(
        [],
        "micro-batches per batch; none = --grad_accum",
        unit="micro-batches",
        minimum=1,
        only_with={"sweep": (True,)},
    )
    quick: bool = opt(
        False, "extrapolate from models of one and two layers, which compile faster", basic=True
    )
    json: bool = opt(False, "print the result as JSON", basic=True)
    plan_python: str | None = opt(
        None,
        "Python of the environment with the compiler; none = TPU_TLM_PLAN_PYTHON, this one, or "
        ".venv-plan/bin/python",
        unit="file",
    )
