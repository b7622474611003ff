"""Fine-tuning as one call: one run, several seeds, or a small grid first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tpu_tlm import filesystem
from tpu_tlm.checkpoints.run_lock import locked
from tpu_tlm.checkpoints.unsaved_start import removed_unless_saved
from tpu_tlm.config import cli
from tpu_tlm.devices import select
from tpu_tlm.devices.select import Devices
from tpu_tlm.errors import OptionError, Preempted
from tpu_tlm.models.layers.target import runs_on
from tpu_tlm.tasks.metrics import improves, require_sklearn
from tpu_tlm.tasks.options import CLASSES, FinetuneOptions, check
from tpu_tlm.training.finetuning.predict import load_predictor
from tpu_tlm.training.finetuning.prepare import Prepared, prepare
from tpu_tlm.training.finetuning.report import page
from tpu_tlm.training.finetuning.results import PAGE, REPORT, finite, report, write_predictions
from tpu_tlm.training.finetuning.run import FinetuneRun, Finished
from tpu_tlm.training.finetuning.serve import save_serving
from tpu_tlm.training.finetuning.source import Source, load_source


@dataclass(frozen=True)
class FinetuneResult:
    """A finished fine-tuning: `predict` and `load` take `run_dir`.

    metric: what chose the best checkpoint. valid, test: metrics of the best model, of several
    seeds their means. runs: run directory -> metrics of the test data, else validation data.
    """

    run_dir: str
    metric: str
    valid: dict[str, float]
    test: dict[str, float] | None
    runs: dict[str, dict[str, float]]


def _write_json(path: str, value: Any) -> None:
    text = json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n"
    filesystem.write_bytes(path, text.encode())


def _one(
    options: FinetuneOptions, source: Source, prepared: Prepared, devices: Devices
) -> tuple[FinetuneRun, Finished]:
    """One run with its files."""
    where, chief = options.run.run_dir, devices.is_chief
    with locked(where, chief), removed_unless_saved(where, chief):
        run = FinetuneRun(options, source, prepared, devices)
        finished = run.fit()
        if devices.is_chief:
            settings = {
                "model": source.path,
                "seed": options.fit.seed,
                "lr": run.lr,
                "epochs": run.epochs,
                "batch_size": options.fit.batch_size,
                "pooling": prepared.head.pooling,
                "parameters": source.parameters,
                "train": options.run.train,
                "valid": options.run.valid,
                "test": options.run.test,
            }
            found = report(prepared, finished, settings)
            directory = options.run.run_dir.rstrip("/")
            _write_json(f"{directory}/{REPORT}", found)
            filesystem.write_bytes(f"{directory}/{PAGE}", page(found).encode())
            tested = prepared.test is not None and finished.test_outputs is not None
            split = prepared.test if tested else prepared.valid
            outputs = finished.test_outputs if tested else finished.valid_outputs
            assert split is not None and outputs is not None
            write_predictions(directory, prepared.task, split, outputs)
            if options.run.serving:
                save_serving(load_predictor(directory), f"{directory}/serving")
    return run, finished


def _go_on(run: FinetuneRun, devices: Devices) -> None:
    """Raise `Preempted` where a signal came too late to stop `run`; another run would follow."""
    notice = run.notice
    reasons = [reason for reason in devices.peers.gather(notice.reason) if reason]
    if reasons:
        notice.give(reasons[0])
        raise Preempted(
            f"stopped by {notice.reason} after {run.directory.path} was complete: the same "
            "command continues with the next run",
            notice.exit_code,
        )


def _say(name: str, values: dict[str, float]) -> None:
    shown = "  ".join(f"{key} {value:.4f}" for key, value in values.items())
    print(f"{name}: {shown}", flush=True)


def _trials(
    options: FinetuneOptions, source: Source, prepared: Prepared, devices: Devices
) -> FinetuneOptions:
    """Train each pair of learning rate and epochs; returns the options with the best, on
    validation data."""
    from tpu_tlm.tasks.options import default_epochs, default_lr

    run, fit = options.run, options.fit
    lr = fit.lr or default_lr(source.parameters, options.head.finetune)
    epochs = fit.epochs or default_epochs(len(prepared.train.rows))
    table, best = [], None
    for rate in run.trial_lrs or [lr / 2, lr, lr * 2]:
        for passes in run.trial_epochs or [epochs]:
            directory = f"{run.run_dir.rstrip('/')}/trials/lr-{rate:g}-epochs-{passes:g}"
            print(f"trial: --lr {rate:g} --epochs {passes:g}", flush=True)
            done, finished = _one(
                options.changed(run_dir=directory, lr=rate, epochs=passes, trials=False, test=None),
                source,
                Prepared(**{**vars(prepared), "test": None}),
                devices,
            )
            _go_on(done, devices)
            value = finished.valid[finished.metric]
            table.append({"lr": rate, "epochs": passes, finished.metric: value})
            if best is None or improves(finished.metric, value, best[0]):
                best = value, rate, passes
    assert best is not None
    names = list(table[0])
    print("  ".join(f"{name:>12}" for name in names))
    for row in table:
        mark = "  <- best" if (row["lr"], row["epochs"]) == best[1:] else ""
        print("  ".join(f"{row[name]:12g}" for name in names) + mark)
    if devices.is_chief:
        _write_json(f"{run.run_dir.rstrip('/')}/trials.json", table)
    return options.changed(lr=best[1], epochs=best[2], trials=False)


def finetune_model(**options: Any) -> FinetuneResult:
    """Fine-tune with options by name, such as `task="classify", model=..., train=..., run_dir=...`.

    All are those of `tpu_tlm.finetune`; what is not given has its default. Raises `UsageError` for
    a name that is not an option, and as `finetune`.
    """
    parts = cli.build(list(CLASSES), options, "finetune")
    chosen = FinetuneOptions(*parts)
    select.prepare(chosen.runtime)
    devices = select.connect(chosen.runtime)
    with devices.peers:
        return finetune(chosen, devices)


def finetune(options: FinetuneOptions, devices: Devices) -> FinetuneResult:
    """Fine-tune a model as the options say, or continue where the same call stopped.

    With several seeds each has a run directory `seed-N` in `run_dir`; the data, and what is held
    out of it, are the same for all. Raises `UsageError` for what cannot be used, `Preempted` after
    SIGTERM with everything saved.
    """
    check(options)
    require_sklearn()
    runs_on(devices.name)
    run = options.run
    source = load_source(
        run.model,
        step=run.step,
        tokenizer=run.tokenizer,
        codes=run.codes,
        mead_config=run.mead_config,
        decoder=options.head.pooling == "decoder",
    )
    parts = "encoder and decoder" if source.spec.kind == "seq2seq" else "the encoder"
    print(f"{source.path}: {source.parameters:,} parameters in {parts}")
    for note in source.notes:
        print(f"note: {note}")
    prepared = prepare(options, source)
    if run.trials:
        options = _trials(options, source, prepared, devices)
    if run.seeds == 1:
        _, finished = _one(options, source, prepared, devices)
        _say("validation", finished.valid)
        if finished.test is not None:
            _say("test", finished.test)
        print(f"best model, {REPORT} and {PAGE} in {run.run_dir}")
        return FinetuneResult(
            run.run_dir,
            finished.metric,
            finished.valid,
            finished.test,
            {run.run_dir: finished.test or finished.valid},
        )
    return _seeds(options, source, prepared, devices)


def _seeds(
    options: FinetuneOptions, source: Source, prepared: Prepared, devices: Devices
) -> FinetuneResult:
    run, first = options.run, options.fit.seed
    base = run.run_dir.rstrip("/")
    results: dict[str, Finished] = {}
    for seed in range(first, first + run.seeds):
        directory = f"{base}/seed-{seed}"
        print(f"seed {seed}: {directory}", flush=True)
        done, finished = _one(
            options.changed(run_dir=directory, seed=seed, seeds=1), source, prepared, devices
        )
        results[directory] = finished
        if seed + 1 < first + run.seeds:
            _go_on(done, devices)
    summary: dict[str, Any] = {}
    for name in ("valid", "test"):
        found = [getattr(f, name) for f in results.values() if getattr(f, name) is not None]
        if not found:
            continue
        summary[name] = {}
        for metric in found[0]:
            values = np.array([f[metric] for f in found])
            summary[name][metric] = {
                "mean": float(values.mean()),
                "standard_deviation": float(values.std(ddof=1)),
                "values": values.tolist(),
            }
        shown = "  ".join(
            f"{m} {v['mean']:.4f} +- {v['standard_deviation']:.4f}"
            for m, v in summary[name].items()
        )
        print(f"{name}, {run.seeds} seeds (mean +- standard deviation): {shown}")
    if devices.is_chief:
        _write_json(f"{base}/seeds.json", summary)
    means = {name: {m: v["mean"] for m, v in own.items()} for name, own in summary.items()}
    if not means:
        raise OptionError("--seeds: no run was finished")
    metric = next(iter(results.values())).metric
    return FinetuneResult(
        base,
        metric,
        means["valid"],
        means.get("test"),
        {directory: f.test or f.valid for directory, f in results.items()},
    )
