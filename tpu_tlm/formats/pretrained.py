"""A trained model in memory: values, spec, tokenizer, and what else its files hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tpu_tlm.data.tokenizers.base import Tokenizer
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.data.tokenizers.given import given_tokenizer
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.formats.classifier import Classifier
from tpu_tlm.formats.mapping import as_weights
from tpu_tlm.models.spec import ModelSpec

if TYPE_CHECKING:
    import keras

    from tpu_tlm.config.elmo import ElmoConfig


@dataclass(frozen=True)
class PretrainedModel:
    """A trained model, as `tpu_tlm.formats.load.load` gives it.

    values: float32 arrays by the path of the model's variable;
    spec: kind and sizes of the model;
    source: the checkpoint or file it was read from;
    fingerprint: of the tokenizer it was trained with, where known;
    tokenizer_dir, own_tokenizer: where the tokenizer is, or the tokenizer itself;
    extras: trained arrays that our model has no part for (a pooler, a classifier), by path, so
    that they can be written again;
    unused: names in the source that were not read;
    carried: files of a tokenizer of an unsupported kind, by name;
    hashes: file -> SHA-256 of what was read;
    notes: what a user should know of the reading;
    skipped: newer checkpoints that could not be used, and why;
    family: HuggingFace's `model_type` of the source;
    classifier: how `extras` make a classification head;
    generation: what HuggingFace's files say of generating texts (`formats.huggingface.generation`).
    """

    values: dict[str, np.ndarray]
    spec: ModelSpec
    source: str
    fingerprint: str | None = None
    tokenizer_dir: str | None = None
    own_tokenizer: Tokenizer | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    carried: dict[str, bytes] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    family: str | None = None
    classifier: Classifier | None = None
    generation: dict[str, Any] = field(default_factory=dict)

    def model(self, *, precision: str = "float32") -> keras.Model:
        """The Keras model with these values. Raises `TlmError` when they do not fit the spec."""
        from tpu_tlm.models.registry import build_model

        check_sizes(self.spec, self.values, self.source)
        model = build_model(self.spec, precision=precision)
        assign(model, self.values, self.source)
        return model

    def tokenizer(self, given: str | None = None, codes: str | None = None) -> Tokenizer:
        """The tokenizer at `given` (as in `given_tokenizer`, with `codes`), or the model's own.

        It may have fewer tokens than the model has rows (a table that was padded). Raises
        `UsageError` when there is none, it is another one, or it has more tokens than rows.
        """
        if codes is not None and given is None:
            raise UsageError(f"--codes {codes}: acts only with a vocab file as --tokenizer")
        if given is None and self.tokenizer_dir is None and self.own_tokenizer is None:
            reasons = [note for note in self.notes if "carried along unread" in note]
            kind = (reasons or ["there is no tokenizer beside it"])[0]
            raise UsageError(f"{self.source}: {kind}; give one with --tokenizer")
        if given is None and self.own_tokenizer is not None:
            tokenizer, where = self.own_tokenizer, self.source
        else:
            where = given or self.tokenizer_dir or ""
            tokenizer = given_tokenizer(given, codes) if given else load_tokenizer(where)
        if self.fingerprint and tokenizer.fingerprint() != self.fingerprint:
            raise UsageError(f"{where}: is not the tokenizer that {self.source} was trained with")
        most = self.spec.vocab_size - self.spec.sentinels
        if len(tokenizer.tokens) > most:
            raise UsageError(
                f"{where}: has {len(tokenizer.tokens)} tokens, {self.source} has rows for {most}"
            )
        return tokenizer

    def checked(self) -> PretrainedModel:
        """Itself, when the values fit the spec's model; raises `TlmError` otherwise."""
        from tpu_tlm.models.layers.variables import named_variables
        from tpu_tlm.models.registry import build_model

        check_sizes(self.spec, self.values, self.source)
        try:
            model = build_model(self.spec)
        except UsageError as error:
            raise TlmError(f"{self.source}: its configuration: {error}") from None
        check_shapes(named_variables(model), self.values, self.source)
        _check_weights(self.values, self.source)
        return self

    def replaced(self, **changes: object) -> PretrainedModel:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def report(self) -> list[str]:
        """Lines that a command prints: skipped checkpoints and notes."""
        return [
            *(f"skipped {reason}" for reason in self.skipped),
            *(f"note: {note}" for note in self.notes),
        ]


def _check_weights(values: Mapping[str, np.ndarray], source: str) -> None:
    """Raise `TlmError` for weights that are whole numbers (quantized, or mislabelled) or NaN."""
    for path, value in values.items():
        try:
            as_weights(value, path)
        except TlmError as error:
            raise TlmError(f"{source}: {error}") from None
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise TlmError(
                f"{source}: {path!r} holds NaN: the file is damaged, or its training diverged; "
                "take an earlier checkpoint"
            )


def read_spec(text: str, where: str) -> ModelSpec:
    """The spec in a JSON text from a file. Raises `TlmError` naming `where` for a bad one."""
    try:
        return ModelSpec.from_json(text, where)
    except RecursionError:
        raise TlmError(f"{where}: the model configuration is nested too deeply") from None
    except TlmError as error:
        prefix = "" if str(error).startswith(where) else f"{where}: the model configuration: "
        raise TlmError(f"{prefix}{error}") from None


def check_sizes(spec: ModelSpec, values: Mapping[str, np.ndarray], source: str) -> None:
    """Raise `TlmError` where the spec's sizes are not those of the values.

    Done before a model is built: a configuration that claims sizes far beyond its arrays must
    not make the process allocate them.
    """
    from tpu_tlm.models.layers.embeddings_stack import padded_vocab_size

    _check_numbers(spec, source)
    if spec.elmo is not None:
        return _check_elmo(spec.elmo, values, source)
    config = spec.config
    width = config.embedding_size or config.d_model
    blocks = config.num_decoder_layers or config.num_layers
    expected: list[tuple[str, tuple[int | None, ...]]] = [
        ("embeddings/x/table", (padded_vocab_size(spec.vocab_size), width)),
        ("embeddings/tt/table", (config.type_vocab_size, width)),
        ("encoder/0/ffn/expansion/kernel", (config.d_model, config.d_ff)),
        ("encoder/0/to_ffn/kernel", (config.d_model, config.d_ff)),
        ("encoder/0/sgu/proj/kernel", (spec.seq_length, spec.seq_length)),
    ]
    if config.max_positions:
        expected.append(("embeddings/x/positions", (config.max_positions, width)))
    if config.num_heads * (config.d_k or config.d_model // max(1, config.num_heads)) > 2**24:
        raise TlmError(f"{source}: {config.num_heads} heads of width {config.d_k} are too many")
    if not config.single_head and not config.mlp:
        d_k = config.d_k or config.d_model // max(1, config.num_heads)
        expected.append(("encoder/0/attn/qkv/kernel", (config.d_model, 3, config.num_heads, d_k)))
    if spec.generator is not None:
        sizes = (spec.generator.d_model, spec.generator.d_ff)
        expected.append(("generator/encoder/0/ffn/expansion/kernel", sizes))
    if config.rpr_k_of(0):
        expected.append(("encoder/0/attn/rpr_key", (2 * config.rpr_k_of(0) + 1, None)))
    for i, size in enumerate(config.stacking_layers):
        expected += [(f"{name}/dense{i}/kernel", (None, size)) for name in ("ff1", "ff2")]
    expected.append(("reduction/head1/q/kernel", (config.d_model, config.reduction_d_k)))
    for name in ("ff1", "ff2"):
        expected.append((f"{name}/out/kernel", (None, config.d_out)))
        expected.append((f"{name}/kernel", (None, config.d_out)))
    for path, shape in expected:
        if path not in values:
            continue
        found = values[path].shape
        if len(found) != len(shape) or any(
            s not in (None, f) for s, f in zip(shape, found, strict=True)
        ):
            raise TlmError(
                f"{source}: {path!r} has shape {list(found)}, its configuration says {list(shape)}"
            )
    for stack, count in (("encoder", config.num_layers), ("decoder", blocks)):
        there = {path.split("/")[1] for path in values if path.startswith(f"{stack}/")}
        most = len({name for name in there if name.isdigit()})
        shared = most == 1 and getattr(config, "shared_layers", False)
        if most and count > most and not shared:
            raise TlmError(f"{source}: has {most} {stack} layers, its configuration says {count}")


def _check_elmo(config: ElmoConfig, values: Mapping[str, np.ndarray], source: str) -> None:
    """Raise `TlmError` where the arrays of an ELMo are not those that its sizes say."""
    from tpu_tlm.formats.elmo.arrays import arrays

    most = {path.split("/")[1] for path in values if path.startswith("encoder/")}
    if config.layers > len(most) or config.highway + len(config.filters) > len(values):
        raise TlmError(f"{source}: has {len(most)} layers, its configuration {config.layers}")
    for path, _, shape in arrays(config):
        if path in values and tuple(values[path].shape) != shape:
            found = list(values[path].shape)
            raise TlmError(
                f"{source}: {path!r} has shape {found}, its configuration says {list(shape)}"
            )


def _check_numbers(spec: ModelSpec, source: str) -> None:
    """Raise `TlmError` for a spec, read from a file, that holds what is no size or id."""
    if not isinstance(spec.kind, str):
        raise TlmError(f"{source}: kind is {str(spec.kind)[:40]}, a name is needed")
    for name in ("vocab_size", "seq_length", "seq_length_y"):
        value = getattr(spec, name)
        if value is None and name == "seq_length_y":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**31:
            raise TlmError(f"{source}: {name} is {str(value)[:40]}, a whole number is needed")
    for name in ("pad_id", "prefix_id", "suffix_id", "eol_id", "turn_id"):
        value = getattr(spec, name)
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not 0 <= value < spec.vocab_size
        ):
            raise TlmError(
                f"{source}: {name} is {str(value)[:40]}, an id below {spec.vocab_size} is needed"
            )
    for config in (spec.config, spec.generator):
        if config is None:
            continue
        for name in ("d_model", "d_ff", "num_heads", "num_layers"):
            if not 1 <= getattr(config, name) <= 2**24:
                raise TlmError(f"{source}: {name} is {getattr(config, name)}")


def check_shapes(
    variables: Mapping[str, keras.Variable], values: Mapping[str, np.ndarray], source: str
) -> None:
    """Raise `TlmError` naming a variable that is missing, unexpected or of another shape."""
    if missing := sorted(set(variables) ^ set(values)):
        raise TlmError(f"{source}: variable {missing[0]!r} is not in both the file and the model")
    for path, variable in variables.items():
        if tuple(values[path].shape) != tuple(variable.shape):
            raise TlmError(
                f"{source}: {path!r} has shape {list(values[path].shape)}, the model needs "
                f"{list(variable.shape)}"
            )


def assign(model: keras.Model, values: Mapping[str, np.ndarray], source: str) -> None:
    """Assign values to a model's variables by path. Raises as `check_shapes`."""
    from tpu_tlm.models.layers.variables import named_variables

    variables = named_variables(model)
    check_shapes(variables, values, source)
    for path, variable in variables.items():
        variable.assign(values[path])
