"""report.html of a run in progress."""

from __future__ import annotations

from tests.toy_runs import fit, options_of
from tests.training.report.runs import Page
from tpu_tlm.checkpoints.run_dir import RunDir
from tpu_tlm.report import main
from tpu_tlm.training.callbacks import RunStart, SaveReport, StepReport
from tpu_tlm.training.report.callback import WriteReport

FEW = ("--warmup_steps", 0, "--save_steps", 2, "--eval_steps", 2, "--steps_per_call", 1)
FEW += ("--report", "true")


def test_a_run_writes_its_report_and_continues_it(toy_corpus, tmp_path):
    run = tmp_path / "run"
    fit(options_of(toy_corpus, run, "--steps", 2, *FEW))
    page = Page((run / "report.html").read_bytes())
    assert page.row("Runs", "run")["steps"] == "2"
    fit(options_of(toy_corpus, run, "--steps", 4, *FEW))
    page = Page((run / "report.html").read_bytes())
    assert page.row("Runs", "run")["steps"] == "4"
    assert page.row("Data", "run")["tokenizer"] == "wordpiece"
    assert [row[1] for row in page.tables["Checkpoints"][1:]] == ["2", "4"]
    # The command reads the same from the files.
    output = tmp_path / "again.html"
    assert main([str(run), "--output", str(output)]) == 0
    again = Page(output.read_bytes())
    assert again.tables["Checkpoints"] == page.tables["Checkpoints"]
    assert again.tables["Data"] == page.tables["Data"]
    losses = [
        [c["y"] for c in p.data["runs"][0]["curves"] if c["metric"] == "loss"]
        for p in (page, again)
    ]
    assert losses[0] == losses[1]
    fit(options_of(toy_corpus, tmp_path / "without", "--steps", 1, *FEW, "--report", "false"))
    assert not (tmp_path / "without" / "report.html").exists()


def test_a_report_that_cannot_be_written_is_one_warning(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("lr: 0.001\n")
    (tmp_path / "report.html" / "in the way").mkdir(parents=True)
    callback = WriteReport(RunDir(str(tmp_path)))
    callback.on_start(RunStart(0, 10, str(tmp_path)))
    for step in (1, 2):
        callback.on_step(StepReport(step, 1, 10, 0.1, {"loss": 1.0}, {}))
        saved = tmp_path / "checkpoints" / f"step-{step:08d}"
        saved.mkdir(parents=True)
        callback.on_save(SaveReport(step, str(saved), (step,), lambda: None))
    err = capsys.readouterr().err
    assert err.count("warning") == 1 and "report.html" in err
