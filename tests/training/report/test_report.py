"""The HTML page about runs: what is on it, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.training.report.runs import Page, make_run, records
from tpu_tlm import api, filesystem
from tpu_tlm.errors import run_command
from tpu_tlm.report import main
from tpu_tlm.training.report.history import LIMIT, MAX_METRICS, History


def page_of(tmp_path, *runs) -> Page:
    output = tmp_path / "out.html"
    assert main([*map(str, runs), "--output", str(output)]) == 0
    return Page(output.read_bytes())


def refused(argv, capsys) -> str:
    assert run_command(main, [str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    return out + err


def test_a_run_on_a_page(tmp_path, capsys):
    run = make_run(tmp_path / "run", records(), lr=2e-3, layer_norm_eps=1e-9)
    page = page_of(tmp_path, run)
    assert "1 run" in capsys.readouterr().out
    row = page.row("Runs", "run")
    assert (row["objective"], row["steps"], row["time"]) == ("mlm", "20", "38 s")
    assert row["training loss"] == "2" and row["validation loss"] == "2.5"
    assert row["lowest validation loss"] == "2.5 (step 20)"
    assert (row["tokens/s"], row["input wait"]) == ("1,234", "5.0 %")
    changed = page.row("Configuration", "lr")
    assert (changed["value"], changed["default"]) == ("0.002", "0.0004")
    assert page.row("Configuration", "layer_norm_eps")["value"] == "1e-09"
    steps = [row[1:4] for row in page.tables["Checkpoints"][1:]]
    assert steps == [["10", "3.5", "3.0"], ["20", "2.5", "3.0"]]
    # The dataset is gone: named, and the rest of the report is there.
    assert "md.yml" in page.row("Data", "run")["problem"]
    (curves,) = [r["curves"] for r in page.data["runs"]]
    loss = next(c for c in curves if (c["metric"], c["kind"]) == ("loss", "train"))
    assert loss["x"][0] == list(range(1, 21)) and loss["x"][1][-1] == 38.0
    assert loss["y"][0] == pytest.approx(3.9)
    assert [m["name"] for m in page.data["metrics"]][:3] == ["loss", "accuracy", "lr"]
    assert "Differences between the runs" not in page.tables


def test_options_at_their_defaults_are_not_listed_as_changed(tmp_path):
    # YAML 1.1 reads 1e-06, which is how the default is written, as text.
    page = page_of(tmp_path, make_run(tmp_path / "run", records()))
    listed = page.tables["Configuration"]
    before_all = listed[1 : listed.index(["option", "value"])]
    assert {row[0] for row in before_all} == {"train_dir", "run_dir"}


def test_several_runs_on_one_picture(tmp_path):
    a = make_run(tmp_path / "x" / "run", records(), lr=1e-3, seed=3)
    b = make_run(tmp_path / "y" / "run", records(6.0), lr=5e-3, seed=3)
    page = page_of(tmp_path, a, b)
    # Both directories have one name, so that the paths are shown.
    assert [run["name"] for run in page.data["runs"]] == [str(a), str(b)]
    assert page.row("Runs", str(b))["training loss"] == "4"
    difference = page.row("Differences between the runs", "lr")
    assert (difference[str(a)], difference[str(b)]) == ("0.001", "0.005")
    assert "seed" not in {row[0] for row in page.tables["Differences between the runs"]}


def test_the_page_refers_to_nothing_outside(tmp_path):
    page = page_of(tmp_path, make_run(tmp_path / "run", records()))
    for tag, attributes in page.tags:
        assert tag not in ("img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy and "unsafe" not in policy


HOSTILE = "</script><script>document.title='hit'</script><img src=x onerror=alert(1)>\"'&"


def test_texts_of_files_are_escaped(tmp_path):
    path = tmp_path / "<b>run"
    run = make_run(path, [*records(), {"step": 3, "kind": HOSTILE, HOSTILE: 1.0}])
    with open(run / "config.yaml", "a") as file:
        file.write(json.dumps({HOSTILE: HOSTILE})[1:-1] + "\n")
    page = page_of(tmp_path, run)
    assert [t for t, _ in page.tags].count("script") == 2
    assert not {"img", "b"} & {t for t, _ in page.tags}
    assert page.row("Configuration", HOSTILE)["value"] == HOSTILE
    assert HOSTILE in {metric["name"] for metric in page.data["metrics"]}
    assert "<b>run" in page.tables["Runs"][1]


def test_values_that_cannot_be_drawn_are_left_out(tmp_path, capsys):
    strange = [
        {"step": 1, "kind": "train", "time": 1e308, "loss": None},
        {"step": 2, "kind": "train", "time": -1e308, "loss": float("nan"), "lr": True},
        {"step": 3, "kind": "train", "time": "x", "loss": 10**400, "lr": "0.1"},
        {"step": 10**30, "kind": "train", "loss": 1.0},
        {"step": 4, "kind": "train", "loss": 1.7976931348623157e308},
        {"step": 5, "kind": "train", "loss": 2.0, "\ud800": 1.0},
    ]
    run = make_run(tmp_path / "run", strange)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('no json\n{"step": 6')
    page = page_of(tmp_path, run)
    assert "metrics.jsonl:7" in capsys.readouterr().err
    (curve,) = [c for c in page.data["runs"][0]["curves"] if c["metric"] == "loss"]
    assert curve["x"][0] == [4, 5] and curve["y"][1] == 2.0
    assert page.row("Runs", "run")["steps"] == "5"


def test_a_run_before_its_first_step_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", [])
    (run / "metrics.jsonl").unlink()
    page = page_of(tmp_path, run)
    assert page.row("Runs", "run")["training loss"] == ""
    assert page.data["metrics"] == []


def test_a_long_run_is_thinned_by_averages():
    history, total = History(), 10 * LIMIT + 3
    for step in range(1, total + 1):
        history.add({"step": step, "kind": "train", "step_time": 1.0, "loss": float(step % 2)})
    points = history.curves["loss", "train"].points
    assert LIMIT // 2 <= len(points) <= LIMIT
    assert sum(point.records for point in points) == total and points[-1].step == total
    assert all(point.value == pytest.approx(0.5) for point in points[:-1])
    assert len({point.records for point in points[:-1]}) == 1
    for name in range(MAX_METRICS + 5):
        history.add({"step": total, "kind": "train", f"m{name}": 1.0})
    # Two of the curves are those of loss and step_time.
    assert len(history.curves) == MAX_METRICS and len(history.left_out) == 7


def test_a_pause_between_processes_is_no_training_time():
    history = History()
    for time, more in ((0, {}), (5, {"step_time": 1}), (1005, {}), (1009, {"step_time": 1})):
        history.add({"step": time, "kind": "train", "time": time, "loss": 1.0, **more})
    assert history.seconds == 9


def test_what_is_no_run_or_no_report_is_refused(tmp_path, capsys):
    run = make_run(tmp_path / "run", records())
    assert "config.yaml" in refused([tmp_path / "none"], capsys)
    assert "2 times" in refused([run, f"{run}/"], capsys)
    metrics = (run / "metrics.jsonl").read_bytes()
    line = refused([run, "--output", run / "metrics.jsonl"], capsys)
    assert "--output" in line and "metrics.jsonl" in line
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert "directory" in refused([run, "--output", run], capsys)
    assert "RUNS" in refused([], capsys)
    (run / "config.yaml").write_text("lr: [1\n")
    assert "config.yaml" in refused([run], capsys)
    (run / "config.yaml").write_text("task: classify\ntrain: a.tsv\n")
    assert "fine-tuning" in refused([run], capsys)
    (run / "config.yaml").write_text("lr: fast\n")
    line = refused([run], capsys)
    assert "config.yaml: lr" in line and "fast" in line


def test_a_report_is_replaced(tmp_path):
    run = make_run(tmp_path / "run", records())
    page_of(tmp_path, run)
    assert page_of(tmp_path, run).row("Runs", "run")["steps"] == "20"


def test_a_run_in_object_storage(tmp_path, bucket):
    local = make_run(tmp_path / "run", records())
    for path in sorted(local.rglob("*")):
        if path.is_file():
            name = path.relative_to(local).as_posix()
            filesystem.write_bytes(f"gs://bucket/run/{name}", path.read_bytes())
    assert main(["gs://bucket/run", "--output", "gs://bucket/out.html"]) == 0
    page = Page(filesystem.read_bytes("gs://bucket/out.html"))
    assert page.row("Runs", "run")["training loss"] == "2"
    assert [row[1] for row in page.tables["Checkpoints"][1:]] == ["10", "20"]


def test_the_function_does_what_the_command_does(tmp_path):
    run = make_run(tmp_path / "run", records())
    api.report(run, tmp_path / "one.html")
    assert Page((tmp_path / "one.html").read_bytes()).row("Runs", "run")["steps"] == "20"
    assert [r["name"] for r in page_of(tmp_path, run).data["runs"]] == ["run"]
