"""Training from options to result: devices, run directory, trainer, callbacks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tpu_tlm.config import Config
from tpu_tlm.config.training import DataConfig
from tpu_tlm.errors import TlmError, UsageError
from tpu_tlm.training.callbacks import Callback

if TYPE_CHECKING:
    from tpu_tlm.data.dataset.dataset import Dataset
    from tpu_tlm.devices.select import Devices
    from tpu_tlm.training.micro_batches import Planner
    from tpu_tlm.training.result import TrainResult
    from tpu_tlm.training.trainer import Trainer


def train(
    config: Config,
    *,
    callbacks: Iterable[Callback] = (),
    display: bool = True,
    planner: Planner | None = None,
) -> TrainResult:
    """Train as options describe, or continue the run in their run directory.

    callbacks: are called after the built-in ones (progress, metrics, TensorBoard, NPZ export,
    report).
    display: whether to show progress on standard error. planner: `planning.launch.values`, which
    `--grad_accum auto` asks on a TPU. Imports TensorFlow.

    Raises `UsageError` for options and data that do not fit, `Preempted` with everything saved
    after a signal or a preemption notice (Ctrl-C in a notebook cell is one), `TlmError` otherwise.
    """
    from tpu_tlm.devices import select

    select.prepare(config.runtime)
    paths = {
        "--train_dir": config.data.train_dir,
        "--valid_dir": config.data.valid_dir,
        "--run_dir": config.run.run_dir,
    }
    select.check_paths(config.runtime, paths)
    devices = select.connect(config.runtime)
    print(devices.reason, flush=True)
    from tpu_tlm.checkpoints.run_lock import locked
    from tpu_tlm.checkpoints.unsaved_start import removed_unless_saved

    where, chief = config.run.run_dir, devices.is_chief
    with devices.peers, locked(where, chief), removed_unless_saved(where, chief):
        with _naming_memory(config):
            trainer = make_trainer(
                config, devices, callbacks=callbacks, display=display, planner=planner
            )
            return trainer.fit()


@contextlib.contextmanager
def _naming_memory(config: Config) -> Iterator[None]:
    """One line with the fix where a step has no memory."""
    import tensorflow as tf

    from tpu_tlm.training.start_report import out_of_memory

    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # TensorFlow reports a full disk, for one under its program cache, by the same class.
        if os.strerror(errno.ENOSPC).lower() in str(error).lower():
            raise TlmError(f"{' '.join(str(error).split())[:500]}: make room") from error
        raise TlmError(out_of_memory(config)) from error
    except (tf.errors.InternalError, MemoryError) as error:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "exhausted" in text:
            raise TlmError(out_of_memory(config)) from error
        raise


def make_trainer(
    config: Config,
    devices: Devices,
    *,
    callbacks: Iterable[Callback] = (),
    display: bool = True,
    planner: Planner | None = None,
) -> Trainer:
    """Build the experiment, prepare its run directory, and return a trainer of it.

    Raises `UsageError` for options and data that do not fit, or that do not continue the run in the
    run directory.
    """
    from tpu_tlm.checkpoints.run_checkpoints import RunCheckpoints
    from tpu_tlm.checkpoints.run_dir import RunDir
    from tpu_tlm.data.dataset.stream import Stream
    from tpu_tlm.training import setup
    from tpu_tlm.training.best import KeepBest
    from tpu_tlm.training.default_rate import with_default_rate
    from tpu_tlm.training.evaluation import check_data
    from tpu_tlm.training.initial_model import taken_line, with_initial_model
    from tpu_tlm.training.loggers import check_installed
    from tpu_tlm.training.micro_batches import AUTO, with_micro_batches
    from tpu_tlm.training.start_report import start_lines
    from tpu_tlm.training.trainer import Intervals, Trainer
    from tpu_tlm.training.watch import SpaceSaves

    check_installed(config.run.log)
    given = config
    config, initial = with_initial_model(config)
    config = with_default_rate(given, config)
    data, run = config.data, config.run
    auto = config.optim.grad_accum == AUTO
    if auto:
        config = replace(config, optim=replace(config.optim, grad_accum=1))
    experiment = setup.build(config, devices, None if initial is None else initial.model)
    if initial is not None and initial.taken:
        print(taken_line(initial))
    datasets = experiment.datasets
    for dataset in (datasets.train, datasets.valid):
        if dataset is not None:
            check_data(experiment.objective, dataset)
    directory = RunDir(run.run_dir)
    if auto:
        config, experiment, line = with_micro_batches(
            config, experiment, devices, directory, planner
        )
        print(line, flush=True)
    # Before anything is written: a run that does not fit is refused.
    lines = start_lines(config, experiment, devices)
    _prepare(directory, config, experiment, devices)
    for line in lines:
        print(line)
    stream = Stream(
        datasets.train,
        seed=run.seed,
        batch_size=data.batch_size,
        window_shards=data.window_shards,
        readers=data.num_train_workers,
    )
    epoch = max(1, datasets.train.num_samples // data.batch_size)
    save_steps = run.save_steps or max(1, epoch // max(1, run.saves_per_epoch))
    checkpoints = RunCheckpoints(directory.checkpoints, run.keep, run.keep_every)
    watching: list[Callback] = []
    if run.keep_best and datasets.valid is not None and devices.is_chief:
        watching.append(KeepBest(checkpoints))
    space = SpaceSaves()
    if run.save_steps is None and run.eval_steps is None:
        watching.append(space)
    if display and devices.is_chief and experiment.spec.kind in ("mlm", "clm"):
        watching.append(_plateau(config, experiment))
    space.trainer = Trainer(
        experiment,
        devices,
        directory,
        checkpoints,
        stream,
        Intervals(
            save_steps,
            run.eval_steps or save_steps,
            run.steps_per_call,
            config.runtime.grace_seconds,
        ),
        eval_batch_size=data.eval_batch_size,
        init_from=initial,
        new_token_init=run.new_token_init,
        xla=config.runtime.xla,
        callbacks=[
            *_built_in(config, directory, devices, experiment, display),
            *watching,
            *callbacks,
        ],
    )
    return space.trainer


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 of what decides order and content of the examples: shards, sizes, checksums."""
    from tpu_tlm import filesystem

    shards = [(s.name, s.samples, s.bytes, s.sha256) for s in dataset.shards]
    return filesystem.sha256(json.dumps([dataset.num_samples, dataset.seq_length, shards]).encode())


def _prepare(directory: Any, config: Config, experiment: Any, devices: Devices) -> None:
    """Begin or continue the run directory, once all workers have the same options and data."""
    from tpu_tlm.training.worker_agreement import check_same

    datasets, peers = experiment.datasets, devices.peers
    identity = {
        "tokenizer": datasets.tokenizer.fingerprint(),
        "training data": data_fingerprint(datasets.train),
    }
    check_same(peers, config.parts(), identity)
    _check_length(directory, config)
    changes = directory.prepare(
        config.parts(), identity, write=devices.is_chief, restart=config.run.restart
    )
    for change in changes:
        print(f"continuing with another option: {change}")
    if devices.is_chief:
        datasets.tokenizer.save(directory.tokenizer)


def _check_length(directory: Any, config: Config) -> None:
    """Refuse another batch size where epochs would count the steps already made by it."""
    if config.run.steps is not None or not (directory.exists() and directory.saved()):
        return
    (old,) = directory.load([DataConfig])
    if old.batch_size != config.data.batch_size:
        raise UsageError(
            f"--batch_size was {old.batch_size} and is now {config.data.batch_size}: give --steps,"
            " the number of steps in all, since an epoch has another number of steps now"
        )


def _plateau(config: Config, experiment: Any) -> Callback:
    """The callback that notices a loss that stays at word frequencies."""
    from tpu_tlm.data.dataset.word_frequencies import unigram_loss
    from tpu_tlm.training.schedules import warmup_of
    from tpu_tlm.training.watch import Plateau, advice

    datasets, model = experiment.datasets, config.model
    train = datasets.train

    def unigram() -> float:
        return unigram_loss(train, train, datasets.tokenizer, 10_000)

    helps = advice(
        config.optim.lr, model.d_model, model.weight_std, "learned" in model.position_encoding
    )
    return Plateau(unigram, warmup_of(config.optim, experiment.total_steps), helps, _say)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"note: {text}", file=sys.stderr, flush=True)


def _built_in(
    config: Config, directory: Any, devices: Devices, experiment: Any, display: bool
) -> Iterable[Callback]:
    """The callbacks that options ask for; only the chief writes files."""
    from tpu_tlm.training.metrics import Metrics
    from tpu_tlm.training.progress import Progress
    from tpu_tlm.training.recorders import ExportNpz, RecordMetrics
    from tpu_tlm.training.tensorboard import TensorBoard

    run, options = config.run, config.as_dict()
    if display:
        yield Progress()
    if not devices.is_chief:
        return
    yield RecordMetrics(directory.metrics, lambda step: Metrics(directory.metrics, start=step))
    if run.tensorboard:
        yield RecordMetrics(directory.tb, lambda step: TensorBoard(directory.tb, step, options))
    yield from _loggers(config, directory)
    if run.export_npz:
        yield ExportNpz(directory.npz)
    if run.samples:
        yield _samples(config, directory, experiment)
    if run.report:
        from tpu_tlm.training.report.callback import WriteReport

        yield WriteReport(directory)


def _loggers(config: Config, directory: Any) -> Iterable[Callback]:
    from tpu_tlm.training.loggers import make_logger
    from tpu_tlm.training.recorders import RecordMetrics

    def opener(name: str) -> Callable[[int], Any]:
        return lambda step: make_logger(name, directory.path, config.as_dict())

    for name in dict.fromkeys(config.run.log):
        # Loggers of other programs may belong to the thread that opened them.
        yield RecordMetrics(f"--log {name}", opener(name), background=False)


def _samples(config: Config, directory: Any, experiment: Any) -> Callback:
    from tpu_tlm.training.samples import GuessSamples, questions
    from tpu_tlm.training.tensorboard import SampleTexts

    data, spec = experiment.datasets, experiment.spec
    asked = questions(data.valid or data.train, data.tokenizer, spec, config.run.samples)
    told = [SampleTexts(directory.tb)] if config.run.tensorboard else []
    return GuessSamples(directory.path, asked, spec, data.tokenizer, told)
