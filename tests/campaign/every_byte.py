"""Every byte of every file of a small run, an export and a dataset changed, one at a time.

One child process reads the files again after each change by the functions that the commands call,
which takes milliseconds where a command in a process of its own takes half a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaign.forked import Limits, Outcome, Watch, run
from tests.campaign.fuzz import LINE, Fault, Figures, digest_of
from tests.campaign.seeds import RUN, command
from tests.toy import toy_dataset

_SIZES = "--d_model 4 --d_ff 4 --num_heads 1 --num_layers 1 --rpr_k 1".split()
# Seconds for one reading.
_LIMIT = 20
_EXPORT = "run/npz/model.npz"
# What no reader of a model or of a dataset opens.
_UNREAD = ("lock", "metrics.jsonl", "samples.jsonl", "report.html")

Reader = Callable[[Path], str]


def every_byte(
    base: Path,
    stride: int = 1,
    place: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Figures]:
    """Change each byte, or one in `stride`, and judge what the readers say.

    place: has a dataset `data` and a run `run` with exports; without it they are made, very small.
    """
    if place is None:
        place = base / "small"
        _run(_make, [place], base / "said" / "small", base / "tmp")
    found = {}
    for kind in READERS:
        work = base / "walked"
        shutil.rmtree(work, ignore_errors=True)
        for name in ("run", "data"):
            shutil.copytree(place / name, work / name)
        *others, newest = sorted((work / "run" / "npz").iterdir())
        for other in others:
            other.unlink()
        newest.rename(work / _EXPORT)
        said = base / "said" / "walk"
        outcome = _run(_walk, [kind, work, stride], said, base / "tmp", (str(work),))
        result = json.loads(outcome.out.splitlines()[-1])
        figures = found[kind] = Figures(
            inputs=result["inputs"],
            taken=result["taken"],
            refused=result["inputs"] - result["taken"],
            slowest=result["slowest"],
            peak=outcome.peak,
        )
        written = [event for event in outcome.events if event[0] == "write"]
        figures.faults = [Fault(*fault) for fault in result["faults"]]
        figures.faults += [Fault("outside", kind, 0, str(event), "") for event in written[:3]]
        for fault in figures.faults:
            say(f"{fault.kind}: {fault.target}: {fault.what}")
        say(f"{kind}: {figures.inputs} bytes, {len(figures.faults)} faults")
    return found


def _run(
    main: Callable[[list[str]], int],
    argv: list[object],
    said: Path,
    temporary: Path,
    writable: tuple[str, ...] = (),
) -> Outcome:
    shutil.rmtree(said, ignore_errors=True)
    temporary.mkdir(exist_ok=True)
    watch = Watch((*writable, str(temporary))) if writable else None
    environ = {"TMPDIR": str(temporary)}
    outcome = run(main, argv, said, limits=Limits(3600.0), watch=watch, environ=environ)
    if outcome.code != 0:
        raise RuntimeError(outcome.out[-2000:] + outcome.err[-2000:])
    return outcome


def _make(argv: list[str]) -> int:
    base = Path(argv[0])
    toy_dataset(base / "data", examples=24, shards=2)
    flags = [*RUN, *_SIZES, "--train_dir", base / "data", "--run_dir", base / "run"]
    flags += ["--steps", 2, "--save_steps", 1, "--export_npz", "true"]
    return command("train")([str(flag) for flag in flags]) or 0


def _walk(argv: list[str]) -> int:
    """Change every byte of the files of one kind; prints one line of JSON."""
    kind, base, stride = argv[0], Path(argv[1]), int(argv[2])
    names, prepare = READERS[kind]
    read = prepare(base)
    want = read(base)
    inputs = taken = 0
    slowest = 0.0
    faults = []
    signal.signal(signal.SIGALRM, _too_slow)
    for path in sorted(path for name in names for path in base.glob(name) if path.is_file()):
        if path.name in _UNREAD:
            continue
        for at in range(min(stride - 1, 7), path.stat().st_size, stride):
            with _changed(path, at):
                fault, seconds, ok = _judged(read, base, want)
            inputs += 1
            taken += ok
            slowest = max(slowest, seconds)
            if fault:
                what = f"{path.relative_to(base)} byte {at}: {fault[1]}"
                faults.append((fault[0], kind, at, what, ""))
    print(json.dumps({"inputs": inputs, "taken": taken, "slowest": slowest, "faults": faults}))
    return 0


@contextlib.contextmanager
def _changed(path: Path, at: int) -> Iterator[None]:
    """One bit of one byte flipped, which bit by its place; afterwards as it was."""
    with path.open("r+b", buffering=0) as file:
        old = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([old[0] ^ (1 << at % 8)]), at)
    try:
        yield
    finally:
        with path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), old, at)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"not read within {_LIMIT} s")


def _judged(read: Reader, base: Path, want: str) -> tuple[tuple[str, str] | None, float, bool]:
    """(kind of fault and what shows it, or None; seconds; whether the files were taken)."""
    from tpu_tlm.errors import TlmError

    heard, began = io.StringIO(), time.monotonic()
    signal.alarm(_LIMIT)
    try:
        with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
            got = read(base)
    except TlmError as error:
        text = str(error)
        named = str(base) in text and "\n" not in text and len(text) < LINE
        return None if named else ("not named", text[-300:]), time.monotonic() - began, False
    except TimeoutError as error:
        return ("hang", str(error)), time.monotonic() - began, False
    except BaseException as error:
        return (
            ("traceback", f"{type(error).__name__}: {error}"[:300]),
            time.monotonic() - began,
            False,
        )
    finally:
        signal.alarm(0)
    silent = got != want and "warning" not in heard.getvalue()
    fault = ("silent", "another result without a word") if silent else None
    return fault, time.monotonic() - began, True


def _model_of(source: str) -> Reader:
    """A model's arrays, shape and tokenizer; what `report` would print counts as a warning."""

    def read(base: Path) -> str:
        from tpu_tlm.formats.load import load

        model = load(str(base / source))
        for line in (*model.skipped, *model.notes):
            print(f"warning: {line}", file=sys.stderr)
        digest = hashlib.sha256(model.spec.to_json().encode())
        for name in sorted(model.values):
            digest.update(name.encode() + model.values[name].tobytes())
        tokenizer = model.tokenizer()
        digest.update(repr((tokenizer.description(), tokenizer.tokens)).encode())
        return digest.hexdigest()

    return read


def _options(base: Path) -> Reader:
    """What a continued run compares with its options and with its inputs."""
    from tpu_tlm.checkpoints.run_dir import RunDir
    from tpu_tlm.config import Config

    parts = RunDir(str(base / "run")).load(Config.groups())
    identity = json.loads((base / "run" / "identity.json").read_text())
    known = {name: identity[name] for name in identity if name not in ("sha256", "trained")}

    def read(where: Path) -> str:
        return repr(RunDir(str(where / "run")).prepare(parts, known, write=False))

    return read


def _opened(base: Path) -> Reader:
    """A dataset's description and tokenizer."""

    def read(where: Path) -> str:
        from tpu_tlm.data.dataset.dataset import open_dataset

        dataset = open_dataset(str(where / "data"))
        tokenizer = dataset.load_tokenizer()
        dataset = dataset.for_tokenizer(tokenizer)
        shown = {
            field.name: repr(getattr(dataset, field.name)) for field in dataclasses.fields(dataset)
        }
        return repr((shown, tokenizer.description(), tokenizer.tokens))

    return read


def _streamed(base: Path) -> Reader:
    """Every record of a dataset, by the stream that training reads."""
    from tpu_tlm.data.dataset.dataset import open_dataset
    from tpu_tlm.data.dataset.stream import Stream

    dataset = open_dataset(str(base / "data"))
    dataset = dataset.for_tokenizer(dataset.load_tokenizer())
    batches = Stream(dataset, seed=0, batch_size=8).batches(0).take(3)
    return lambda where: digest_of(batches, dataset)


# kind -> (the files whose bytes are changed, what makes their reader)
READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Reader]]] = {
    "every byte of a run's model": (
        ("run/checkpoints/**/*", "run/tokenizer/*"),
        lambda base: _model_of("run"),
    ),
    "every byte of a run's options": (("run/config.yaml", "run/identity.json"), _options),
    "every byte of an export": (
        (_EXPORT,),
        lambda base: _model_of(_EXPORT),
    ),
    "every byte of a dataset's description": (("data/md.yml", "data/tokenizer/*"), _opened),
    "every byte of a dataset's shards": (("data/*.tfrecord",), _streamed),
}
