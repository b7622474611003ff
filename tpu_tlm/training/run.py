"""Training from options to result: devices, run directory, trainer, callbacks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tpu_tlm.config import Config
from tpu_tlm.training.callbacks import Callback

if TYPE_CHECKING:
    from tpu_tlm.data.dataset.dataset import Dataset
    from tpu_tlm.devices.select import Devices
    from tpu_tlm.training.trainer import Trainer, TrainResult


def train(
    config: Config,
    *,
    callbacks: Iterable[Callback] = (),
    display: bool = True,
) -> TrainResult:
    """Train as options describe, or continue the run in their run directory.

    callbacks: are called after the built-in ones (progress, metrics, TensorBoard, NPZ export,
    report).
    display: whether to show progress on standard error. Imports TensorFlow.

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
    with devices.team, locked(where, chief), removed_unless_saved(where, chief):
        return make_trainer(config, devices, callbacks=callbacks, display=display).fit()


def make_trainer(
    config: Config,
    devices: Devices,
    *,
    callbacks: Iterable[Callback] = (),
    display: bool = True,
) -> Trainer:
    """Build the experiment, prepare its run directory, and return a trainer of it.

    Raises `UsageError` for options and data that do not fit, or that do not continue the run in the
    run directory.
    """
    from tpu_tlm.checkpoints.manager import Checkpoints
    from tpu_tlm.checkpoints.run_dir import RunDir
    from tpu_tlm.data.dataset.stream import Stream
    from tpu_tlm.training import setup
    from tpu_tlm.training.evaluation import check_data
    from tpu_tlm.training.initial_model import taken_line, with_initial_model
    from tpu_tlm.training.loggers import check_installed
    from tpu_tlm.training.trainer import Intervals, Trainer

    check_installed(config.run.log)
    config, initial = with_initial_model(config)
    data, run = config.data, config.run
    experiment = setup.build(config, devices, None if initial is None else initial.model)
    if initial is not None and initial.taken:
        print(taken_line(initial))
    datasets = experiment.datasets
    for dataset in (datasets.train, datasets.valid):
        if dataset is not None:
            check_data(experiment.objective, dataset)
    directory = RunDir(run.run_dir)
    _prepare(directory, config, experiment, devices)
    stream = Stream(
        datasets.train,
        seed=run.seed,
        batch_size=data.batch_size,
        window_shards=data.window_shards,
        readers=data.num_train_workers,
    )
    epoch = max(1, datasets.train.num_samples // data.batch_size)
    save_steps = run.save_steps or max(1, epoch // max(1, run.saves_per_epoch))
    return Trainer(
        experiment,
        devices,
        directory,
        Checkpoints(directory.checkpoints, run.keep, run.keep_every),
        stream,
        Intervals(
            save_steps,
            run.eval_steps or save_steps,
            run.steps_per_call,
            config.runtime.grace_seconds,
        ),
        eval_batch_size=data.eval_batch_size,
        init_from=initial,
        xla=config.runtime.xla,
        callbacks=[*_built_in(config, directory, devices, experiment, display), *callbacks],
    )


def data_fingerprint(dataset: Dataset) -> str:
    """SHA-256 of what decides order and content of the examples: shards, sizes, checksums."""
    from tpu_tlm import filesystem

    shards = [(s.name, s.samples, s.bytes, s.sha256) for s in dataset.shards]
    return filesystem.sha256(json.dumps([dataset.num_samples, dataset.seq_length, shards]).encode())


def _prepare(directory: Any, config: Config, experiment: Any, devices: Devices) -> None:
    """Begin or continue the run directory, once all workers have the same options and data."""
    from tpu_tlm.training.worker_agreement import check_same

    datasets, team = experiment.datasets, devices.team
    identity = {
        "tokenizer": datasets.tokenizer.fingerprint(),
        "training data": data_fingerprint(datasets.train),
    }
    check_same(team, config.parts(), identity)
    changes = directory.prepare(
        config.parts(), identity, write=devices.is_chief, restart=config.run.restart
    )
    for change in changes:
        print(f"continuing with another option: {change}")
    if devices.is_chief:
        datasets.tokenizer.save(directory.tokenizer)
    for line in _plan(config, experiment.objective, experiment.total_steps):
        print(line)


def _plan(config: Config, objective: Any, total: int) -> list[str]:
    """Lines about the schedule and the micro-batches of a run."""
    from tpu_tlm.training.schedules import warmup_of

    optim = config.optim
    lines = [
        f"learning rate {optim.lr:g}, {optim.lr_schedule}, after {warmup_of(optim, total)} of"
        f" {total} steps of warm-up"
    ]
    if objective.cross_replica and optim.grad_accum > 1:
        others = config.data.batch_size // optim.grad_accum - 1
        lines.append(
            f"--grad_accum {optim.grad_accum}: each example is compared with the {others} others of"
            " its micro-batch"
        )
    return lines


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

    for name in dict.fromkeys(config.run.log):
        yield RecordMetrics(
            f"--log {name}",
            lambda step, name=name: make_logger(name, directory.path, config.as_dict()),  # type: ignore[misc]
        )


def _samples(config: Config, directory: Any, experiment: Any) -> Callback:
    from tpu_tlm.training.samples import GuessSamples, questions
    from tpu_tlm.training.tensorboard import SampleTexts

    data, spec = experiment.datasets, experiment.spec
    asked = questions(data.valid or data.train, data.tokenizer, spec, config.run.samples)
    told = [SampleTexts(directory.tb)] if config.run.tensorboard else []
    return GuessSamples(directory.path, asked, spec, data.tokenizer, told)
