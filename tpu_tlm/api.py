"""The Python face: `Model`, and one function per command.

`import tpu_tlm as tlm` offers everything here; TensorFlow is imported when it is first needed.
Errors are `UsageError` and `TlmError`, one line each; they name parameters, not flags.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from tpu_tlm.training.callbacks import Callback

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from tpu_tlm.data.preprocessing.preprocess import PreprocessResult
    from tpu_tlm.data.tokenizers.base import Tokenizer
    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.inference.fill_mask import Guess
    from tpu_tlm.inference.generate import GeneratedText
    from tpu_tlm.inference.retrieve import Response
    from tpu_tlm.models.spec import ModelSpec
    from tpu_tlm.training.finetuning.finetune import FinetuneResult
    from tpu_tlm.training.trainer import TrainResult

Path = str | os.PathLike[str]

__all__ = [
    "Model",
    "Trainer",
    "convert",
    "evaluate",
    "finetune",
    "learn_tokenizer",
    "load",
    "load_encoder",
    "plan",
    "preprocess",
    "train",
]


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


class Model:
    """A trained model and its tokenizer, ready to be used; made by `load`.

    spec: kind and sizes; tokenizer: of its training data; keras: the Keras model, built when it is
    first needed; source: the file or checkpoint; notes: what a user should know of the reading.
    """

    def __init__(self, pretrained: PretrainedModel, tokenizer: Path | None = None) -> None:
        self.pretrained = pretrained
        self._tokenizer_dir = None if tokenizer is None else os.fspath(tokenizer)

    @property
    def spec(self) -> ModelSpec:
        """Kind, sizes and framing of the model."""
        return self.pretrained.spec

    @property
    def source(self) -> str:
        """The file or checkpoint that the model was read from."""
        return self.pretrained.source

    @property
    def notes(self) -> list[str]:
        """What a user should know of the reading: skipped checkpoints, unread files."""
        return self.pretrained.report()

    @property
    def options(self) -> dict[str, Any]:
        """Options of `Config` that make a model of this structure: `Config(**model.options)`.

        With `init_from` they continue this model. Raises `UsageError` for another kind than a
        masked or causal language model.
        """
        from tpu_tlm.formats.compatibility import model_options

        return model_options(self.spec)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `UsageError` when the model has none and none was given."""
        return self.pretrained.tokenizer(self._tokenizer_dir)

    @functools.cached_property
    def keras(self) -> keras.Model:
        """The Keras model with the trained values (float32)."""
        return self.pretrained.model()

    def fill_mask(self, text: str | Sequence[str], top_k: int = 5) -> list[Any]:
        """The most probable tokens for each mask of a text.

        For one text, a list over its masks of lists of `top_k` guesses (`token`, `probability`,
        `id`, `sentence`), most probable first; for several texts, a list of those. Raises
        `UsageError` for a text without a mask, and for a model that is not a masked LM.
        """
        found: list[list[list[Guess]]] = [
            self._fill_mask(one, top_k) for one in ([text] if isinstance(text, str) else text)
        ]
        return found[0] if isinstance(text, str) else found

    @functools.cached_property
    def _fill_mask(self) -> Any:
        from tpu_tlm.inference.fill_mask import FillMask

        return FillMask.of(self.pretrained, self._tokenizer_dir)

    def encode(
        self,
        texts: Sequence[str],
        *,
        pooling: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector per text, float32 `[texts, width]`; see `inference.embed.encode`.

        pooling: mean, max, sqrt_length, cls or last; None = mean, and for a dual encoder its own.
        """
        return self._encoder(texts, pooling=pooling, batch_size=batch_size, max_length=max_length)

    @functools.cached_property
    def _encoder(self) -> Any:
        from tpu_tlm.inference.embed import Encoder

        return Encoder(self.keras, self.spec, self.tokenizer)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        beam: int = 0,
        length_penalty: float = 0.6,
        seed: int = 0,
    ) -> Any:
        """Continue texts (causal LM), or write their targets (encoder-decoder).

        beam: 0 = sample with `temperature`, `top_k`, `top_p` and `seed`; else beam search. Gives a
        `GeneratedText` (`text`, `ids`, `ended`, `log_probability`) per prompt; one for one prompt.
        """
        from tpu_tlm.inference.generate import Generator
        from tpu_tlm.inference.sampling import decoding

        how = decoding(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            beam=beam,
            length_penalty=length_penalty,
        )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        generator = Generator(self.keras, self.spec, self.tokenizer, how)
        found: list[GeneratedText] = list(generator(texts, max_tokens))
        return found[0] if isinstance(prompts, str) else found

    def rank(
        self, queries: Sequence[str], candidates: Sequence[str], top_k: int = 5
    ) -> list[list[Response]]:
        """For each query its `top_k` nearest candidates (`text`, `number`, `score`), by a dual
        encoder. Raises `UsageError` for a model of another kind.
        """
        from tpu_tlm.inference.retrieve import rank

        return rank(self.keras, self.spec, self.tokenizer, queries, candidates, top_k)

    def save(
        self,
        path: Path,
        format: str | None = None,  # noqa: A002 - the field's own word
        *,
        family: str | None = None,
        length: int | None = None,
        part: str | None = None,
        overwrite: bool = False,
    ) -> list[str]:
        """Write the model in another format, read it back and compare; returns notes.

        format: npz, hf, bert or savedmodel; None = by the ending of `path` (.npz). family: of a
        HuggingFace model. length: tokens of a SavedModel's texts. part: of an ELECTRA,
        discriminator or generator. Raises `UsageError` when the format has no place for the model.
        """
        from tpu_tlm.formats.conversion import convert_model

        return convert_model(
            self.pretrained,
            os.fspath(path),
            format,
            family=family,
            length=length,
            part=part,
            overwrite=overwrite,
        ).notes

    def __repr__(self) -> str:
        return f"Model({self.spec.kind}, {self.source!r})"


def load(path: Path, *, step: int | None = None, tokenizer: Path | None = None) -> Model:
    """A trained model of any format: a run directory, an NPZ file, a HuggingFace directory, a BERT
    checkpoint or a SavedModel.

    step: checkpoint of a run, None = the newest good one. tokenizer: directory of the tokenizer,
    where the model has none. Raises `UsageError` when there is no model that is supported,
    `TlmError` when it is damaged.
    """
    _quiet()
    from tpu_tlm.formats.load import load as read

    return Model(read(os.fspath(path), step=step), tokenizer)


def learn_tokenizer(input_files: Path | Sequence[Path], output: Path, **options: Any) -> Tokenizer:
    """Learn a vocabulary from text into a tokenizer directory; returns the tokenizer.

    options: those of `python -m tpu_tlm.vocab`, such as `subword_type="wordpiece"`,
    `vocab_size=16000`, `cased=False`.
    """
    from tpu_tlm.data.tokenizers.factory import load_tokenizer
    from tpu_tlm.data.tokenizers.learn_vocabulary import learn_vocabulary
    from tpu_tlm.formats.huggingface.vocabulary import vocabulary_files

    files = [input_files] if isinstance(input_files, str | os.PathLike) else list(input_files)
    corpus, config = _groups(
        (CorpusConfig, VocabConfig), {"input_files": files, "output": output, **options}
    )
    learn_vocabulary(corpus, config, vocabulary_files)
    return load_tokenizer(config.output)


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


def train(
    config: Config, *, callbacks: Iterable[Callback] = (), display: bool = True
) -> TrainResult:
    """Train as `config` describes, or continue the run in its run directory.

    callbacks: `tlm.Callback`s. display: whether to show progress. Interrupting it (Ctrl-C, or a
    notebook's stop button) saves and raises `Preempted`, which says how to continue.
    """
    from tpu_tlm.training import train as run

    return run(config, callbacks=callbacks, display=display)


class Trainer:
    """`train` as an object: `Trainer(config, callbacks=[...]).fit()`."""

    def __init__(
        self, config: Config, *, callbacks: Iterable[Callback] = (), display: bool = True
    ) -> None:
        self.config, self.callbacks, self.display = config, list(callbacks), display

    def fit(self) -> TrainResult:
        """Make the steps that are left; see `train`."""
        return train(self.config, callbacks=self.callbacks, display=self.display)


def evaluate(model: Path, data: Path, **options: Any) -> dict[str, Any]:
    """Loss and metrics of a model on a dataset directory, as a dict.

    model: what `load` reads. options: those of `python -m tpu_tlm.evaluate`, such as
    `batch_size=64`, `step=1000`.
    """
    from tpu_tlm.training.evaluation_options import evaluate as run

    values = {"model": model, "data": data, **options}
    return run(*_groups((EvaluateConfig, RuntimeConfig), values))


def plan(config: Config, tpu: str, **options: Any) -> dict[str, Any]:
    """What the training step of `config` needs on a TPU slice ("v5e-8"), by its compiler.

    options: those of `python -m tpu_tlm.plan`, such as `seq_length=128`, `vocab_size=30522` where
    `config` has no train_dir. Works without a TPU, in the environment of `make plan-env`. Gives
    the values of `--json`; raises `UsageError` without that environment.
    """
    from tpu_tlm.planning.launch import values

    (chosen,) = _groups((PlanConfig,), options)
    return values(config, tpu, chosen)


def convert(source: Path, destination: Path, **options: Any) -> list[str]:
    """Convert a model file to another format; returns notes.

    options: those of `python -m tpu_tlm.convert`, such as `to="hf"`.
    """
    _quiet()
    from tpu_tlm.formats.conversion import convert as run

    values = {"source": source, "destination": destination, **options}
    _, written = run(*_groups((ConvertConfig,), values))
    return written.notes


def finetune(model: Path, train: Path, run_dir: Path, **options: Any) -> FinetuneResult:
    """Fine-tune a model on labelled text, or continue the run in `run_dir`.

    model: what `load` reads. train: a TSV, CSV, JSON lines or CoNLL file. options: those of
    `python -m tpu_tlm.finetune`, such as `task="classify"`, `valid="valid.tsv"`, `epochs=3`.
    """
    from tpu_tlm.training.finetuning.finetune import finetune_model

    values = {"model": model, "train": train, "run_dir": run_dir, **options}
    return finetune_model(**{name: _plain(value) for name, value in values.items()})


def report(runs: Path | Sequence[Path], output: Path = "report.html") -> None:
    """Write one HTML page about one pre-training run or several: curves, options, data.

    runs: run directories; output: the file, which may hold an earlier report.
    """
    from tpu_tlm.training.report import write_report

    paths = [runs] if isinstance(runs, str | os.PathLike) else runs
    write_report([os.fspath(path) for path in paths], os.fspath(output))


def load_encoder(path: Path, **options: Any) -> keras.layers.Layer:
    """A pretrained encoder as a Keras layer: texts or token ids in, token vectors or a pooled
    vector out; see `training.finetuning.layer.load_encoder`.
    """
    _quiet()
    from tpu_tlm.training.finetuning.layer import load_encoder as run

    return run(os.fspath(path), **options)
