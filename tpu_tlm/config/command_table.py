"""The commands: what each does, its groups of options and examples for its help."""

from __future__ import annotations

import dataclasses

from tpu_tlm.config.commands import (
    ConvertConfig,
    DoctorConfig,
    EvaluateConfig,
    PlanConfig,
    PredictConfig,
)
from tpu_tlm.config.embed import EmbedConfig
from tpu_tlm.config.experiment import Config
from tpu_tlm.config.finetune import (
    FinetuneConfig,
    FitConfig,
    HeadConfig,
    TaskDataConfig,
)
from tpu_tlm.config.model import ModelConfig
from tpu_tlm.config.quickstart import QuickstartConfig
from tpu_tlm.config.report import ReportConfig
from tpu_tlm.config.text import (
    CorpusConfig,
    PairsConfig,
    PreprocessConfig,
    TokenizerConfig,
    VocabConfig,
)
from tpu_tlm.config.training import RuntimeConfig


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    summary: one line for the list of commands; groups: its options; examples: its arguments in
    examples of its help; basic: options that its short help shows besides the basic ones.
    """

    summary: str
    groups: tuple[type, ...]
    examples: tuple[str, ...]
    basic: tuple[str, ...] = ()


COMMANDS: dict[str, Command] = {
    "quickstart": Command(
        "from your own text to a trained model, in one command",
        (QuickstartConfig,),
        (
            "--text my.txt",
            "--text books/ --minutes 30 --run_dir books-model",
            "--text posts.jsonl --json_field body --preset bert-tiny",
        ),
    ),
    "vocab": Command(
        "learn a subword vocabulary from text",
        (CorpusConfig, VocabConfig),
        (
            "--input_files books/ --output vocab",
            "--input_files books/ --output vocab --preset bert-base",
            "--input_files 'gs://bucket/text/*.txt' --output vocab --vocab_size 16000",
            "--input_files books/ --output vocab --index 3 --of 8",
        ),
    ),
    "preprocess": Command(
        "turn text into a dataset",
        (CorpusConfig, TokenizerConfig, PreprocessConfig, PairsConfig),
        (
            "--input_files books/ --codes vocab/codes --vocab vocab/vocab --output data",
            "--input_files books/ --preset bert-base --vocab vocab/vocab.txt --output data",
            "--input_files qa.tsv --pairs tsv --codes v/codes --vocab v/vocab --output data",
        ),
        ("subword_type", "codes", "vocab", "pairs"),
    ),
    "train": Command(
        "train a model",
        Config.groups(),
        (
            "--train_dir data/train --run_dir run --preset bert-small --steps 10000",
            "--config recipes/bert-base.yaml --train_dir data/train --run_dir run",
            "--train_dir data/train --run_dir run2 --preset bert-base --init_from google_bert/",
        ),
    ),
    "evaluate": Command(
        "measure a model on a dataset",
        (EvaluateConfig, RuntimeConfig),
        (
            "--model run --data data/valid",
            "--model run --step 5000 --data data/valid",
            "--model bert.npz --data data/valid --batch_size 16",
        ),
    ),
    "finetune": Command(
        "train a model on labelled text",
        (FinetuneConfig, TaskDataConfig, HeadConfig, FitConfig, RuntimeConfig),
        (
            "--task classify --model run --train train.csv --test test.csv --run_dir tuned",
            "--task tag --model bert/ --train train.conll --valid dev.conll --run_dir tags",
            "--task classify --model bert/ --train t.csv --run_dir five --seeds 5",
        ),
    ),
    "predict": Command(
        "try a model out: fill masks, continue a text, choose a response, classify, tag",
        (PredictConfig,),
        (
            "fill-mask --model run --text 'the [MASK] of the union'",
            "generate --model run --text 'once upon a time' --max_tokens 50 --temperature 0.8",
            "respond --model run --candidates responses.txt --text 'how are you?'",
            "classify --model tuned --text 'a fine film'",
        ),
    ),
    "embed": Command(
        "write vectors of texts",
        (EmbedConfig,),
        (
            "--model run --input texts.txt --output vectors.npz",
            "--model bert/ --input data.csv --output vectors.parquet --pooling cls",
        ),
    ),
    "convert": Command(
        "write a model in another format",
        (ConvertConfig, ModelConfig),
        (
            "run huggingface/ --to hf",
            "run model.npz",
            "run served/ --to savedmodel --length 128",
        ),
    ),
    "plan": Command(
        "say whether a training step fits a TPU, and how fast it is, without a TPU",
        (PlanConfig, *Config.groups()),
        (
            "--tpu v5e-8 --preset bert-base",
            "--tpu v5e-8 --preset bert-base --train_dir data/train --batch_size 512",
            "--tpu v5e-1 --preset bert-small --sweep --quick",
        ),
    ),
    "report": Command(
        "show runs on one HTML page: curves, options, data, checkpoints",
        (ReportConfig,),
        ("run", "run1 run2 --output compared.html"),
    ),
    "doctor": Command("check this machine and what is installed", (DoctorConfig,), ("", "--json")),
}
