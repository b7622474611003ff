"""What a model is, in numbers: enough to build it, small enough to travel inside a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from tpu_tlm.config import DenoisingConfig, ModelConfig, cli
from tpu_tlm.errors import TlmError


def longest(spec: ModelSpec) -> int | None:
    """The longest text that a model takes, in tokens; None where its positions go on for ever."""
    config = spec.config
    if config.mlp:
        return spec.seq_length
    return (
        (config.max_positions or max(spec.seq_length, spec.seq_length_y or 0))
        if config.embed_type.startswith("learned-positional")
        else None
    )


@dataclass(frozen=True)
class ModelSpec:
    """A model's kind and sizes, and how its text is framed.

    `kind`: one of `build.KINDS`; `seq_length`: tokens of a training example, `seq_length_y`: of its
    second text, where it has one; `pad_id`: the id that is not attended to; `prefix_id`, `suffix_id`:
    the tokens at the start and end of every training example, `y_prefix_id`, `y_suffix_id`: of its second text; `eol_id`: the token
    after every line of text; `turn_id`: the token between the turns of a conversation; `pairs`: how its pairs were made (ntp, nsp,
    tsv; none: not known); `denoising`: what an encoder-decoder was trained on; `generator`: the smaller model of ELECTRA's two.
    """

    config: ModelConfig
    vocab_size: int
    seq_length: int
    pad_id: int = 0
    kind: str = "mlm"
    prefix_id: int | None = None
    suffix_id: int | None = None
    eol_id: int | None = None
    seq_length_y: int | None = None
    y_prefix_id: int | None = None
    y_suffix_id: int | None = None
    turn_id: int | None = None
    pairs: str | None = None
    denoising: DenoisingConfig | None = None
    generator: ModelConfig | None = None

    @property
    def sentinels(self) -> int:
        """Ids that the vocabulary has behind the tokenizer's."""
        return (self.denoising.sentinels or 0) if self.denoising is not None else 0

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelSpec:
        """The spec in a JSON text. Raises `TlmError` naming `where` when it is not one, or was written by a newer version."""
        try:
            values: dict[str, Any] = json.loads(text)
            (config,) = cli.build([ModelConfig], values.pop("config"), where)
            if values.get("denoising") is not None:
                (values["denoising"],) = cli.build([DenoisingConfig], values["denoising"], where)
            if values.get("generator") is not None:
                (values["generator"],) = cli.build([ModelConfig], values["generator"], where)
            for name, older in (("seq_length", "nctx"), ("seq_length_y", "nctx_y")):
                if older in values:  # written by the first edition
                    values[name] = values.pop(older)
            return cls(config=config, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TlmError(
                f"{where}: the model configuration cannot be read ({error}); it may be of a newer version"
            ) from None
