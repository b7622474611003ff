"""The script of a report in Chromium, where that is installed: draws, reacts, runs nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.training.report.runs import make_run, records
from tests.training.report.test_report import HOSTILE
from tpu_tlm.training.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

# Clicks and reads as a user does; the answers go to the page's end.
DRIVER = r"""
const told = [];
const count = (what) => document.querySelectorAll(what).length;
const change = (id, set) => {
  set(document.getElementById(id));
  document.getElementById(id).dispatchEvent(new Event("change", {bubbles: true}));
};
told.push("figures " + count("figure"), "curves " + count("path.curve"));
document.getElementById("run-1").click();
told.push("one run " + count("path.curve"));
document.getElementById("metric-0").click();
told.push("without loss " + count("figure"));
document.getElementById("metric-0").click();
change("x", (select) => { select.value = "1"; });
change("smooth", (select) => { select.value = "0.9"; });
document.getElementById("log").click();
const texts = [...document.querySelectorAll("svg text")];
told.push("time " + texts.some((text) => / s$/.test(text.textContent)));
told.push("broken " + count("path.curve[d*='NaN']"));
const svg = document.querySelector("svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new MouseEvent("mousemove", {clientX: box.right - 1, clientY: box.top + 9}));
told.push("values " + document.querySelector("pre.values").textContent.replace(/\n/g, " | "));
document.getElementById("run-0").click();
told.push("nothing " + document.getElementById("plots").textContent);
const out = document.createElement("pre");
out.id = "told";
out.textContent = told.join("\n");
document.body.append(out);
"""


def dom(page, tmp_path) -> str:
    """The document after its scripts ran."""
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "</html>" in done.stdout, done.stderr[-1000:]
    return done.stdout


def test_a_user_clicks_and_reads(tmp_path):
    runs = [make_run(tmp_path / n, records(s), lr=s / 1000) for n, s in (("a", 4.0), ("b", 6.0))]
    report = tmp_path / "report.html"
    write_report([str(run) for run in runs], str(report))
    text = report.read_text()
    # The policy would refuse the driver, as it refuses any script but the page's own.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text)
    driven = tmp_path / "driven.html"
    driven.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"))
    told = dict(
        line.split(" ", 1)
        for line in re.search(r'<pre id="told">(.*?)</pre>', dom(driven, tmp_path), re.DOTALL)[1]
        .replace("one run", "one_run")
        .replace("without loss", "without_loss")
        .splitlines()
    )
    # loss, accuracy, lr, tokens_per_second, input_wait; the loss is drawn for validation too.
    assert (told["figures"], told["curves"]) == ("5", "12")
    assert (told["one_run"], told["without_loss"]) == ("6", "4")
    assert (told["time"], told["broken"]) == ("true", "0")
    assert "a train" in told["values"] and "a valid 2.5 (38 s)" in told["values"]
    assert "b train" not in told["values"] and "Nothing" in told["nothing"]


def test_the_page_draws_under_its_own_policy_and_runs_no_other_script(tmp_path):
    run = make_run(tmp_path / "run", [*records(), {"step": 3, "kind": HOSTILE, HOSTILE: 1.0}])
    report = tmp_path / "report.html"
    write_report([str(run)], str(report))
    text = report.read_text().replace("<h2>Runs</h2>", f"<h2>Runs</h2>{HOSTILE}")
    report.write_text(text)
    shown = dom(report, tmp_path)
    assert shown.count('class="curve"') == 6
    assert "<title>run: training report</title>" in shown
