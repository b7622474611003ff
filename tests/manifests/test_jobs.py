"""What the other Jobs do: vocabulary, dataset, fine-tuning, evaluation.

As those of `test_behaviour.py`, their pods run here as processes. They are stopped, killed, started
again by the manifest's own policy, and give what undisturbed pods give; mistakes are not retried.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from tests.bucket import NAME, Bucket
from tests.manifests.controllers import Place, Workload
from tests.manifests.render import overlay
from tests.manifests.stories import OTHERS, behaviour, one_of_each
from tests.toy import WORDS, toy_dataset
from tests.toy_runs import ToyRun
from tpu_tlm import filesystem
from tpu_tlm.data.tokenizers.base import DESCRIPTION
from tpu_tlm.data.tokenizers.factory import load_tokenizer
from tpu_tlm.preprocess import main as preprocess
from tpu_tlm.vocab import main as learn

STORIES = one_of_each(OTHERS)
# In the place of the manifest's finetune.yaml; the others have arguments after the manifest's own.
TASK = "batch_size: 8\nepochs: 12\nbuckets: 1\nlr: 0.0005\nxla: false\n"
TOY = {
    "finetune": (),
    "evaluate": ("--xla=false", "--batch_size=8"),
    "preprocess": ("--seq_length=32", "--workers=1"),
    "vocab": ("--vocab_size=60", "--workers=1"),
}
MISTAKES = {
    "finetune": "--lr=fast",
    "evaluate": "--batch_size=several",
    "preprocess": "--seq_length=long",
    "vocab": "--vocab_size=many",
}


def made(name: str, directory: Path, *extra: str, bucket: Bucket | None = None) -> Workload:
    """An overlay's workload with toy parameters, its storage `directory/storage` or a bucket."""
    storage, recipe = directory / "storage", directory / "recipe"
    for folder in (storage, recipe):
        folder.mkdir(parents=True, exist_ok=True)
    (recipe / "finetune.yaml").write_text(TASK)
    volumes = {"/storage": storage, "/etc/tpu-tlm": recipe}
    volumes |= {"/tmp": directory / "tmp", "/dev/shm": directory / "shm"}
    place = Place(volumes, dropped=("--tpu=local",))
    if bucket is not None:
        place.bucket["gs://BUCKET/tpu-tlm"] = f"gs://{NAME}/tpu-tlm"
        place.environ |= bucket.environ
    return Workload(overlay(name), place, directory / "pod", (*TOY[name.split("-")[0]], *extra))


def disturbed(job: Workload, *signals: tuple[int, int, Callable[[], bool]]) -> Workload:
    """The workload, run to its end. signals: which pod is sent which signal, and when."""
    try:
        for index, number, when in signals:
            job.signal(index, number, when)
        assert job.finish() == "Succeeded", job.said()
    finally:
        job.close()
    return job


def contents(directory: Path) -> dict[str, bytes]:
    """Name -> bytes of all files below a directory."""
    files = [path for path in directory.glob("**/*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def names(directory: Path) -> list[str]:
    """The files below a directory where others make and delete some."""
    found = [Path(folder, name) for folder, _, files in os.walk(directory) for name in files]
    return [str(path.relative_to(directory)) for path in found]


def test_every_job_is_covered() -> None:
    assert {behaviour(name) for name in OTHERS} == {behaviour(name) for name in STORIES}
    commands = [name.split("-")[0] for name in STORIES]
    assert commands == ["evaluate", "finetune", *["preprocess"] * 3, "vocab"]


# Fine-tuning and evaluation of a run


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.tsv and valid.tsv: whether the first word is of the first half; some labels wrong."""
    directory = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    for split, count in (("train", 128), ("valid", 32)):
        lines = ["text\tlabel"]
        for first in rng.integers(0, WORDS, count):
            text = " ".join(f"w{(first + i) % WORDS}" for i in range(6))
            right = rng.random() < 0.8
            lines.append(f"{text}\t{'low' if (first < WORDS // 2) == right else 'high'}")
        (directory / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return directory


def with_run(directory: Path, run: ToyRun, **folders: Path) -> Path:
    """A directory whose storage has the run and these folders."""
    storage = directory / "storage"
    (storage / "runs").mkdir(parents=True)
    (storage / "runs" / "first").symlink_to(run.run_dir)
    for name, folder in folders.items():
        (storage / name).symlink_to(folder)
    return directory


def tuned(job: Workload) -> dict[str, bytes]:
    """What fine-tuning leaves, but for reports (times are in them) and notes of checkpoints."""
    found = contents(job.place.volumes["/storage"] / "tasks" / "first")
    return {k: v for k, v in found.items() if "variables.data" in k or k.endswith(".jsonl")}


def test_fine_tuning_is_preempted_killed_and_finished(
    task: Path, toy_run: ToyRun, tmp_path: Path
) -> None:
    whole = disturbed(made("finetune-gpu-pvc", with_run(tmp_path / "whole", toy_run, task=task)))
    assert whole.codes == [0]
    job = made("finetune-gpu-pvc", with_run(tmp_path / "disturbed", toy_run, task=task))
    disturbed(
        job,
        (0, signal.SIGTERM, lambda: "epoch 2 " in job.said()),
        (0, signal.SIGKILL, lambda: "continuing" in job.said() and "epoch 5 " in job.said()),
    )
    assert (job.codes, job.starts) == ([143, 137, 0], [3]), job.said()
    assert job.said().count("continuing at step ") == 2
    kinds = {name.partition("/")[0] for name in tuned(job)}
    assert kinds == {"checkpoints", "progress", "predictions.jsonl"}
    assert tuned(job) == tuned(whole)


def processor_seconds(pid: int) -> float:
    """What a process has used; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def measured(job: Workload) -> dict[str, object]:
    """The one JSON object that evaluation printed, without the paths in it."""
    (line,) = [line for line in job.said().splitlines() if line.startswith("{")]
    return {key: value for key, value in json.loads(line).items() if key not in ("model", "data")}


def test_evaluation_is_stopped_killed_and_finished(toy_run: ToyRun, tmp_path: Path) -> None:
    valid = toy_dataset(tmp_path / "data" / "valid", examples=20_000, shards=1, seed=1)
    whole = disturbed(
        made("evaluate-cpu-pvc", with_run(tmp_path / "whole", toy_run, data=valid.parent))
    )
    assert whole.codes == [0]
    job = made("evaluate-cpu-pvc", with_run(tmp_path / "disturbed", toy_run, data=valid.parent))

    def works() -> bool:
        """Whether the pod has used a part of the seconds that it takes; it says nothing before."""
        process = job.processes[0]
        return process is not None and processor_seconds(process.pid) > 0.5

    disturbed(job, (0, signal.SIGTERM, works), (0, signal.SIGKILL, works))
    assert job.codes == [143, 137, 0], job.said()
    assert measured(job) == measured(whole) and measured(job)["examples"] == 20_000


# Text to a vocabulary and a dataset


def write_corpus(storage: Path, lines: int = 8000) -> Path:
    """A vocabulary and four files of text, where the manifests look for them."""
    (storage / "text").mkdir(parents=True)
    (storage / "vocab").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(50))]
    (storage / "vocab" / "vocab.txt").write_text("\n".join(words) + "\n")
    for part in range(4):
        text = (" ".join(f"w{(i * j + part) % 50}" for j in range(9)) for i in range(lines))
        (storage / "text" / f"{part}.txt").write_text("\n\n".join(text) + "\n")
    return storage


@dataclass
class Stored:
    """A job with a corpus in its storage, and what is in that; on a disk, or in a bucket."""

    job: Workload
    bucket: Bucket | None

    def files(self, folder: str) -> dict[str, bytes]:
        """Name -> bytes of all files below a folder of the storage."""
        if self.bucket is None:
            return contents(self.job.place.volumes["/storage"] / folder)
        prefix = f"tpu-tlm/{folder}/"
        found = self.bucket.objects(prefix).items()
        # An object of the folder's own name says that it is there.
        return {name.removeprefix(prefix): value for name, value in found if name != prefix}

    def names(self, folder: str) -> list[str]:
        """The files below a folder of the storage, while pods work."""
        if self.bucket is None:
            return names(self.job.place.volumes["/storage"] / folder)
        return list(self.files(folder))

    def seen(self, pattern: str, least: int) -> Callable[[], bool]:
        """Whether so many files of the storage, or of the pods' own disks, are called that."""

        def seen() -> bool:
            found = names(self.job.place.volumes["/tmp"])
            folders = ("data", "counts", "work")
            found += [f"{folder}/{n}" for folder in folders for n in self.names(folder)]
            return sum(fnmatch(name, pattern) for name in found) >= least

        return seen


def with_corpus(name: str, directory: Path, source: Path, bucket: Bucket) -> Stored:
    """An overlay's job whose storage holds the corpus of a directory."""
    if "gcs" in name:
        filesystem.upload(str(source), f"gs://{NAME}/tpu-tlm")
        return Stored(made(name, directory, bucket=bucket), bucket)
    shutil.copytree(source, directory / "storage")
    return Stored(made(name, directory), None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


def shards(found: dict[str, bytes]) -> dict[str, bytes]:
    """The records among the files of a dataset."""
    found = {name: value for name, value in found.items() if name.endswith(".tfrecord")}
    assert {name.partition("/")[0] for name in found} == {"train", "valid"}
    return found


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The records that one process makes of the text."""
    output = tmp_path_factory.mktemp("dataset")
    argv = ["--input_files", corpus / "text", "--vocab", corpus / "vocab", "--output", output]
    argv += ["--preset", "bert-base", "--valid_fraction", 0.01, *TOY["preprocess"]]
    assert preprocess([str(word) for word in argv]) == 0
    return shards(contents(output))


PARTS = "*/part-??????.json"


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("preprocess")])
def test_preprocessing_is_stopped_killed_and_finished(
    name: str, corpus: Path, dataset: dict[str, bytes], bucket: Bucket, tmp_path: Path
) -> None:
    """One pod goes on from the parts of the text that were read, or of eight two are made anew."""
    stored = with_corpus(name, tmp_path, corpus, bucket)
    pods = len(stored.job.starts)
    # Of several, none ends before all have worked, and the first is the last to end.
    killed = 0, signal.SIGKILL, stored.seen(PARTS, 2)
    if pods > 1:
        killed = pods - 1, signal.SIGKILL, stored.seen(f"*/lock-{pods - 1}*", 1)
    stopped = 0, signal.SIGTERM, stored.seen(PARTS, 1)
    disturbed(stored.job, *((stopped, killed) if pods == 1 else (killed, stopped)))
    assert sorted(stored.job.codes) == [*([0] * pods), 137, 143], stored.job.said()
    assert shards(stored.files("data")) == dataset and stored.files("work") == {}


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("vocab")])
def test_learning_a_vocabulary_is_stopped_killed_and_finished(
    name: str, corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Two of the eight pods have parts of the text; one is stopped, the other is killed."""
    text = tmp_path / "corpus" / "text"
    text.mkdir(parents=True)
    whole = (corpus / "text" / "0.txt").read_bytes()
    (text / "0.txt").write_bytes(whole * (20_000_000 // len(whole)))
    stored = with_corpus(name, tmp_path, text.parent, bucket)
    # The first waits for the other, and learns.
    counting = stored.seen("counts/*/lock-1*", 1)
    disturbed(stored.job, (1, signal.SIGKILL, counting), (0, signal.SIGTERM, lambda: True))
    assert sorted(stored.job.codes) == [*([0] * 8), 137, 143], stored.job.said()
    argv = ["--input_files", str(text), "--output", str(tmp_path / "one"), *TOY["vocab"]]
    assert learn([*argv, "--preset", "bert-base"]) == 0
    assert stored.files("vocab") == contents(tmp_path / "one")
    assert stored.files("counts") == {}


# Mistakes


@pytest.mark.parametrize("name", STORIES)
def test_a_mistake_in_the_flags_is_not_retried(name: str, tmp_path: Path) -> None:
    wrong = MISTAKES[name.split("-")[0]]
    job = made(name, tmp_path, wrong)
    assert job.finish() == "Failed"
    # The first that says so ends the job; the other pods are ended with it.
    assert job.codes[0] == 2 and set(job.codes) <= {2, 143}, job.said()
    assert set(job.starts) == {1} and wrong.partition("=")[0] in job.said()
    assert list(job.place.volumes["/storage"].iterdir()) == []


def test_a_pod_without_its_tpu_fails_and_is_not_retried(tmp_path: Path) -> None:
    job = made("finetune-tpu-v5e-gcs", tmp_path)
    job.place.dropped = ()
    assert (job.finish(), job.codes, job.starts) == ("Failed", [1], [1]), job.said()
    assert "--tpu local: there is no TPU chip" in job.said()


def test_a_mistake_in_one_of_the_indexed_pods_ends_the_job(
    corpus: Path, bucket: Bucket, tmp_path: Path
) -> None:
    stored = with_corpus("vocab-indexed-pvc", tmp_path, corpus, bucket)
    job = stored.job
    job.extra = (*job.extra, "--of=4")
    # The first four are right, and may have learned the vocabulary before the job is ended.
    assert job.finish() == "Failed" and 2 in job.codes
    assert "must be below --of 4" in job.said()
    if DESCRIPTION in stored.files("vocab"):  # written last
        assert load_tokenizer(str(job.place.volumes["/storage"] / "vocab")).tokens
