"""`unicscale paper`: what is there of a table, and what the paper says beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from unicscale.cli import app
from unicscale.errors import RecipeError
from unicscale.evaluate.results.compare import summary
from unicscale.report.paper import filled, find_table, gather


def run(folder: Path, *, exit: int | None = 0, step: int = 8, **scores: float) -> Path:
    """A run folder as far as a table looks into it."""
    (folder / "evaluation").mkdir(parents=True)
    ended = {"ended": {"exit": exit, "time": 2.0}} if exit is not None else {}
    (folder / "run.json").write_text(json.dumps({"id": "x", "steps": 8, "launches": [{"time": 1.0, **ended}]}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "images": 8, "stage": 0, "loss": 1.0}) + "\n")
    if scores:
        measured = [measure(folder.name, teacher=False, **scores), measure("teacher:dino", teacher=True, **scores)]
        (folder / "evaluation" / "some.json").write_text(json.dumps(summary(measured)))
    return folder


def measure(model: str, *, teacher: bool, **scores: float) -> dict[str, Any]:
    held = {"low": None, "high": None, "higher_is_better": True}
    return {
        "model": model, "sha256": "0", "teacher": teacher,
        "scores": [{"name": name, "value": value, **held} for name, value in scores.items()],
    }  # fmt: skip


def ask(*words: str) -> Result:
    return CliRunner().invoke(app, ["paper", *words])


def test_a_table_is_found_however_it_is_called() -> None:
    names = {find_table(name).name for name in ("J", "j", "table_j", "Table J")}
    assert names == {"J"}
    assert find_table("3.5").heading == "Section 3.5" and find_table("figure 3b").heading == "Figure 3b"
    with pytest.raises(RecipeError, match=r"the paper has no 'Z' here\..*\n  known: Figure 1, 1, "):
        find_table("Z")


def test_rows_stand_beside_the_papers_numbers_as_far_as_there_are_runs(tmp_path: Path) -> None:
    run(tmp_path / "table_k" / "1_none", imagenet=81.0)
    table = find_table("K")
    held = gather(table, tmp_path)
    rows = filled(table, held)
    assert rows[0][:4] == ["", "imagenet", "imagenet, paper", "transfer, paper"]
    assert rows[1][:4] == ["all the same", "81.0", "82.2", "74.5"]
    assert rows[2][:4] == ["DINO x 4", "-", "-", "-"]
    assert [one.finished for one in held] == [True, *[False] * 6]


def test_the_same_run_of_another_table_fills_a_row_with_its_numbers(tmp_path: Path) -> None:
    run(tmp_path / "table_1" / "6_dedicated", imagenet=82.0)
    held = {one.row.recipe: one for one in gather(find_table("H"), tmp_path)}
    one = held["table_h/hidden_layers_1"]
    assert one.folder == tmp_path / "table_1/6_dedicated" and one.scores["imagenet"]["value"] == 82.0
    assert one.published["imagenet"] == 82.2 and held["table_h/none"].published == {"imagenet": 81.1}


def test_a_stage_is_its_own_row_under_its_own_label(tmp_path: Path) -> None:
    folder = run(tmp_path / "table_2" / "unic_l", knn=85.0)
    both = [measure("low", teacher=False, knn=84.0), measure("unic_l", teacher=False, knn=85.0)]
    (folder / "evaluation" / "some.json").write_text(json.dumps(summary(both)))
    low, whole = gather(find_table("C"), tmp_path)
    assert (low.scores["knn"]["value"], whole.scores["knn"]["value"]) == (84.0, 85.0)
    assert (low.published["knn"], whole.published["knn"]) == (85.4, 85.6)


def test_what_is_next_is_said_of_every_row(tmp_path: Path) -> None:
    run(tmp_path / "table_k" / "1_none")
    run(tmp_path / "table_k" / "2_dino_x4", exit=75, step=3)
    run(tmp_path / "table_k" / "3_deit3_x4", **{"imagenet": 1.0, "transfer": 1.0, "ade20k/mIoU": 1.0, "nyud/rmse": 1.0})
    lines = ask("K", "--runs", str(tmp_path)).output.splitlines()
    none, dino, deit3, ibot = (
        next(line for line in lines if f"_{name}" in line) for name in ("none", "dino_x", "deit", "ibot")
    )
    assert (
        "finished  8/8" in none
        and "unicscale evaluate" in none
        and "--suite imagenet,transfer,dense --data /data" in none
    )
    assert "stopped   3/8" in dino and "python launch/slurm.py" in dino and "table_k/2_dino_x4.yaml out=" in dino
    assert deit3.endswith("finished  8/8")
    assert "  -  " in ibot and "table_k/4_ibot_x4.yaml out=" in ibot


def test_other_data_fills_the_table_with_what_was_measured_on_it(tmp_path: Path) -> None:
    run(tmp_path / "table_j" / "p_000", **{"k-NN class": 61.0, "speed/images": 9.0})
    table = find_table("J")
    assert filled(table, gather(table, tmp_path))[:2] == [["", "k-NN class"], ["p = 0, nothing dropped", "61.0"]]


def test_without_a_table_all_are_listed_and_a_figure_has_its_commands() -> None:
    assert "Table J" in ask().output and "Figure 3b" in ask().output
    assert "unicscale report runs/paper/table_1/8_dropping" in ask("Figure 4").output
    assert "python launch/slurm.py recipes/paper/table_j --sweep" in ask("J").output
