"""`Model`: a trained model and its tokenizer, ready to be used from Python."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpu_tlm.errors import naming_parameters

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from tpu_tlm.data.tokenizers.base import Tokenizer
    from tpu_tlm.formats.pretrained import PretrainedModel
    from tpu_tlm.inference.fill_mask import Guess
    from tpu_tlm.inference.generate import GeneratedText
    from tpu_tlm.inference.retrieve import Response
    from tpu_tlm.models.spec import ModelSpec

Path = str | os.PathLike[str]


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

    @naming_parameters
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

    @naming_parameters
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

        spec, model = self.spec, self.keras
        if not spec.config.mask_pad and spec.kind not in ("clm", "dual", "elmo"):
            # MEAD's language models attend to padding, and are trained on texts without any: a
            # text's vector must not depend on how long the texts beside it are.
            spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, mask_pad=True))
            model = self.pretrained.replaced(spec=spec).model()
        return Encoder(model, spec, self.tokenizer)

    @naming_parameters
    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 64,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        beam: int = 0,
        length_penalty: float | None = None,
        beam_rule: str = "gnmt",
        early_stopping: str = "false",
        seed: int = 0,
    ) -> Any:
        """Continue texts (causal LM), or write their targets (encoder-decoder).

        beam: 0 = sample with `temperature`, `top_k`, `top_p` and `seed`; else beam search, by
        `beam_rule` gnmt or transformers (with its `early_stopping`). Gives a
        `GeneratedText` (`text`, `ids`, `ended`, `log_probability`) per prompt; one for one prompt.
        """
        from tpu_tlm.inference.constraints import Constraints
        from tpu_tlm.inference.generate import Generator
        from tpu_tlm.inference.sampling import decoding

        how = decoding(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            beam=beam,
            length_penalty=length_penalty,
            rule=beam_rule,
            early_stopping=early_stopping,
        )
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        own = Constraints.of(self.pretrained.generation)
        generator = Generator(self.keras, self.spec, self.tokenizer, how, own)
        found: list[GeneratedText] = list(generator(texts, max_tokens))
        return found[0] if isinstance(prompts, str) else found

    @naming_parameters
    def rank(
        self, queries: Sequence[str], candidates: Sequence[str], top_k: int = 5
    ) -> list[list[Response]]:
        """For each query its `top_k` nearest candidates (`text`, `number`, `score`), by a dual
        encoder. Raises `UsageError` for a model of another kind.
        """
        from tpu_tlm.inference.retrieve import rank

        return rank(self.keras, self.spec, self.tokenizer, queries, candidates, top_k)

    @naming_parameters
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
