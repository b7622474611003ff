"""Options of the commands that use a trained model, and of the doctor."""

from __future__ import annotations

from dataclasses import dataclass

from tpu_tlm.config.cli import opt
from tpu_tlm.config.objectives import LABEL_ONE, LOSSES


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model: str = opt("", "run directory or NPZ", required=True, unit="path")
    data: str = opt("", "dataset directory", required=True, unit="dir")
    batch_size: int | None = opt(
        None, "examples per step, not for a dual encoder; none = 64", unit="examples"
    )
    candidates: int | None = opt(
        None,
        "dual encoder: pairs among which a pair's second text is ranked, in the order of the"
        " dataset; none = 100",
        unit="pairs",
    )
    eval_mask_rate: float | None = opt(
        None, "share of the maskable tokens to predict; none = the run's, else 0.15", unit="0..1"
    )
    loss: str | None = opt(
        None, "dual encoder: its loss; none = the run's, else symmetric", choices=LOSSES
    )
    margin: float | None = opt(
        None, "triplet: as in training; none = the run's, else 0.2", unit="0..2"
    )
    disc_weight: float | None = opt(
        None,
        "ELECTRA: weight of the discriminator's loss; none = the run's, else 50",
        unit="number",
    )
    label_one: str | None = opt(
        None,
        "discriminator: what 1 says in the labels; none = as in training, else replaced",
        choices=LABEL_ONE,
    )
    step: int | None = opt(None, "checkpoint to take; none = the newest good one", unit="step")
    objective: str | None = opt(
        None, "measure by this objective; none = the one of the model's kind", unit="name"
    )


@dataclass(frozen=True)
class ConvertConfig:
    """Conversion."""

    source: str = opt(
        "",
        "run directory, NPZ (ours or MEAD's), HuggingFace directory, BERT checkpoint, SavedModel",
        positional=True,
    )
    destination: str = opt("", "NAME.npz, or a directory to make", positional=True)
    to: str | None = opt(
        None,
        "what to write; bert: Google's TensorFlow checkpoint; savedmodel: takes raw strings; none = npz when the name ends with .npz",
        choices=("npz", "hf", "bert", "savedmodel"),
    )
    step: int | None = opt(
        None, "checkpoint of the run to take; none = the newest good one", unit="step"
    )
    tokenizer: str | None = opt(
        None, "tokenizer directory, where none lies beside the model", unit="dir"
    )
    mead_config: str | None = opt(
        None,
        "JSON file of MEAD's hyper-parameters for an NPZ of MEAD's; none = the model flags",
        unit="file",
    )
    family: str | None = opt(
        None,
        "hf: the kind of model to write; none = the nearest",
        choices=("bert", "roberta", "electra", "gpt2"),
    )
    part: str | None = opt(
        None,
        "of an ELECTRA, the model to write; none = both together for npz, the discriminator for the others",
        choices=("discriminator", "generator"),
    )
    length: int | None = opt(
        None,
        "savedmodel: tokens that a text is cut and padded to; none = those of a training example",
        unit="tokens",
    )
    overwrite: bool = opt(False, "write into a directory that is not empty")


@dataclass(frozen=True)
class PredictConfig:
    """Trying a model out."""

    task: str = opt(
        "",
        "what to do: guess what the masks in the texts hide, write on from the texts, or choose responses to them",
        choices=("fill-mask", "generate", "respond"),
        positional=True,
    )
    model: str = opt("", "run directory or NPZ", required=True, unit="path")
    text: list[str] = opt([], "text to complete; without it, lines of standard input", unit="text")
    candidates: str | None = opt(
        None, "respond: text file of the responses to choose from, one a line", unit="file"
    )
    top_k: int | None = opt(
        None,
        "fill-mask: guesses per mask, respond: responses shown (none = 5); generate: draw from this many (none = all)",
        unit="tokens",
    )
    temperature: float = opt(
        1.0, "generate: logits are divided by this; 0 takes the most probable token", unit="number"
    )
    top_p: float = opt(
        1.0,
        "generate: draw from the fewest tokens that have this probability together",
        unit="0..1",
    )
    max_tokens: int = opt(64, "generate: tokens to write at most", unit="tokens")
    beam: int = opt(
        0,
        "generate: write the most probable text that a beam of this many finds; 0 = draw the tokens",
        unit="texts",
    )
    length_penalty: float = opt(
        0.6, "--beam: texts compare by log-probability / ((5 + tokens) / 6) ** this", unit="number"
    )
    seed: int = opt(0, "generate: of the draws", unit="integer")
    step: int | None = opt(
        None, "checkpoint of the run to take; none = the newest good one", unit="step"
    )
    tokenizer: str | None = opt(
        None, "tokenizer directory; none = the one beside the model", unit="dir"
    )
    json: bool = opt(False, "one JSON object a line instead of a table")


@dataclass(frozen=True)
class DoctorConfig:
    """Checks."""

    json: bool = opt(False, "print the findings as JSON")


@dataclass(frozen=True)
class PlanConfig:
    """Planning. --tpu names a slice here, such as v5e-8; --train_dir and --run_dir are not needed."""

    seq_length: int | None = opt(
        None, "tokens of an example, where there is no --train_dir to tell", unit="tokens"
    )
    seq_length_y: int | None = opt(
        None,
        "the same of the second text, where the objective needs one; none = as long as the first",
        unit="tokens",
    )
    vocab_size: int | None = opt(
        None, "size of the vocabulary, where there is no --train_dir to tell", unit="entries"
    )
    search: bool = opt(True, "look for the largest batch that fits (some more compilations)")
    sweep: bool = opt(
        False, "a table over --sweep_batches, --sweep_lengths and --sweep_accum instead"
    )
    sweep_batches: list[int] = opt(
        [],
        "batches over all chips; none = a quarter, a half, one and two times --batch_size",
        unit="examples",
    )
    sweep_lengths: list[int] = opt(
        [], "tokens of an example; none = those of the data", unit="tokens"
    )
    sweep_accum: list[int] = opt(
        [],
        "numbers of micro-batches that a batch is cut into; none = --grad_accum",
        unit="micro-batches",
    )
    quick: bool = opt(
        False, "extrapolate from programs of one and two layers, which compile sooner"
    )
    json: bool = opt(False, "print the result as JSON")
    plan_python: str | None = opt(
        None,
        "Python of the environment that compiles; none = TPU_TLM_PLAN_PYTHON, this one, or .venv-plan/bin/python here",
        unit="file",
    )
