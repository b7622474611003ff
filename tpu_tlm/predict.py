"""Try a model: python -m tpu_tlm.predict fill-mask|generate|respond --model RUN --text TEXT."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterable, Iterator

from tpu_tlm.config import PredictConfig, cli
from tpu_tlm.errors import UsageError, run_command

if typing.TYPE_CHECKING:
    from tpu_tlm.formats.pretrained import PretrainedModel


def main(argv: list[str] | None = None) -> int:
    """Print candidates for every mask, a continuation, or responses, for each text."""
    (config,) = cli.parse("tpu_tlm.predict", __doc__ or "", [PredictConfig], argv)
    from tpu_tlm.devices import select

    select.quiet()
    texts = config.text or _standard_input()
    if config.task in ("classify", "tag", "score"):
        from tpu_tlm.training.finetuning.predict import predicted_lines

        for line in predicted_lines(config.task, config.model, texts, as_json=config.json):
            print(line)
        return 0
    from tpu_tlm.formats.load import load
    from tpu_tlm.formats.mead.npz import described_by, with_tokenizer

    describe = described_by(config.mead_config)
    saved = load(config.model, step=config.step, describe=describe)
    if describe is not None:
        saved = with_tokenizer(saved, config.tokenizer, describe)
    for line in saved.report():
        print(line, file=sys.stderr)
    if not config.json:
        print(f"# {saved.source}")
    tasks = {"fill-mask": _fill_mask, "generate": _generate, "respond": _respond}
    tasks[config.task](config, saved, texts)
    return 0


def _standard_input() -> Iterator[str]:
    """The lines of standard input; `UsageError` for one that is no text."""
    # A program's own stream of text has no bytes; without any stream there is no line.
    stream = getattr(sys.stdin, "buffer", sys.stdin) or ()
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode("utf-8") if isinstance(line, bytes) else line
        except UnicodeDecodeError:
            raise UsageError(f"standard input: line {number}: is not UTF-8 text") from None
        yield text.rstrip("\r\n")


def _fill_mask(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.inference.fill_mask import FillMask

    fill = FillMask.of(saved, config.tokenizer)
    for text in texts:
        masks = fill(text, 5 if config.top_k is None else config.top_k)
        if config.json:
            _print_json(text=text, masks=[[guess._asdict() for guess in mask] for mask in masks])
            continue
        print(text)
        for number, mask in enumerate(masks, 1):
            for guess in mask:
                print(f"  mask {number}  {guess.probability:7.2%}  {guess.token}")


def _generate(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.inference.generate import Generator
    from tpu_tlm.inference.sampling import decoding

    how = decoding(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        beam=config.beam,
        length_penalty=config.length_penalty,
        rule=config.beam_rule,
        early_stopping=config.early_stopping,
    )
    generator, texts = Generator.of(saved, how, config.tokenizer), list(texts)
    for text, result in zip(texts, generator(texts, config.max_tokens), strict=True):
        if config.json:
            _print_json(prompt=text, **result._asdict())
        else:
            print(result.text if result.ended else f"{result.text} ...")


def _respond(config: PredictConfig, saved: PretrainedModel, texts: Iterable[str]) -> None:
    from tpu_tlm.inference.retrieve import Ranker, read_candidates

    if config.candidates is None:
        raise UsageError(
            "--candidates is required: text file of the responses to choose from, one a line"
        )
    ranker = Ranker.of(saved, read_candidates(config.candidates), config.tokenizer)
    for number, text in enumerate(texts, 1):
        name = f"--text: text {number}" if config.text else f"standard input: line {number}"
        (responses,) = ranker([text], 5 if config.top_k is None else config.top_k, [name])
        if config.json:
            _print_json(text=text, responses=[response._asdict() for response in responses])
            continue
        print(text)
        for response in responses:
            print(f"  {response.score:7.4f}  {response.text}")


def _print_json(**values: object) -> None:
    print(json.dumps(values, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(run_command(main))
