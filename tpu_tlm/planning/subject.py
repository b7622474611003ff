"""A training configuration and a slice -> figures of its step, for any batch and length."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import tensorflow as tf

from tpu_tlm.config import Config, ModelConfig, PlanConfig
from tpu_tlm.errors import UsageError
from tpu_tlm.planning.chips import Slice, parse_slice
from tpu_tlm.planning.compiler import Refused, compile_for
from tpu_tlm.planning.figures import Figures, program_of
from tpu_tlm.planning.lower import lower
from tpu_tlm.planning.stand_in import batch_specs, fitting
from tpu_tlm.training import setup
from tpu_tlm.training.initial_model import taken_line, with_initial_model
from tpu_tlm.training.setup import Datasets
from tpu_tlm.training.step import TrainStep

Say = Callable[[str], None]
Answer = Figures | Refused
# For the schedule, where neither the data nor --steps give the length of the run.
STEPS = 100_000


class StepProgram(NamedTuple):
    """A step, the specs of its batch on one chip, and tokens and operations of one example."""

    step: TrainStep
    batch: Mapping[str, tf.TensorSpec]
    tokens: int
    flops: float


@dataclass(frozen=True)
class Subject:
    """A planned run: its options, its data or a placeholder for them, and the chips."""

    options: Config
    corpora: Datasets
    slice_: Slice
    say: Say

    @property
    def length(self) -> int:
        """Tokens of an example."""
        return self.corpora.train.seq_length

    @property
    def unit(self) -> int:
        """A batch is a multiple of this: one row per chip and micro-batch."""
        return self.slice_.chips * max(1, self.options.optim.grad_accum)

    def of_length(self, length: int) -> Subject:
        """The same with examples of `length` tokens (second texts of pairs in proportion)."""
        train = self.corpora.train
        lengths = {
            name: max(1, round(n * length / train.seq_length)) for name, n in train.lengths.items()
        }
        data = dataclasses.replace(train, seq_length=length, lengths={**lengths, "x": length})
        return replace(self, corpora=replace(self.corpora, train=data))

    @property
    def steps(self) -> int | None:
        """Steps of the whole run; None where neither `--steps` nor the data say it."""
        return self._steps(self.options) if self._has_length(self.options) else None

    def _compile(self, options: Config) -> tuple[Answer, float]:
        began = time.perf_counter()
        batch = options.data.batch_size
        setup.check_batch(
            replace(options, data=replace(options.data, eval_batch_size=None)), self.slice_.chips
        )
        self.say(
            f"compiling {options.model.num_layers} layers, batch {batch} of {self.length} tokens "
            f"for {self.slice_.name}"
        )
        step, specs, tokens, flops = self.program(options, batch // self.slice_.chips)
        lowered = lower(step, specs, self.slice_.chips, self.slice_.name)
        compiled = compile_for(lowered, self.slice_)
        seconds = time.perf_counter() - began
        if isinstance(compiled, Refused):
            return compiled, seconds
        figures = Figures(
            self.slice_,
            batch,
            self.length,
            tokens * batch,
            flops * batch,
            program_of(compiled, self.slice_),
            (options.model.num_layers,),
            seconds,
        )
        return figures, seconds

    def program(self, options: Config, rows: int) -> StepProgram:
        """The step of these options for `rows` rows of a chip."""
        precision = setup.precision_of(options.runtime, "tpu")
        experiment = setup.experiment_of(
            options, self.corpora, self._steps(options), precision, replicas=self.slice_.chips
        )
        step, spec = experiment.step, experiment.spec
        tokens, flops = step.objective.tokens(spec), step.objective.flops(spec)
        return StepProgram(step, batch_specs(self.corpora.train, rows), tokens, flops)

    def _steps(self, options: Config) -> int:
        samples = self.corpora.train.num_samples
        return setup.total_steps(options, samples) if self._has_length(options) else STEPS

    def _has_length(self, options: Config) -> bool:
        return options.run.steps is not None or self.corpora.train.num_samples > 0

    def with_batch(self, batch: int) -> Config:
        """The options with another batch."""
        return replace(self.options, data=replace(self.options.data, batch_size=batch))

    def with_accum(self, micro_batches: int) -> Subject:
        """The same with `micro_batches` micro-batches per step."""
        return replace(
            self,
            options=replace(
                self.options, optim=replace(self.options.optim, grad_accum=micro_batches)
            ),
        )

    def compile(self, batch: int) -> Answer:
        """Figures of the compiled program of the whole model."""
        return self._compile(self.with_batch(batch))[0]

    def quick(self, batch: int) -> Answer:
        """Extrapolated figures where possible, else compiled ones."""
        return self.extrapolate(batch) or self.compile(batch)

    def extrapolate(self, batch: int) -> Answer | None:
        """Figures of the whole model from programs of few layers; each further layer costs the
        same.

        None where layers differ in ways that this would miss. `Refused` where even few layers do
        not fit.
        """
        few = shallow(self.options.model)
        if few is None:
            return None
        options = self.with_batch(batch)
        found: list[Figures] = []
        for model in few:
            answer, _ = self._compile(replace(options, model=model))
            if isinstance(answer, Refused):
                return answer
            found.append(answer)
        one, two = found
        layers = (few[0].num_layers, few[1].num_layers)
        times = (self.options.model.num_layers - layers[1]) / (layers[1] - layers[0])
        return replace(
            two,
            flops=self.flops(options) * batch,
            program=two.program.plus(times, two.program, one.program),
            layers_compiled=layers,
            compile_seconds=one.compile_seconds + two.compile_seconds,
        )

    def flops(self, options: Config) -> float:
        """Operations of one example of the whole model."""
        spec, objective = setup.objective_of(options, self.corpora)
        return objective.flops(spec)


def shallow(model: ModelConfig) -> tuple[ModelConfig, ModelConfig] | None:
    """The model with one and with two periods of its layer pattern; None without such a pattern."""
    period = model.global_every if model.local_window else 1
    unlike = len(model.rpr_k) > 1 or model.num_decoder_layers not in (None, model.num_layers)
    if unlike or model.num_layers <= 2 * period:
        return None
    return replace(model, num_layers=period, num_decoder_layers=None), replace(
        model, num_layers=2 * period, num_decoder_layers=None
    )


def _with_initial_model(options: Config, plan: PlanConfig, say: Say) -> tuple[Config, PlanConfig]:
    """The options with the sizes of `--init_from`, as `train` takes them."""
    options, initial = with_initial_model(options)
    if initial is None or initial.model is None:
        return options, plan
    say(taken_line(initial))
    if options.data.train_dir:
        return options, plan
    spec = initial.model.spec
    tokens = spec.vocab_size - spec.sentinels
    return options, replace(
        plan,
        vocab_size=tokens if plan.vocab_size is None else plan.vocab_size,
        seq_length=spec.seq_length if plan.seq_length is None else plan.seq_length,
    )


def subject_of(options: Config, plan: PlanConfig, say: Say) -> Subject:
    """The planned run of a command line.

    Raises `UsageError` where the sizes of the data are not given, or are given twice.
    """
    if not options.runtime.tpu:
        raise UsageError("--tpu is required: the slice to plan for, such as v5e-1, v5e-8 or v6e-1")
    slice_ = parse_slice(options.runtime.tpu)
    options, plan = _with_initial_model(options, plan, say)
    if options.data.train_dir:
        for name, value in (
            ("seq_length", plan.seq_length),
            ("seq_length_y", plan.seq_length_y),
            ("vocab_size", plan.vocab_size),
        ):
            if value is not None:
                raise UsageError(
                    f"--{name} {value}: --train_dir determines it; leave one of the two out"
                )
        return Subject(options, setup.open_datasets(options.data, options.tokenizer), slice_, say)
    if plan.seq_length is None or plan.vocab_size is None:
        raise UsageError("give --train_dir, or --seq_length and --vocab_size instead")
    return Subject(
        options, fitting(options, plan.vocab_size, plan.seq_length, plan.seq_length_y), slice_, say
    )
