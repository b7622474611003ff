"""The Python face: `Model`, and one function per command.

`import tpu_tlm as tlm` offers everything here; TensorFlow is imported when it is first needed.
Errors are `UsageError` and `TlmError`, one line each; they name parameters, not flags.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from tpu_tlm.config import (
    Config,
    ConvertConfig,
    CorpusConfig,
    EvaluateConfig,
    PairsConfig,
    PlanConfig,
    PreprocessConfig,
    RuntimeConfig,
    TokenizerConfig,
    VocabConfig,
)
from tpu_tlm.config.experiment import with_presets
from tpu_tlm.config.resolve import Source, resolve
from tpu_tlm.errors import naming_parameters
from tpu_tlm.inference.model import Model
from tpu_tlm.training.callbacks import Callback

if TYPE_CHECKING:
    import keras

    from tpu_tlm.data.preprocessing.preprocess import PreprocessResult
    from tpu_tlm.data.tokenizers.base import Tokenizer
    from tpu_tlm.from_text.run import QuickstartResult
    from tpu_tlm.training.finetuning.finetune import FinetuneResult
    from tpu_tlm.training.finetuning.predict import TaskPredictor
    from tpu_tlm.training.result import TrainResult

Path = str | os.PathLike[str]


def _groups(classes: Sequence[type[Any]], options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Groups of options from keyword arguments; paths become strings."""
    values = {name: _plain(value) for name, value in options.items() if value is not None}
    groups = tuple(classes)
    return resolve(groups, with_presets(groups, [Source(values)]))


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _quiet() -> None:
    """TensorFlow on the CPU without its log, unless the program has already imported it."""
    import sys

    if "tensorflow" not in sys.modules:
        from tpu_tlm.devices import select

        select.quiet()


@naming_parameters
def load(
    path: Path,
    *,
    step: int | None = None,
    tokenizer: Path | None = None,
    mead_config: Path | None = None,
) -> Model:
    """A trained model of any format: a run directory, an NPZ file, a HuggingFace directory, a BERT
    checkpoint or a SavedModel.

    step: checkpoint of a run, None = the newest good one. tokenizer: directory of the tokenizer,
    where the model has none. mead_config: MEAD's hyper-parameters of an NPZ that MEAD wrote, JSON
    or a file of it. Raises `UsageError` when there is no model that is supported,
    `TlmError` when it is damaged.
    """
    _quiet()
    from tpu_tlm.formats.load import load as read
    from tpu_tlm.formats.mead.npz import described_by, with_tokenizer

    describe = described_by(None if mead_config is None else os.fspath(mead_config))
    saved = read(os.fspath(path), step=step, describe=describe)
    if describe is not None and tokenizer is not None:
        return Model(with_tokenizer(saved, os.fspath(tokenizer), describe))
    return Model(saved, tokenizer)


@overload
def learn_tokenizer(
    input_files: Path | Sequence[Path], output: Path, *, index: int, **options: Any
) -> Tokenizer | None: ...


@overload
def learn_tokenizer(
    input_files: Path | Sequence[Path], output: Path, **options: Any
) -> Tokenizer: ...


@naming_parameters
def learn_tokenizer(
    input_files: Path | Sequence[Path], output: Path, *, index: int = 0, **options: Any
) -> Tokenizer | None:
    """Learn a vocabulary from text into a tokenizer directory; returns the tokenizer.

    options: those of `python -m tpu_tlm.vocab`, such as `subword_type="wordpiece"`,
    `vocab_size=16000`, `cased=False`. index: of several processes (`of=3`); those from 1 count
    their part of the text and return None.
    """
    from tpu_tlm.data.tokenizers.factory import load_tokenizer
    from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary
    from tpu_tlm.formats.huggingface.vocabulary import vocabulary_files

    files = [input_files] if isinstance(input_files, str | os.PathLike) else list(input_files)
    options = {"input_files": files, "output": output, "index": index or None, **options}
    corpus, config = _groups((CorpusConfig, VocabConfig), options)
    learned = learn_vocabulary(corpus, config, vocabulary_files).tokenizer
    return None if learned is None else load_tokenizer(config.output)


@naming_parameters
def preprocess(
    input_files: Path | Sequence[Path], output: Path, **options: Any
) -> PreprocessResult:
    """Turn text into a dataset directory; returns a summary.

    options: those of `python -m tpu_tlm.preprocess`, such as `vocab="vocab"`, `seq_length=128`,
    `valid_fraction=0.05`. A killed call is continued by the same call.
    """
    from tpu_tlm.data.preprocessing.preprocess import preprocess as run
    from tpu_tlm.formats.tokenizer_source import with_tokenizer_of

    files = [input_files] if isinstance(input_files, str | os.PathLike) else list(input_files)
    classes = (CorpusConfig, TokenizerConfig, PreprocessConfig, PairsConfig)
    corpus, tokens, config, pairs = _groups(
        classes, {"input_files": files, "output": output, **options}
    )
    tokens, config, taken = with_tokenizer_of(tokens, config)
    result = run(corpus, tokens, config, pairs)
    result.lines[:0] = [taken] if taken else []
    return result


@naming_parameters
def train(
    config: Config, *, callbacks: Iterable[Callback] = (), display: bool = True
) -> TrainResult:
    """Train as `config` describes, or continue the run in its run directory.

    callbacks: `tlm.Callback`s. display: whether to show progress. Interrupting it (Ctrl-C, or a
    notebook's stop button) saves and raises `Preempted`, which says how to continue.
    """
    from tpu_tlm.planning.launch import values
    from tpu_tlm.training import train as run

    return run(config, callbacks=callbacks, display=display, planner=values)


class Trainer:
    """`train` as an object: `Trainer(config, callbacks=[...]).fit()`."""

    @naming_parameters
    def __init__(
        self, config: Config, *, callbacks: Iterable[Callback] = (), display: bool = True
    ) -> None:
        self.config, self.callbacks, self.display = config, list(callbacks), display

    @naming_parameters
    def fit(self) -> TrainResult:
        """Make the steps that are left; see `train`."""
        return train(self.config, callbacks=self.callbacks, display=self.display)


@naming_parameters
def evaluate(model: Path, data: Path, **options: Any) -> dict[str, Any]:
    """Loss and metrics of a model on a dataset directory, as a dict.

    model: what `load` reads. options: those of `python -m tpu_tlm.evaluate`, such as
    `batch_size=64`, `step=1000`.
    """
    from tpu_tlm.training.evaluation_options import evaluate as run

    values = {"model": model, "data": data, **options}
    return run(*_groups((EvaluateConfig, RuntimeConfig), values))


@naming_parameters
def plan(config: Config, tpu: str, **options: Any) -> dict[str, Any]:
    """What the training step of `config` needs on a TPU slice ("v5e-8"; "local" is this machine's
    TPU), by its compiler.

    options: those of `python -m tpu_tlm.plan`, such as `seq_length=128`, `vocab_size=30522` where
    `config` has no train_dir. Works without a TPU, in the environment of `make plan-env`. Gives
    the values of `--json`; raises `UsageError` without that environment, and for "local" without a
    TPU.
    """
    from tpu_tlm.planning.launch import values

    (chosen,) = _groups((PlanConfig,), options)
    return values(config, tpu, chosen)


@naming_parameters
def convert(source: Path, destination: Path, **options: Any) -> list[str]:
    """Convert a model file to another format; returns notes.

    options: those of `python -m tpu_tlm.convert`, such as `to="hf"`.
    """
    _quiet()
    from tpu_tlm.formats.conversion import convert as run

    values = {"source": source, "destination": destination, **options}
    _, written = run(*_groups((ConvertConfig,), values))
    return written.notes


@naming_parameters
def finetune(model: Path, train: Path, run_dir: Path, **options: Any) -> FinetuneResult:
    """Fine-tune a model on labelled text, or continue the run in `run_dir`.

    model: what `load` reads. train: a TSV, CSV, JSON lines or CoNLL file. options: those of
    `python -m tpu_tlm.finetune`, such as `task="classify"`, `valid="valid.tsv"`, `epochs=3`.
    """
    from tpu_tlm.training.finetuning.finetune import finetune_model

    values = {"model": model, "train": train, "run_dir": run_dir, **options}
    return finetune_model(**{name: _plain(value) for name, value in values.items()})


@naming_parameters
def embed(model: Path, input: Path, output: Path, **options: Any) -> tuple[int, int]:
    """Write a vector of each text of a file: the number of vectors and of numbers in each.

    model: what `load` reads, or a fine-tuned run. input: .txt (a text a line), .tsv, .csv, .jsonl
    or .parquet. output: .npz, .npy or .parquet. options: those of `python -m tpu_tlm.embed`, such
    as `pooling="mean"`. The same call continues an interrupted one; for texts in memory there is
    `Model.encode`.
    """
    _quiet()
    from tpu_tlm.config.embed import EmbedConfig
    from tpu_tlm.training.finetuning.embed import embed as run

    (config,) = _groups(
        (EmbedConfig,), {"model": model, "input": input, "output": output, **options}
    )
    return run(config)


@naming_parameters
def load_predictor(path: Path, *, batch_size: int = 64) -> TaskPredictor:
    """A fine-tuned model, called with texts: `load_predictor("run")(["a text"])`.

    path: a run of `finetune`, or a HuggingFace directory with a head for labels. Gives for each
    text (pair of texts, or sentence to be tagged) a prediction with `guess`, `probability` and
    `scores`, as `python -m tpu_tlm.predict classify|tag|score` prints them. batch_size: texts that
    are computed together. Raises `UsageError` where the path has no such model.
    """
    _quiet()
    from tpu_tlm.training.finetuning.predict import load_predictor as run

    return run(os.fspath(path), batch=batch_size)


@naming_parameters
def quickstart(text: Path | Sequence[Path], **options: Any) -> QuickstartResult:
    """From own text to a trained model: vocabulary, dataset, training, fill-mask, exports.

    options: those of `python -m tpu_tlm.quickstart`, such as `minutes=10`, `run_dir="quickstart"`,
    `preset="bert-tiny"`. An interrupted call is continued by the same call.
    """
    from tpu_tlm.config.quickstart import QuickstartConfig
    from tpu_tlm.from_text.run import quickstart as run

    paths = [text] if isinstance(text, str | os.PathLike) else list(text)
    return run(*_groups((QuickstartConfig,), {"text": paths, **options}))


@naming_parameters
def report(runs: Path | Sequence[Path], output: Path = "report.html") -> None:
    """Write one HTML page about one pre-training run or several: curves, options, data.

    runs: run directories; output: the file, which may hold an earlier report.
    """
    from tpu_tlm.training.report import write_report

    paths = [runs] if isinstance(runs, str | os.PathLike) else runs
    write_report([os.fspath(path) for path in paths], os.fspath(output))


@naming_parameters
def load_encoder(path: Path, **options: Any) -> keras.layers.Layer:
    """A pretrained encoder as a Keras layer: texts or token ids in, token vectors or a pooled
    vector out; see `training.finetuning.layer.load_encoder`.
    """
    _quiet()
    from tpu_tlm.training.finetuning.layer import load_encoder as run

    return run(os.fspath(path), **options)
