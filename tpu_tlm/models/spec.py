"""A model's kind, sizes and text framing: enough to build it, and stored in every checkpoint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tpu_tlm.config import DenoisingConfig, ModelConfig, cli, strict
from tpu_tlm.config.elmo import ElmoConfig
from tpu_tlm.errors import TlmError


@dataclass(frozen=True)
class ModelSpec:
    """Everything that determines a model's variables and how its texts are framed.

    kind: one of `registry.KINDS`
    vocab_size: ids of the tokenizer, and sentinels after them (`denoising`)
    seq_length, seq_length_y: tokens of a training example, and of its second text if it has one
    pad_id: the id that is not attended to
    prefix_id, suffix_id: first and last token of every training example; None: none
    y_prefix_id, y_suffix_id: the same of the second text
    eol_id: the token after every line of text
    turn_id: the token between the turns of a conversation
    pairs: how pairs were made (ntp, nsp, tsv; None: unknown)
    denoising: the corruption that an encoder-decoder was trained on
    generator: configuration of ELECTRA's generator; `config` is the discriminator's
    elmo: sizes of an ELMo; `config` then says width, number of layers and dropout
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
    elmo: ElmoConfig | None = None

    @property
    def sentinels(self) -> int:
        """Number of ids that the vocabulary has after the tokenizer's."""
        return (self.denoising.sentinels or 0) if self.denoising is not None else 0

    def to_json(self) -> str:
        """JSON text; `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> ModelSpec:
        """The spec in a JSON text, also one of an older version.

        Raises `TlmError` naming `where` when it is damaged or of a newer version.
        """
        try:
            values = strict.mapping(
                strict.read_json(text, where, error=TlmError), where, error=TlmError
            )
            (config,) = cli.build([ModelConfig], values.pop("config"), where)
            if values.get("denoising") is not None:
                (values["denoising"],) = cli.build([DenoisingConfig], values["denoising"], where)
            if values.get("generator") is not None:
                (values["generator"],) = cli.build([ModelConfig], values["generator"], where)
            if values.get("elmo") is not None:
                values["elmo"] = ElmoConfig.from_dict(values["elmo"])
            for name, older in (("seq_length", "nctx"), ("seq_length_y", "nctx_y")):
                if older in values:  # written by the first edition
                    values[name] = values.pop(older)
            return cls(config=config, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TlmError(
                f"{where}: the model configuration cannot be read ({error}); it may be of a newer"
                " version of tpu_tlm"
            ) from None
