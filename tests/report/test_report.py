"""The report: what a run folder tells, on a page that holds nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.kit import places
from unicscale.cli import app
from unicscale.contracts import Progress
from unicscale.errors import CheckpointError
from unicscale.recipe import load
from unicscale.run.folder import RunFolder, claim, open_run
from unicscale.run.metrics import Log

RECIPE = places.REPOSITORY / "recipes" / "demo.yaml"


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No queue; pages lie here."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def a_run(out: str, *launches: range, knn: float | None = None, changes: list[str] | None = None) -> RunFolder:
    """A run of the demo's recipe that logged those steps, launch by launch, and stands where it stands."""
    recipe = load(RECIPE, [f"out={out}", *(changes or [])])
    folder = open_run(recipe)
    claim(folder, recipe)
    told: list[dict[str, Any]] = []
    for number, steps in enumerate(launches, start=1):
        log = Log(folder.metrics, [], launch=number)
        for step in steps:
            teachers = {f"loss/{name}{part}": 1.0 / step for name in recipe.teachers for part in ("", "/cls", "/patch")}
            keep = {f"keep/{name}": 0.5 for name in recipe.teachers}
            times = {"time/data": 0.1, "time/student": 0.2}
            log.write(
                Progress(stage=step // 10, step=step, images=step * 64),
                {"loss": number + 1.0 / step, "lr": 1e-3} | teachers | keep | times,
            )
        log.close()
        told.append(
            {
                "host": "n1",
                "ranks": 2,
                "step": steps.start,
                "time": 1000.0,
                "ended": {"exit": 0, "reason": "finished", "time": 4600.0},
            }
        )
    if knn is not None:
        with folder.metrics.open("a") as lines:
            lines.write(json.dumps({"step": 5, "images": 320, "stage": 0, "val/knn": knn}) + "\n")
    folder.facts.write_text(json.dumps({"id": "x", "launches": told, "steps": 20, "versions": {"torch": "2"}}))
    return folder


def report(*arguments: str) -> str:
    """The command, and what it printed."""
    done = CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_step_done_again_is_shown_once_and_counted() -> None:
    from unicscale.report import read
    from unicscale.run.status import status

    run = a_run("runs/a", range(1, 9), range(5, 12))
    story = read(run, status(run, None))
    assert [record["step"] for record in story.steps] == list(range(1, 12))
    assert [record["launch"] for record in story.steps] == [1] * 4 + [2] * 7
    assert story.course.replayed == 4
    report("runs/a")
    page = (run.report / "index.html").read_text()
    assert "4 logged steps were done again by a later launch" in page
    assert "<b>2 launches, 2.0 hours of work in 0.0 hours.</b>" in page, "each has a line over the clock"


def test_a_long_run_is_thinned_over_its_whole_length(monkeypatch: pytest.MonkeyPatch) -> None:
    from unicscale.report import course, read
    from unicscale.run.status import status

    monkeypatch.setattr(course, "MOST", 10)
    run = a_run("runs/a", range(1, 401))
    steps = [record["step"] for record in read(run, status(run, None)).steps]
    assert len(steps) <= 10 and steps == sorted(steps)
    assert steps[0] == 1 and steps[-1] > 300
    assert max(b - a for a, b in pairwise(steps)) <= 64
    assert read(run, status(run, None)).at_the_end("loss") == 1 + 1 / 400, "the last stage has one step, not thinned"


def test_an_evaluation_that_was_left_out_is_said_and_not_drawn() -> None:
    run = a_run("runs/a", range(1, 9), knn=40.0)
    with run.metrics.open("a") as lines:
        lines.write(json.dumps({"step": 8, "images": 512, "stage": 0, "val/failed": 1.0}) + "\n")
    assert report("runs/a").splitlines()[0].split() == ["run", "state", "step", "loss", "knn", "images/s", "hours"]
    assert "a: 1 evaluations were left out" in (run.report / "index.html").read_text()


def test_half_a_line_costs_that_line_only() -> None:
    run = a_run("runs/a", range(1, 4))
    with run.metrics.open("a") as lines:
        lines.write('{"step": 4, "images": 25')
    report("runs/a")
    assert "1 lines of metrics.jsonl cannot be read" in (run.report / "index.html").read_text()


@pytest.mark.parametrize("optimised", [[], ["-O"]])
def test_a_line_that_is_none_of_ours_is_not_believed_however_python_runs(tmp_path: Path, optimised: list[str]) -> None:
    ours = {"step": 1, "images": 8, "stage": 0, "loss": 1.0}
    foreign = [ours | {"step": "2"}, {"step": 3, "loss": 1.0}, [4], 5, None]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (ours, *foreign)))
    see = "import sys, pathlib; from unicscale.report.course import course_of; c = course_of(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, *optimised, "-c", f"{see}; print(len(c.steps), c.torn)", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["1", "5"], done.stderr


def test_every_figure_is_on_the_page_and_shows_something() -> None:
    run = a_run("runs/a", range(1, 15), knn=40.0)
    run.report.mkdir()
    (run.report / "mine.png").write_bytes(b"")
    report("runs/a")
    assert (run.report / "mine.png").exists(), "somebody else's picture"
    (run.report / "mine.png").unlink()
    page = (run.report / "index.html").read_text()
    shown = set(re.findall(r"<figure class=(\w+)>", page))
    assert shown == {"loss", "teachers", "validation", "keep", "course", "time"}
    files = {f"{name}.{end}" for name in shown for end in ("png", "svg")}
    assert {path.name for path in run.report.iterdir()} == files | {"index.html"}
    for name in shown:
        pixels = np.asarray(Image.open(run.report / f"{name}.png").convert("HSV"))
        assert (pixels[..., 1] > 100).mean() > 5e-5, f"{name} has no coloured line"
        figure = page.split(f"<figure class={name}>")[1].split("</figure>")[0]
        assert figure.count("<svg ") == 2, "for a desk and for a phone"
        assert "var(--line-0)" in figure, "its colours are the page's, light or dark"


def test_the_page_asks_nobody_for_anything() -> None:
    run = a_run("runs/a", range(1, 15), knn=40.0)
    report("runs/a")
    page = (run.report / "index.html").read_text()
    asked = re.findall(r"(?:src|href|srcset|action)=[\"']?([^\"' >]+)|url\(([^)]+)\)|@import", page)
    assert all((one or other).startswith(("#", "data:")) for one, other in asked)


def test_no_id_stands_twice_and_every_one_that_is_used_is_there() -> None:
    run = a_run("runs/a", range(1, 15), knn=40.0)
    report("runs/a")
    page = (run.report / "index.html").read_text()
    ids = re.findall(r"<[^>]* id=[\"']([^\"']+)[\"']", page)
    assert len(set(ids)) == len(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r"href=[\"']#([^\"']+)[\"']", page))
    assert used <= set(ids)


def test_every_figure_says_what_is_to_be_seen_in_it() -> None:
    run = a_run("runs/a", range(1, 15), knn=40.0)
    report("runs/a")
    page = (run.report / "index.html").read_text()
    said = re.findall(r'<svg role=img aria-label="([^"]+)"', page)
    assert len(said) == 12
    wanted = "The loss fell from 2.0000 to 1.0845 over 896 images; at the end: classes 0.0845, dense 0.0845."
    assert said[:2] == [f"Loss. {wanted}"] * 2, "for a desk and for a phone"
    assert "Time. Most of a step goes to student 67 %, data 33 %." in said
    assert "Validation. Last measured: knn 40.0." in said
    assert "Teacher dropping. Images taught on the average: classes 50 %, dense 50 %." in said


def test_of_very_many_runs_the_legend_names_some_and_no_spike_is_lost() -> None:
    from unicscale.report import curves, figures, read
    from unicscale.run.status import status

    run = a_run("runs/a", range(1, 4))
    story = read(run, status(run, None))
    figure = figures._loss([story] * 40, [f"run{n}" for n in range(40)])
    assert figure is not None
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["run10", "and 29 more"]
    points = [(float(n), 100.0 if n == 777 else 1.0) for n in range(10_000)]
    thin = curves.thinned(points, 200)
    assert len(thin) <= 201 and thin[0][0] == 0 and thin[-1] == points[-1]
    assert (777.0, 100.0) in thin


def test_a_figure_without_data_is_not_drawn() -> None:
    run = a_run("runs/a", range(0))
    run.report.mkdir()
    (run.report / "loss.png").write_bytes(b"of an older report")
    said = report("runs/a")
    assert sorted(path.name for path in run.report.iterdir()) == ["index.html"]
    assert "a has logged no step yet." in (run.report / "index.html").read_text()
    assert "finished" in said


def test_a_sweep_is_compared_by_what_differs() -> None:
    for p, knn in ((0.0, 31.5), (0.5, 44.25)):
        a_run(f"sweep/p{p}", range(1, 9), knn=knn, changes=[f"loss.balance.p={p}"])
    said = report("sweep")
    lines = [line.split() for line in said.splitlines()]
    assert lines[0] == ["run", "p", "state", "step", "loss", "knn", "images/s", "hours"]
    assert lines[1][:3] == ["p0.0", "0.0", "finished"] and "31.5" in lines[1]
    assert lines[2][:3] == ["p0.5", "0.5", "finished"] and "44.2" in lines[2]
    page = Path("sweep/report/index.html").read_text()
    assert "<th scope=col>loss.balance.p</th>" in page, "a row for each run, where there are more of them than keys"
    assert "<th scope=row>p0.5</th><td>0.5</td>" in page
    assert "compare the loss of each teacher, or the validation" in page
    assert "<td class='number best'>44.2</td>" in page and "<td class='number'>31.5</td>" in page
    assert report("sweep") == said, "its own report is not taken for a run"


def test_a_queued_run_has_no_part_in_the_comparison() -> None:
    for p in (0.0, 0.5):
        a_run(f"sweep/p{p}", range(1, 9), changes=[f"loss.balance.p={p}"])
    queued = RunFolder(Path("sweep/p1.0"))
    queued.root.mkdir()
    queued.facts.write_text(json.dumps({"queued": "7_2"}))
    lines = [line.split() for line in report("sweep").splitlines()]
    assert lines[0][:3] == ["run", "p", "state"]
    assert [line[:2] for line in lines[1:4]] == [["p0.0", "0.0"], ["p0.5", "0.5"], ["p1.0", "-"]]
    assert "standardise their targets differently" not in Path("sweep/report/index.html").read_text()


@pytest.mark.parametrize("name", ["_base", r"a$\frac$b", "ünïcode"])
def test_any_name_of_a_run_gets_its_own_line_in_the_legend(name: str) -> None:
    from unicscale.report import curves, figures, read
    from unicscale.run.status import status

    runs = [a_run(f"runs/{one}", range(1, 9)) for one in (name, "other")]
    stories = [read(run, status(run, None)) for run in runs]
    figure = figures._loss(stories, [name, "other"])
    assert figure is not None
    figure.savefig("loss.png")
    [legend] = figure.legends
    assert [text.get_text().strip().replace(r"\$", "$") for text in legend.get_texts()] == [name, "other"]
    assert [line.get_color() for line in legend.get_lines()] == list(curves.COLOURS[:2])


def test_losses_of_different_targets_are_not_held_against_each_other() -> None:
    a_run("runs/a", range(1, 4))
    a_run("runs/b", range(1, 4), changes=["standardize.kind=none"])
    report("runs/a", "runs/b")
    assert "their losses measure different things" in Path("runs/report/index.html").read_text()


def test_what_does_not_fit_the_terminal_is_named() -> None:
    name = "a-name-that-leaves-no-room-for-much-else-in-eighty-columns"
    a_run(f"runs/{name}", range(1, 4))
    said = report(f"runs/{name}")
    assert max(map(len, said.splitlines()[:2])) <= 80
    assert said.splitlines()[2] == "on the page besides: loss, images/s, hours"


def test_a_hostile_name_and_recipe_stay_text() -> None:
    name = "<img src=x onerror=alert(1)>"
    run = a_run(f"runs/{name}", range(1, 4), changes=["track.wandb.project=</pre><script>alert(2)</script>"])
    report(f"runs/{name}")
    page = (run.report / "index.html").read_text()
    assert "<img src=x" not in page and "<script" not in page
    assert "&lt;script&gt;" in page


def test_results_stand_beside_the_teachers_with_the_gain() -> None:
    run = a_run("runs/a", range(1, 4))
    scores = {"classes": {"mIoU": 30.0, "depth RMSE": 0.10}, "student": {"mIoU": 33.0, "depth RMSE": 0.08}}
    (run.evaluation / "demo.json").write_text(json.dumps({"synthetic": True, "scores": scores}))
    (run.evaluation / "torn.json").write_text("{")
    report("runs/a")
    page = (run.report / "index.html").read_text()
    assert "Results: demo" in page and "Results: torn" not in page and "torn.json is no result" in page
    assert "30.0" in page and "+10.0 %" in page, "higher is better"
    assert "+20.0 %" in page, "a lower error is a gain"
    assert "Synthetic scenes" in page
    heads = re.findall(r"<th scope=col[^>]*>([^<]*)</th>", page.split("<h2>Results: demo")[1])
    assert heads[:4] == ["", "student", "gain over the best teacher", "classes"], "the gain is seen on a phone"
    assert "<td class='number best'>33.0</td>" in page and "<td class='number best'>0.080</td>" in page


def test_no_run_is_an_error_that_names_the_nearest() -> None:
    a_run("runs/unic_l", range(1, 4))
    done = CliRunner().invoke(app, ["report", "runs/unic_b"])
    assert isinstance(done.exception, CheckpointError)
    assert str(done.exception) == "runs/unic_b is not there. Did you mean 'runs/unic_l'?"
    Path("runs/empty").mkdir()
    done = CliRunner().invoke(app, ["report", "runs/empty"])
    assert str(done.exception) == "runs/empty is no run folder: it holds no run.json."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    a_run("runs/a", range(1, 4))
    Path("closed").mkdir(mode=0o500)
    done = CliRunner().invoke(app, ["report", "runs/a", "--out", "closed/page"])
    assert "Choose another with --out" in str(done.exception)


def test_a_file_in_the_way_of_the_page_is_named() -> None:
    a_run("runs/a", range(1, 4))
    Path("taken").write_text("mine")
    done = CliRunner().invoke(app, ["report", "runs/a", "--out", "taken"])
    assert str(done.exception) == "taken cannot be written: File exists.\n  Choose another with --out."


def test_a_hostile_name_in_a_legend_stays_text() -> None:
    names = ("<script>alert(1)</script>", 'x" onload="alert(2)', "' id='loss-0-x' --> <!--")
    for name in names:
        a_run(f"sweep/{name.replace('/', '∕')}", range(1, 4))
    report("sweep")
    page = Path("sweep/report/index.html").read_text()
    assert "<script" not in page and "<!--" not in page
    assert not re.search(r"<[^>]* onload=(?![^<]*&quot;)", page)
    assert "&lt;script&gt;alert(1)&lt;∕script&gt;</text>" in page


def test_a_table_beside_a_result_is_shown_and_one_that_is_none_is_named() -> None:
    run = a_run("runs/a", range(1, 4))
    beside = {"title": "By <part>", "rows": [["", "mIoU"], ["all", "33.0"]], "says": "Not this run."}
    for name, tables in (("demo", [beside]), ("other", [beside | {"rows": [["", "mIoU"], ["all"]]}])):
        held = {"scores": {"student": {"mIoU": 33.0}}, "beside": tables}
        (run.evaluation / f"{name}.json").write_text(json.dumps(held))
    report("runs/a")
    page = (run.report / "index.html").read_text()
    assert "<h2>By &lt;part&gt;</h2>" in page and "Not this run." in page
    assert "other.json is no result: beside.0.rows: Value error, its rows are not equally long" in page
