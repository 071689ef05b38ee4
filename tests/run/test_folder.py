"""Whose run folder it is: a run goes on with a recipe that computes the same, and with no other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unicscale.errors import CheckpointError, DataError
from unicscale.ranks.world import World
from unicscale.recipe import Recipe, dump, load
from unicscale.recipe.difference import differences
from unicscale.run.folder import RunFolder, claim, open_run, set_aside
from unicscale.run.launches import owned_run


def recipe(out: Path | str = "runs/x", **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "schema": 1,
        "out": str(out),
        "data": {"train": ["/disk1/train.beton"], "images_per_step": 4},
        "teachers": {"one": {"weights": "random", "size": {"embed_dim": 8}}},
        "stages": [{"name": "low", "size": 32, "steps": 10, "lr": {"peak": 1e-3}}],
    }
    for name, value in changes.items():
        node: Any = tree
        *branches, leaf = (int(part) if part.isdigit() else part for part in name.split("__"))
        for branch in branches:
            node = node[branch] if isinstance(branch, int) else node.setdefault(branch, {})
        node[leaf] = value
    return Recipe.model_validate(tree)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"stages__0__lr__peak": 2e-3}, "stages.0.lr.peak: 0.001 -> 0.002"),
        ({"seed": 4}, "seed: 0 -> 4"),
        ({"data__images_per_step": 8}, "data.images_per_step: 4 -> 8"),
        ({"data__train": ["/disk1/other.beton"]}, "data.train.0: '/disk1/train.beton' -> '/disk1/other.beton'"),
        ({"data__augment": {"flip": 0.1}}, "data.augment.flip: 0.5 -> 0.1"),
        ({"teachers__two": {"weights": "random"}}, "teachers.two.weights: (not there) -> 'random'"),
        ({"teachers__one__size": {"embed_dim": 9}}, "teachers.one.size.embed_dim: 8 -> 9"),
        ({"teachers__one__text": None}, "teachers.one.text: (not there) -> None"),
        ({"teachers__one__size": {"embed_dim": 8, "ffn": None}}, "teachers.one.size.ffn: (not there) -> None"),
        ({"student__options": {"norm_layer": None}}, "student.options.norm_layer: (not there) -> None"),
        ({"engine__dtype": "bf16"}, "engine.dtype: 'auto' -> 'bf16'"),
        ({"loss__balance": {"kind": "none"}}, "loss.balance.kind: 'teacher_dropping' -> 'none'"),
    ],
    ids=str,
)
def test_a_change_that_matters_is_said_as_one_line(change: dict[str, Any], line: str) -> None:
    assert line in differences(recipe(), recipe(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"track__every_steps": 1}, {"save__keep": 9}, {"launch__nodes": 4}, {"evaluate__tasks": ["knn"]},
        {"engine__kind": "fsdp2"}, {"engine__checkpointing": "full"}, {"data__micro_batch": 2}, {"data__workers": 3},
        {"data__train": ["/scratch/job7/train.beton"]}, {"data__reader": "beton"}, {"out": "elsewhere"},
    ],
    ids=str,
)  # fmt: skip
def test_a_change_of_where_and_how_does_not_matter(change: dict[str, Any]) -> None:
    assert differences(recipe(), recipe(**change)) == []


def test_a_folder_of_another_recipe_is_refused_with_the_diff_and_left_alone(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run"))
    folder.metrics.write_text("{}\n")
    written = folder.recipe.read_text()
    with pytest.raises(CheckpointError) as refused:
        claim(folder, recipe(tmp_path / "run", seed=7))
    assert str(refused.value) == (
        f"{folder.root} belongs to another recipe:\n    seed: 0 -> 7\n"
        "  Choose another folder with out=FOLDER, undo the change, or start this one over with --fresh."
    )
    assert folder.recipe.read_text() == written


def test_a_folder_in_which_no_step_was_taken_is_free_for_another_recipe(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run", seed=7))
    assert load(folder.recipe).seed == 7
    assert "made for another recipe that never took a step; it is this one's now" in capfd.readouterr().err
    (folder.checkpoints / "step-00000003").mkdir()
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        claim(folder, recipe(tmp_path / "run"))


def test_who_wants_to_train_longer_is_told_how(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run"))
    folder.metrics.write_text("{}\n")
    way = f"out=FOLDER stages.0.start_from=checkpoint:{folder.root}"
    with pytest.raises(CheckpointError) as refused:
        claim(folder, recipe(tmp_path / "run", stages__0__steps=20))
    assert "stages.0.steps: 10 -> 20\n" in str(refused.value) and str(refused.value).endswith(way)
    with pytest.raises(CheckpointError) as refused:
        claim(folder, recipe(tmp_path / "run", stages__0__steps=20, seed=7))
    assert way not in str(refused.value)


def test_a_harmless_change_goes_on_and_the_folder_says_so(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run", track__every_steps=1))
    assert load(folder.recipe).track.every_steps == 1


def test_a_run_without_timed_saves_stays_one_when_it_is_read_back(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run", save__every_minutes=None))
    assert load(folder.recipe).save.every_minutes is None


def test_an_option_that_a_recipe_sets_to_null_stays_null_when_it_is_read_back(tmp_path: Path) -> None:
    folder, said = open_run(recipe(tmp_path / "run")), recipe(tmp_path / "run", teachers__one__text=None)
    claim(folder, said)
    assert load(folder.recipe).teachers["one"].options["text"] is None
    claim(folder, said)  # it goes on
    folder.metrics.write_text("{}\n")
    with pytest.raises(CheckpointError, match=r"teachers\.one\.text: None -> \(not there\)"):
        claim(folder, recipe(tmp_path / "run"))


def test_keys_that_a_recipe_leaves_out_are_not_told_beside_a_new_teacher() -> None:
    told = differences(recipe(), recipe(teachers__two={"weights": "random"}))
    assert told == [f"teachers.two.{key}: (not there) -> {value!r}" for key, value in {
        "dtype": "auto", "resolution": "same_grid", "weights": "random"}.items()]  # fmt: skip


def test_starting_over_keeps_the_old_run_beside_the_new_one(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    for attempt in (1, 2):
        claim(folder, recipe(tmp_path / "run", seed=attempt))
        folder.metrics.write_text(f"{attempt}")
        (folder.checkpoints / "step-00000001").mkdir()
        set_aside(folder)
        assert not folder.recipe.exists() and not folder.metrics.exists() and not list(folder.checkpoints.iterdir())
    old = RunFolder(folder.root / "before-2")
    assert load(old.recipe).seed == 2 and old.metrics.read_text() == "2"
    assert (old.checkpoints / "step-00000001").is_dir()
    assert load(folder.root / "before-1" / "recipe.yaml").seed == 1


@pytest.mark.parametrize("renames", range(5))
def test_a_start_over_that_is_cut_short_leaves_nothing_that_another_recipe_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    claim(folder, recipe(tmp_path / "run"))
    (folder.checkpoints / "step-00000001").mkdir()
    for file in (folder.facts, folder.metrics, folder.evaluation / "x.json"):
        file.write_text("{}")
    rename, done = os.rename, []

    def killed(old: Path, new: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(rename(old, new))

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        set_aside(folder)
    monkeypatch.undo()
    if list(folder.root.glob("checkpoints/*")):
        with pytest.raises(CheckpointError, match="belongs to another recipe"):
            claim(open_run(recipe(tmp_path / "run")), recipe(tmp_path / "run", seed=3))


def test_a_folder_whose_recipe_was_deleted_belongs_to_the_recipe_of_its_checkpoint(tmp_path: Path) -> None:
    folder, saved = open_run(recipe(tmp_path / "run")), recipe(tmp_path / "run")
    step = folder.checkpoints / "step-00000001"
    step.mkdir()
    (step / "recipe.yaml").write_text(dump(saved))
    proof = hashlib.sha256((step / "recipe.yaml").read_bytes()).hexdigest()
    (step / "manifest.json").write_text(json.dumps({"files": {"recipe.yaml": {"size": 1, "sha256": proof}}}))
    with pytest.raises(CheckpointError, match="belongs to another recipe:\n    seed: 0 -> 3"):
        claim(folder, recipe(tmp_path / "run", seed=3))
    assert not folder.recipe.exists()
    claim(folder, saved)
    folder.recipe.unlink()
    (step / "recipe.yaml").write_text("schema: 1\n")  # not what was saved: it says nothing
    claim(folder, recipe(tmp_path / "run", seed=3))


def test_what_is_set_aside_never_takes_a_name_that_is_still_there(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    for kept in ("before-2", "before-10"):  # before-1 was removed
        (folder.root / kept).mkdir()
    folder.metrics.write_text("x")
    set_aside(folder)
    assert (folder.root / "before-11" / "metrics.jsonl").read_text() == "x"


def test_a_file_written_whole_is_read_back_in_any_locale(tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from unicscale.run.folder import *;"
    script += "write_whole(Path(sys.argv[1]) / 'run.json', '{\"a\": \"\\u00e9\"}');"
    script += "print(facts_of(RunFolder(Path(sys.argv[1])))['a'] == '\\u00e9')"
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_a_run_that_cannot_note_its_end_says_why_it_ended_and_lets_go(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="the reason"), owned_run(recipe(tmp_path / "run"), World()) as (folder, _):
        folder.facts.unlink()
        folder.facts.mkdir()  # as good as a full disk
        raise DataError("the reason")
    assert "run.json was not told of the end" in capfd.readouterr().err
    assert not (folder.root / "lock").exists()


def test_starting_over_in_an_empty_folder_sets_nothing_aside(tmp_path: Path) -> None:
    folder = open_run(recipe(tmp_path / "run"))
    set_aside(folder)
    assert not list(folder.root.glob("before-*"))


def test_what_cannot_be_written_leaves_the_old_file_and_no_half_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("old")
    script = "import resource, sys; sys.dont_write_bytecode = True;"
    script += "from pathlib import Path; from unicscale.run.folder import write_whole;"
    script += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); write_whole(Path(sys.argv[1]), 'x' * 1000)"
    command = [sys.executable, "-c", script, str(tmp_path / "run.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "CheckpointError" in done.stderr and "run.json cannot be written: File too large." in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    assert (tmp_path / "run.json").read_text() == "old"


def test_auto_goes_on_in_the_precision_in_which_the_run_began(tmp_path: Path) -> None:
    begun = recipe(tmp_path / "run", engine__dtype="bf16")
    with owned_run(begun, World()) as (folder, _):
        (folder.checkpoints / "step-00000001").mkdir()  # a step was taken
    with owned_run(recipe(tmp_path / "run"), World()) as (_, again):
        assert (again.engine.dtype, again.engine.compile) == ("bf16", False)
    shutil.rmtree(folder.checkpoints / "step-00000001")
    with owned_run(recipe(tmp_path / "run"), World()) as (_, anew):
        assert anew.engine.dtype == "fp32", "nothing was begun: as this device can"


def test_a_run_older_than_the_usual_warm_up_does_not_get_one_in_silence(tmp_path: Path) -> None:
    none = recipe(tmp_path / "run", stages__0__warmup_steps=0)
    folder = open_run(none)
    claim(folder, none)
    folder.metrics.write_text("{}\n")
    text = folder.recipe.read_text()
    assert text.count("warmup_steps: 0") == 1
    folder.recipe.write_text(text.replace("  warmup_steps: 0\n", ""))  # as it was written before
    claim(folder, none)
    folder.recipe.write_text(text.replace("  warmup_steps: 0\n", ""))
    with pytest.raises(CheckpointError, match=r"stages\.0\.warmup: None -> '5%'"):
        claim(folder, recipe(tmp_path / "run"))
