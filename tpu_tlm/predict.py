"""The command that tries a model out: python -m tpu_tlm.predict fill-mask|generate|respond --model RUN_OR_NPZ --text "a [MASK] story"."""

from __future__ import annotations

import json
import sys
import typing

from tpu_tlm.config import PredictConfig, cli
from tpu_tlm.errors import UsageError, run_command

if typing.TYPE_CHECKING:
    from collections.abc import Iterable

    from tpu_tlm.formats.pretrained import PretrainedModel


def _fill_mask(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.formats.electra_parts import GENERATOR, part_of
    from tpu_tlm.inference.fill_mask import FillMask

    top_k = 5 if config.top_k is None else config.top_k
    if top_k < 1:
        raise UsageError(f"--top_k {top_k}: at least one guess must be asked for")
    if saved.spec.kind == "electra":
        saved = part_of(saved, GENERATOR)
    fill = FillMask(saved.model(), saved.spec, saved.tokenizer(config.tokenizer))
    for text in texts:
        masks = fill(text, top_k)
        if config.json:
            print(
                json.dumps(
                    {
                        "text": text,
                        "masks": [[guess._asdict() for guess in mask] for mask in masks],
                    },
                    ensure_ascii=False,
                )
            )
            continue
        print(text)
        for number, mask in enumerate(masks, 1):
            for guess in mask:
                print(f"  mask {number}  {guess.probability:7.2%}  {guess.token}")


def _generate(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.inference.generate import Generate
    from tpu_tlm.inference.sampling import BeamSearch, Sampling

    how = (
        BeamSearch(config.beam, config.length_penalty)
        if config.beam
        else Sampling(config.temperature, config.top_k, config.top_p, config.seed)
    )
    if config.beam and (config.temperature, config.top_k, config.top_p) != (1.0, None, 1.0):
        raise UsageError(
            f"--beam {config.beam}: a beam draws nothing; leave out --temperature, --top_k and --top_p"
        )
    write = Generate(saved.model(), saved.spec, saved.tokenizer(config.tokenizer), how)
    texts = list(texts)
    for text, written in zip(texts, write(texts, config.max_tokens), strict=True):
        if config.json:
            print(json.dumps({"prompt": text, **written._asdict()}, ensure_ascii=False))
        else:
            print(written.text if written.ended else f"{written.text} ...")


def _respond(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.inference.retrieve import Respond, read_candidates

    if config.candidates is None:
        raise UsageError(
            "--candidates is required: text file of the responses to choose from, one a line"
        )
    top_k = 5 if config.top_k is None else config.top_k
    if top_k < 1:
        raise UsageError(f"--top_k {top_k}: at least one response must be asked for")
    tokenizer = saved.tokenizer(config.tokenizer)
    respond = Respond(saved.model(), saved.spec, tokenizer, read_candidates(config.candidates))
    for number, text in enumerate(texts, 1):
        # The vector of padding alone would be near to something too.
        if not tokenizer.encode(text):
            given = f"--text: text {number}" if config.text else f"standard input: line {number}"
            raise UsageError(f"{given} ({text[:40]!r}) has no token to respond to; leave it out")
        (responses,) = respond([text], top_k)
        if config.json:
            print(
                json.dumps(
                    {"text": text, "responses": [response._asdict() for response in responses]},
                    ensure_ascii=False,
                )
            )
            continue
        print(text)
        for response in responses:
            print(f"  {response.score:7.4f}  {response.text}")


def main(argv: list[str] | None = None) -> int:
    """Print the guesses for every text, what was written on from it, or the responses to it; exit code 0."""
    (config,) = cli.parse("tpu_tlm.predict", __doc__ or "", [PredictConfig], argv)
    from tpu_tlm.devices import select

    select.quiet()
    from tpu_tlm.formats.load import load

    saved = load(config.model, step=config.step)
    for line in saved.report():
        print(line, file=sys.stderr)
    if not config.json:
        print(f"# {saved.source}")
    texts = config.text or (line.rstrip("\n") for line in sys.stdin)
    {"fill-mask": _fill_mask, "generate": _generate, "respond": _respond}[config.task](
        config, saved, texts
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
