"""Own text -> vocabulary, dataset, trained model, fill-mask, HuggingFace directory, report.

Everything that is chosen is written as five command lines, which are parsed and run in this
process: what they say is what was done, and they repeat it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace

from tpu_tlm import filesystem
from tpu_tlm.config import Config
from tpu_tlm.config.quickstart import QuickstartConfig
from tpu_tlm.errors import Preempted, TlmError, UsageError
from tpu_tlm.from_text import commands, sizing
from tpu_tlm.from_text.commands import CommandLine
from tpu_tlm.from_text.profile import corpus_of, profile_of
from tpu_tlm.from_text.result import SCRIPT, QuickstartResult, summary_lines
from tpu_tlm.from_text.state import read_state, write_state

ANSWERS = "fill_mask.txt"
_SENTENCES = 6
# Seconds that are kept for the fill-mask, the export and the last evaluation.
_AT_THE_END = 25.0


def quickstart(
    config: QuickstartConfig,
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> QuickstartResult:
    """Make everything, or what is left of it, in `config.run_dir`.

    say: called with lines for the user. Raises `UsageError` for text or options that cannot be
    used and for a directory that holds something else; `Preempted` when it was interrupted: the
    same call goes on from there.
    """
    return _Quickstart(config, say, clock).run()


class _Quickstart:
    def __init__(
        self, config: QuickstartConfig, say: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self.config, self.say, self.clock, self.begun = config, say, clock, clock()
        self.base = config.run_dir.rstrip("/") or "/"
        if filesystem.is_remote(self.base):
            raise UsageError(f"--run_dir {self.base}: quickstart needs a directory on this disk")
        self.vocab, self.data = f"{self.base}/vocab", f"{self.base}/data"
        self.training, self.huggingface = f"{self.base}/run", f"{self.base}/huggingface"
        self.state = read_state(self.base, config)

    # State

    def _command(self, name: str) -> CommandLine:
        return CommandLine(name, tuple(self.state.commands[name]))

    def _decide(self, *chosen: CommandLine) -> None:
        self.state.commands |= {one.name: list(one.arguments) for one in chosen}
        write_state(self.base, self.state)

    def _left(self) -> float:
        """Seconds until `minutes` are over."""
        return self.config.minutes * 60.0 - (self.clock() - self.begun)

    # Stages

    def run(self) -> QuickstartResult:
        if "preprocess" not in self.state.commands:
            self._plan_text()
        self._stage("vocab", lambda: os.path.exists(f"{self.vocab}/tokenizer_info.json"))
        self._stage("preprocess", lambda: os.path.exists(f"{self.data}/valid/md.yml"))
        if not self.state.sentences:
            self._choose_sentences()
        if "train" not in self.state.commands:
            self._plan_training()
        self._train()
        self._stage("convert", lambda: os.path.exists(f"{self.huggingface}/conversion.json"))
        return self._finish()

    def _preset(self) -> str:
        return self.config.preset or sizing.CANDIDATES[0]

    def _plan_text(self) -> None:
        config = self.config
        try:
            corpus = corpus_of(config.text, config.text_column, config.json_field)
            profile = profile_of(corpus)
        except UsageError as error:
            # The corpus is read by the names of options in the other commands.
            said = str(error).replace("--input_files", "--text")
            pattern = "give the files by a pattern, such as 'DIR/*.md'"
            raise UsageError(said.replace("give --input_pattern", pattern)) from None
        self.say(f"text: {profile.line()}")
        sizes = sizing.text_sizes(
            profile, self._preset(), accelerator=_accelerator(), cased=config.cased
        )
        self.state.tokens = sizes.tokens
        self.say(
            f"vocabulary: {sizes.subword_type}, {sizes.vocab_size:,} entries, capital letters "
            f"{'kept' if sizes.cased else 'lower-cased'}"
        )
        default = type(corpus)()
        reading = {
            name: value if value != getattr(default, name) else None
            for name, value in vars(corpus).items()
            if name in ("input_files", "input_pattern", "json_field", "text_column")
        }
        lines = profile.document if profile.document != default.document else None
        self._decide(
            CommandLine.of(
                "vocab",
                **reading,
                output=self.vocab,
                subword_type=sizes.subword_type,
                vocab_size=sizes.vocab_size,
                cased=sizes.cased,
            ),
            CommandLine.of(
                "preprocess",
                **reading,
                document=lines,
                output=self.data,
                vocab=self.vocab,
                seq_length=sizes.seq_length,
                prefix=sizes.prefix,
                suffix=sizes.suffix,
                eol_token="none",
                valid_fraction=sizes.valid_fraction,
            ),
        )

    def _stage(self, name: str, done: Callable[[], bool]) -> None:
        command = self._command(name)
        if done():
            return
        self.say(f"\n$ {command.shown()}")
        if name in ("vocab", "preprocess"):
            _prepare_workers()
        # Neither leaves a directory that counts as complete; what a kill left is removed.
        for stage, directory in (("vocab", self.vocab), ("convert", self.huggingface)):
            if name == stage and os.path.isdir(directory):
                shutil.rmtree(directory)
        for line in commands.run(command, self.say):
            self.say(line)

    def _choose_sentences(self) -> None:
        from tpu_tlm.data.tokenizers.factory import load_tokenizer
        from tpu_tlm.from_text.held_out import held_out_documents, masked_sentences

        corpus, _, preprocess, _ = self._command("preprocess").groups()
        found = masked_sentences(
            held_out_documents(corpus, preprocess),
            load_tokenizer(self.vocab),
            _SENTENCES,
            preprocess.seq_length - 2,
            self.config.seed,
        )
        self.state.sentences = [[one.text, one.word] for one in found]
        write_state(self.base, self.state)

    def _training_command(self, preset: str, steps: int) -> CommandLine:
        _, _, preprocess, _ = self._command("preprocess").groups()
        batch = sizing.batch_size(accelerator=_accelerator(), seq_length=preprocess.seq_length)
        saves = max(1, -(-steps // 5))
        return CommandLine.of(
            "train",
            preset=preset,
            train_dir=f"{self.data}/train",
            valid_dir=f"{self.data}/valid",
            run_dir=self.training,
            batch_size=batch,
            steps=steps,
            warmup_steps=int(sizing.WARMUP * steps),
            lr_schedule="wsd",
            wsd_decay=sizing.DECAY,
            save_steps=saves,
            seed=self.config.seed or None,
        )

    def _plan_training(self) -> None:
        from tpu_tlm.from_text.timing import step_timing

        preset, steps = self._preset(), self.config.steps
        if steps is None:
            self.say("\nmeasuring the training step of this model on this machine ...")
            trial = Config(*self._training_command(preset, 100).groups())
            timing, compilation = step_timing(trial)
            per_step = trial.data.batch_size * self._seq_length()
            seconds = self._training_seconds(compilation)
            larger = None
            if self.config.preset is None:
                larger = sizing.larger_preset(timing, seconds, per_step, self.state.tokens)
            if larger is not None:
                preset = larger
                trial = Config(*self._training_command(preset, 100).groups())
                timing, compilation = step_timing(trial)
                seconds = self._training_seconds(compilation)
            steps = sizing.steps_in(seconds, timing, per_step, self.state.tokens)
            passes = steps * per_step / max(self.state.tokens, 1)
            self.say(
                f"{preset}: {timing.seconds * 1000:.3g} ms a step of {per_step:,} tokens "
                f"({compilation:.0f} s to start and compile): {steps:,} steps in "
                f"{seconds / 60:.1f} min, {passes:.1f} passes over the text"
            )
        train = self._training_command(preset, steps)
        texts = [text for text, _ in self.state.sentences]
        self._decide(
            train,
            CommandLine.of("convert", self.training, self.huggingface, to="hf"),
            CommandLine.of("predict", "fill-mask", model=self.training, text=texts or None),
        )

    def _seq_length(self) -> int:
        return int(self._command("preprocess").groups()[2].seq_length)

    def _training_seconds(self, compilation: float) -> float:
        """Seconds for steps: what is left, less the next compilation and the end."""
        return 0.93 * max(self._left() - compilation - _AT_THE_END, 0.0)

    def _train(self) -> None:
        from tpu_tlm.from_text.timing import KeepTime
        from tpu_tlm.training import train

        fresh = not os.path.isdir(f"{self.training}/checkpoints")
        for may_shorten in (True, True, False):
            command = self._command("train")
            self.say(f"\n$ {command.shown()}")
            config = Config(*command.groups())
            watch = KeepTime(
                self.clock() + self._left() - _AT_THE_END, 1.0 - sizing.DECAY, self.clock
            )
            timed = may_shorten and self.config.steps is None and fresh
            try:
                train(config, callbacks=[watch] if timed else [])
                return
            except Preempted as stopped:
                if watch.steps is None:
                    where = f"--run_dir {self.config.run_dir}"
                    raise Preempted(
                        f"{stopped}; the same quickstart command ({where}) goes on from there",
                        stopped.exit_code,
                    ) from None
            # The learning rate so far is that of a run of fewer steps, too: WSD is constant until
            # it falls, and the warm-up is given in steps.
            warmup = config.optim.warmup_steps
            self.say(f"steps take longer than measured: {watch.steps:,} steps fit the time")
            shorter = list(command.arguments)
            shorter[shorter.index("--steps") + 1] = str(watch.steps)
            assert warmup is not None
            self._decide(replace(command, arguments=tuple(shorter)))

    # The end

    def _finish(self) -> QuickstartResult:
        guesses = self._fill_masks()
        loss, unigram = self._losses()
        picture = self._picture(unigram)
        listed = [
            self._command(name) for name in ("vocab", "preprocess", "train", "convert", "predict")
        ]
        text = commands.script(listed, self.base, self.config.text)
        filesystem.write_bytes(f"{self.base}/{SCRIPT}", text.encode())
        report = f"{self.base}/report.html"
        shutil.copyfile(f"{self.training}/report.html", report)
        result = QuickstartResult(
            self.training,
            self.huggingface,
            report,
            picture,
            [one.shown() for one in listed],
            loss,
            unigram,
            guesses,
            self.clock() - self.begun,
        )
        for line in summary_lines(result, self.base, self.config):
            self.say(line)
        return result

    def _fill_masks(self) -> list[tuple[str, str, list[str]]]:
        from tpu_tlm.formats.load import load
        from tpu_tlm.inference.fill_mask import FillMask

        if not self.state.sentences:
            self.say("no sentence of the held-out text is of a length to show")
            return []
        fill = FillMask.of(load(self.training))
        self.say(f"\n$ {self._command('predict').shown()}\n")
        lines, found = [], []
        for text, word in self.state.sentences:
            (mask, *_) = fill(text, 5)
            tokens = [guess.token for guess in mask]
            shown = [f"{guess.token} {guess.probability:.0%}" for guess in mask]
            lines += [text, f"    {', '.join(shown)}    (the text has: {word})"]
            found.append((text, word, tokens))
        for line in lines:
            self.say(line)
        filesystem.write_bytes(f"{self.base}/{ANSWERS}", ("\n".join(lines) + "\n").encode())
        return found

    def _losses(self) -> tuple[float, float]:
        from tpu_tlm.data.dataset.dataset import open_dataset
        from tpu_tlm.data.dataset.word_frequencies import unigram_loss
        from tpu_tlm.training.metrics import read_metrics

        records = read_metrics(f"{self.training}/metrics.jsonl")
        losses = [one["loss"] for one in records if one["kind"] == "valid" and "loss" in one]
        if not losses:
            raise TlmError(f"{self.training}/metrics.jsonl: has no validation loss")
        train, valid = (open_dataset(f"{self.data}/{part}") for part in ("train", "valid"))
        return float(losses[-1]), unigram_loss(train, valid, train.load_tokenizer(), 20_000)

    def _picture(self, unigram: float) -> str | None:
        from tpu_tlm.training.report.loss_curve import curve

        path = f"{self.base}/loss.svg"
        try:
            curve(self.training, path, lines={"word frequencies": unigram})
        except UsageError as error:  # no matplotlib; the report has the curve, too
            self.say(f"note: {error}")
            return None
        return path


def _accelerator() -> bool:
    from tpu_tlm.devices import installation

    machine = installation.machine()
    return bool(machine.chips) or machine.nvidia


def _prepare_workers() -> None:
    """Start the processes' server before TensorFlow is imported here."""
    from tpu_tlm.data.processes import prepare, usable_cores

    if usable_cores() > 1:
        prepare(["tpu_tlm.data.preprocessing.worker", "tokenizers"])
