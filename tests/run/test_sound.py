"""A run folder that something else wrote into is damaged and says so; the other runs are told as if nothing were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.kit import places
from unicscale.errors import CheckpointError
from unicscale.report import comparison, read, text_table, write
from unicscale.run.folder import RunFolder, facts_of
from unicscale.run.lock import read as read_lock
from unicscale.run.sound import record_of
from unicscale.run.states import State
from unicscale.run.status import statuses, tail

ENDED = {"exit": 0, "reason": "finished", "time": 9.0, "step": 2}
LAUNCH = {"host": "n1", "ranks": 1, "step": 0, "time": 1.0, "submission": "x", "restart": 0, "ended": ENDED}
SCORE = {"value": 80.0, "low": 79.0, "high": 81.0, "higher_is_better": True}
RESULT = {"models": {"student": {"teacher": False}}, "scores": {"knn": {"student": SCORE}}, "gains": {}}


def a_run(folder: Path) -> RunFolder:
    """As much as `jobs` and `report` read."""
    (folder / "evaluation").mkdir(parents=True)
    shutil.copy(places.REPOSITORY / "recipes" / "unic_l.yaml", folder / "recipe.yaml")
    (folder / "run.json").write_text(json.dumps({"id": "a", "launches": [LAUNCH], "steps": 2}))
    records = [{"step": n, "images": 8 * n, "stage": 0, "launch": 1, "loss": 1.0 / n, "time": n} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "evaluation" / "quick.json").write_text(json.dumps(RESULT))
    return RunFolder(folder)


def page_of(runs: list[RunFolder], out: Path) -> tuple[str, str]:
    """What `unicscale report` writes and prints."""
    stories = [read(run, status) for run, status in zip(runs, statuses(runs), strict=True)]
    return write(stories, out).read_text(), text_table(comparison(stories), 200)


WRONG: dict[str, Any] = {
    "null": None,
    "a list": [],
    "launches is null": {"launches": None},
    "launches is text": {"launches": "x"},
    "a launch is a list": {"launches": [[]]},
    "a launch is null": {"launches": [None]},
    "a time is not a number": {"launches": [LAUNCH | {"time": float("nan")}]},
    "a time is beyond all calendars": {"launches": [LAUNCH | {"time": 1e300}]},
    "a time is text": {"launches": [LAUNCH | {"time": "noon"}]},
    "an end is a list": {"launches": [LAUNCH | {"ended": []}]},
    "steps are text": {"launches": [LAUNCH], "steps": "many"},
    "steps are infinite": {"launches": [LAUNCH], "steps": float("inf")},
    "the job is a number": {"launches": [LAUNCH], "queued": 12},
    "versions are a list": {"launches": [LAUNCH], "versions": ["torch"]},
    "nests": "[" * 100_000,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data")


@pytest.mark.parametrize("case", WRONG)
def test_a_damaged_run_json_is_told_and_hides_nothing(tmp_path: Path, case: str) -> None:
    whole, damaged = a_run(tmp_path / "whole"), a_run(tmp_path / "damaged")
    damaged.facts.write_text(WRONG[case] if isinstance(WRONG[case], str) else json.dumps(WRONG[case]))
    with pytest.raises(CheckpointError, match=r"run\.json is damaged \(.*\)\. Remove it: the checkpoints beside it"):
        facts_of(damaged)
    fine, hurt = statuses([whole, damaged])
    assert fine.state is State.FINISHED and hurt.state is State.DAMAGED and "run.json is damaged" in hurt.why
    page, printed = page_of([whole, damaged], tmp_path / "report")
    assert "damaged" in printed and "finished" in printed and "80.0" in page
    assert "run.json is damaged" in page


LINES = [
    '{"step": 2, "images": 16, "stage": 0, "loss": "x", "time": "noon", "launch": []}',
    '{"step": 2, "images": 16, "stage": 0, "loss": {}, "images_per_second": "fast", "skipped": NaN}',
    '{"step": 99999999999999999999999999, "images": 16, "stage": 0, "loss": 1e308, "time": 1e308}',
    '{"step": "two", "images": 16, "stage": 0, "loss": 0.5}',
    '{"step": 2, "images": 1e400, "stage": null, "loss": Infinity, "time": Infinity}',
    "[" * 20_000,
    '"loss"',
    "5" * 10_000,
    "\x00\x00",
]


@pytest.mark.parametrize("line", LINES, ids=[line[:60] for line in LINES])
def test_a_line_of_metrics_that_makes_no_sense_costs_that_line(tmp_path: Path, line: str) -> None:
    run = a_run(tmp_path / "run")
    with run.metrics.open("a") as stream:
        stream.write(line + "\n")
    assert statuses([run])[0].state is State.FINISHED
    assert tail(run.metrics)[0]["step"] == 1
    page, printed = page_of([run], tmp_path / "report")
    assert "finished" in printed and "Traceback" not in page


def test_a_loss_that_is_no_number_is_told_as_it_is() -> None:
    record = record_of('{"step": 1, "images": 8, "stage": 0, "loss": NaN}')
    assert record is not None and record["loss"] != record["loss"]


RESULTS: dict[str, Any] = {
    "no models": RESULT | {"models": None},
    "models is a list": RESULT | {"models": ["student"]},
    "a model says nothing": RESULT | {"models": {"student": {}}},
    "a score is text": RESULT | {"scores": {"knn": {"student": "80"}}},
    "a score has no value": RESULT | {"scores": {"knn": {"student": {"low": 1, "high": 2}}}},
    "a score is no number": RESULT | {"scores": {"knn": {"student": SCORE | {"value": float("nan")}}}},
    "gains is text": RESULT | {"gains": "x"},
    "a gain is text": RESULT | {"gains": {"knn": {"gain": {"student": "much"}}}},
    "scores is null": {"scores": None},
    "scores alone, of text": {"scores": {"student": "x"}},
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_file_of_results_that_is_none_is_left_out_and_named(tmp_path: Path, case: str) -> None:
    run = a_run(tmp_path / "run")
    (run.evaluation / "odd.json").write_text(json.dumps(RESULTS[case]))
    (run.evaluation / "folder.json").mkdir()
    page, _ = page_of([run], tmp_path / "report")
    assert "Results: quick" in page and "Results: odd" not in page
    assert "odd.json is no result" in page and "folder.json is no result" in page


def test_results_without_gains_are_shown(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run.evaluation / "bare.json").write_text(json.dumps({key: RESULT[key] for key in ("models", "scores")}))
    assert "Results: bare" in page_of([run], tmp_path / "report")[0]


def test_a_damaged_recipe_costs_the_comparison_only(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.recipe.write_text("schema: 1\nout: [")
    page, printed = page_of([run], tmp_path / "report")
    assert "finished" in printed and "not YAML" in page


@pytest.mark.parametrize("text", ["null", "[]", '{"pid": "1"}', "[" * 100_000])
def test_a_lock_that_is_none_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    assert read_lock(tmp_path / "lock") is None
