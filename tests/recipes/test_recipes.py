"""Every shipped recipe: checked, built on meta, documented, and as small as it claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.kit import places
from unicscale.contracts import Widths
from unicscale.objective import build_balance, empty_standardizer
from unicscale.recipe import Recipe, load
from unicscale.recipe.plan import Plan
from unicscale.student.model import build_student
from unicscale.teacher.targets import Teachers

FOLDER = places.REPOSITORY / "recipes"
WHOLE = [path for path in FOLDER.glob("*.yaml") if path.name.startswith(("unic_", "single_teacher"))]
ROWS = sorted((FOLDER / "paper").rglob("*.yaml"))
OURS = sorted((FOLDER / "ours").glob("*.yaml"))
IMAGENET_IMAGES = 1_281_167


@pytest.fixture(autouse=True)
def imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    monkeypatch.setenv("IMAGENET_SD", "/data/imagenet_sd")


def name(path: Path) -> str:
    return str(path.relative_to(FOLDER).with_suffix(""))


def read(path: Path) -> Recipe:
    return load(str(path))


@pytest.mark.parametrize("path", [*WHOLE, *ROWS, *OURS], ids=name)
def test_a_recipe_builds_on_meta_with_its_plan_balance_and_statistics(path: Path) -> None:
    recipe = read(path)
    widths = Teachers.widths_of(recipe.teachers)
    student = build_student(recipe.student, recipe.projector, widths, recipe.stages[0].size_list[0]).eval()
    assert all(p.is_meta for p in student.parameters())
    with torch.device("meta"):
        seen = student(torch.empty(2, 3, *2 * recipe.stages[0].size_list[:1]))
    assert {n: Widths(*(t.shape[-1] for t in a)) for n, a in seen.answers.items()} == widths
    build_balance(recipe.loss.balance, list(widths))
    empty_standardizer(recipe.standardize, max(wide.summary for wide in widths.values()))
    plan = Plan.of(
        recipe.stages,
        images_per_epoch=IMAGENET_IMAGES // 512 * 512,
        images_per_step=recipe.data.images_per_step,
        standardize=recipe.standardize,
    )
    assert plan.steps == sum(2502 * int(stage.epochs or 0) for stage in recipe.stages)


@pytest.mark.parametrize("path", WHOLE, ids=name)
def test_a_header_says_the_command_the_cost_and_what_the_paper_reached(path: Path) -> None:
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"python launch/slurm.py recipes/{path.name}" in head[1]
    text = "\n".join(head)
    assert "H200-hours" in text and "Paper: " in text and "# yaml-language-server: $schema=schema.json" in text


@pytest.mark.parametrize("path", OURS, ids=name)
def test_a_recipe_of_ours_changes_at_most_three_lines_of_its_base(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("extends: ../") and lines[1] == f"out: runs/ours/{path.stem}"
    assert 1 <= len(lines[2:]) <= 3
    base = FOLDER / lines[0].removeprefix("extends: ../")
    assert read(path).model_copy(update={"out": ""}) != read(base).model_copy(update={"out": ""})


def test_the_student_and_ladder_of_the_paper_have_the_sizes_it_says() -> None:
    sizes = {}
    for recipe in (read(FOLDER / "unic_b.yaml"), read(FOLDER / "unic_l.yaml")):
        student = build_student(recipe.student, recipe.projector, Teachers.widths_of(recipe.teachers), 224)
        count = {part: sum(p.numel() for p in getattr(student, part).parameters()) for part in ("trunk", "projector")}
        sizes[recipe.student.arch] = tuple(round(n / 1e6) for n in count.values())
    assert sizes == {"vit_base": (86, 142), "vit_large": (303, 269)}


def test_editors_complete_the_keys_that_the_recipe_takes() -> None:
    kept = json.loads((FOLDER / "schema.json").read_text())
    assert kept == Recipe.model_json_schema(by_alias=True), "unicscale check --schema > recipes/schema.json"
