"""`--runner beam`: the bytes of the local command, on Beam's own runner and on a Dask cluster.

`make beam-check` runs what needs apache-beam, in an environment of its own.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tpu_tlm as tlm
from tests.data.conftest import kill_a_busy_worker
from tests.paths import ROOT
from tpu_tlm.data.beam_pipeline import _cause
from tpu_tlm.data.preprocessing import beam as by_beam

needs_beam = pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="no apache-beam here: make beam-check"
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("beam")
    rng = random.Random(5)
    for name in ("a.txt", "b.txt"):
        with open(place / name, "w") as file:
            for _ in range(400):
                for _ in range(rng.randrange(1, 9)):
                    words = [f"word{rng.randrange(300)}" for _ in range(rng.randrange(2, 15))]
                    file.write(" ".join(words) + "\n")
                file.write("\n")
    (place / "broken.txt").write_bytes(b"good\n\xff\xfe bad\n")
    tlm.learn_tokenizer(
        place / "a.txt", place / "v", subword_type="wordpiece", vocab_size=200, workers=1
    )
    return place


def _make(text: Path, output: Path, **options: Any) -> dict[str, bytes]:
    files = [str(text / "a.txt"), str(text / "b.txt"), str(text / "broken.txt")]
    options = {"vocab": str(text / "v"), "seq_length": 16, "max_file_size": 0.05} | options
    tlm.preprocess(files, output, workers=1, **options)
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


@needs_beam
@pytest.mark.parametrize(
    "options",
    [
        {"valid_fraction": 0.2},
        {"shuffle": False},
        {"pairs": "nsp", "seed": 3},
        {"packing": "documents", "document": "line"},
    ],
    ids=["valid", "in order", "pairs", "documents"],
)
def test_the_bytes_are_those_of_the_local_command(
    options: dict[str, Any], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_beam, "BUCKET_BYTES", 1 << 12)  # many ranges of keys
    local = _make(text, tmp_path / "local", **options)
    assert len(local) > 4
    assert _make(text, tmp_path / "beam", runner="beam", **options) == local


@needs_beam
def test_bad_input_is_our_own_error(text: Path, tmp_path: Path) -> None:
    with pytest.raises(tlm.UsageError, match=r"broken\.txt") as error:
        _make(text, tmp_path / "beam", runner="beam", strict=True)
    assert "[while running" not in str(error.value)
    assert not list(tmp_path.rglob("md.yml"))


@needs_beam
def test_options_that_beam_refuses(text: Path, tmp_path: Path) -> None:
    with pytest.raises(tlm.TlmError, match="beam"):
        _make(text, tmp_path / "x", runner="beam", beam_options=["runner=NoSuchRunner"])


def test_without_beam_the_extra_is_named(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(tlm.UsageError, match=r"tpu-tlm\[beam\]"):
        _make(text, tmp_path / "x", runner="beam")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            RuntimeError("Traceback: ...\nModuleNotFoundError: No module named 'tpu_tlm'"),
            r"the workers have no tpu_tlm: .*sdk_container_image=IMAGE.*docker/Dockerfile",
        ),
        (RuntimeError("first\nquota exceeded"), r"--runner beam: RuntimeError: quota exceeded$"),
        (
            RuntimeError("tpu_tlm.errors.UsageError: a.txt:3: bad [while running 'tokenize']"),
            r"^a\.txt:3: bad$",
        ),
    ],
)
def test_what_beam_raises_is_one_line_with_the_cause(raised: Exception, message: str) -> None:
    found = _cause(raised)
    assert "\n" not in str(found) and re.search(message, str(found)), found
    assert isinstance(found, tlm.UsageError) == ("UsageError" in str(raised))


def test_beam_options_need_the_runner(text: Path, tmp_path: Path) -> None:
    with pytest.raises(tlm.UsageError, match="beam_options"):
        _make(text, tmp_path / "x", beam_options=["runner=DirectRunner"])


@needs_beam
def test_a_dask_cluster_that_loses_a_worker(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], text: Path, tmp_path: Path
) -> None:
    address, processes = cluster
    local = _make(text, tmp_path / "local", valid_fraction=0.2)
    code = (
        "import sys, tpu_tlm as tlm\n"
        "text, out, address = sys.argv[1:]\n"
        "files = [f'{text}/{n}.txt' for n in ('a', 'b', 'broken')]\n"
        "tlm.preprocess(files, out, vocab=f'{text}/v', seq_length=16, max_file_size=0.05,\n"
        "    valid_fraction=0.2, runner='beam',\n"
        "    beam_options=['runner=DaskRunner', f'dask_client_address={address}'])\n"
    )
    out = tmp_path / "beam"
    command = [sys.executable, "-c", code, str(text), str(out), address]
    pipeline = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    kill_a_busy_worker(address, processes, pipeline)
    made = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert made == local
