"""The paper's tables as recipes: every row is there, resolves, and differs from its base in what the table varies."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from tests.kit import places
from unicscale.cli import app
from unicscale.evaluate.results.compare import published
from unicscale.recipe import Recipe, load
from unicscale.recipe.difference import flat
from unicscale.recipe.yaml_lines import read
from unicscale.report.paper import FOLDER, Row, tables

PAPER = places.REPOSITORY / "recipes" / "paper"
PAGE = places.REPOSITORY / "docs" / "paper.md"
TABLES = tables()
ROWS = {row.recipe: row for name, table in TABLES.items() for row in table.rows if name != "C"}  # C is Table 2's run
TEACHERS = {"dino_deit3": {"dino", "deit3"}, "ibot_dbot": {"ibot", "dbot"}, "four": {"dino", "deit3", "ibot", "dbot"}}


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    monkeypatch.setenv("IMAGENET_SD", "/data/imagenet_sd")


def recipe(name: str) -> Recipe:
    return load(PAPER / f"{name}.yaml")


def content(path: Path) -> dict[str, object]:
    return {key: value for key, value in flat(load(path)).items() if key != "out"}


def test_every_file_is_a_row_and_every_row_a_file() -> None:
    assert FOLDER == PAPER
    files = {str(path.relative_to(PAPER).with_suffix("")) for path in PAPER.glob("*/*.yaml")}
    assert files == set(ROWS)
    assert {name: len(TABLES[name].rows) for name in ("A", "J", "K")} == {"A": 16, "J": 10, "K": 7}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.recipe)
def test_a_row_differs_from_its_base_in_what_its_table_varies_and_in_nothing_else(row: Row) -> None:
    path = PAPER / f"{row.recipe}.yaml"
    base = read(str(path)).tree.get("extends")
    assert load(path).out == f"runs/paper/{row.recipe}"
    if row.varies is None:
        assert base is None
        return
    own, other = content(path), content(path.parent / base)
    changed = {key for key in {*own, *other} if own.get(key, ...) != other.get(key, ...)}
    covering = {key: [v for v in row.varies if key == v or key.startswith(f"{v}.")] for key in changed}
    assert not [key for key, by in covering.items() if not by]
    assert {v for by in covering.values() for v in by} == set(row.varies)


def test_the_page_of_rows_is_that_of_the_recipes() -> None:
    from benchmarks.paper_rows import PAGE as ROWS_PAGE
    from benchmarks.paper_rows import page

    assert ROWS_PAGE.read_text() == page(), "python benchmarks/paper_rows.py writes it"


@pytest.mark.parametrize("name", ROWS, ids=str)
def test_a_row_has_the_papers_epochs_and_probability(name: str) -> None:
    row = recipe(name)
    dropping = row.loss.balance.kind == "teacher_dropping"
    if not name.startswith("table_2/"):
        assert [stage.epochs for stage in row.stages] == [200 if dropping else 100]
    if dropping and not name.startswith("table_j/"):
        assert row.loss.balance.p == (0.25 if len(row.teachers) == 2 else 0.5)


@pytest.mark.parametrize("pair", TEACHERS)
def test_a_base_is_the_base_setup(pair: str) -> None:
    base = recipe(f"base_{pair}")
    assert set(base.teachers) == TEACHERS[pair]
    assert base.projector.model_dump() == {"kind": "mlp", "hidden": 3072, "layers": 1, "shared": False}
    assert (base.standardize.kind, base.loss.balance.kind, base.stages[0].epochs) == ("running", "none", 100)


@pytest.mark.parametrize("number", range(5, 9))
def test_a_student_of_one_teacher_is_the_base_setup_with_one(number: int) -> None:
    [path] = (PAPER / "table_a").glob(f"{number:02d}_single_*.yaml")
    own, base = content(path), content(PAPER / "base_four.yaml")
    changed = {key for key in {*own, *base} if own.get(key, ...) != base.get(key, ...)}
    assert all(key.startswith("teachers.") for key in changed)
    assert list(load(path).teachers) == [path.stem.rpartition("_")[2]]


def test_unic_is_the_same_run_wherever_it_stands() -> None:
    for row, whole in (
        ("table_a/20_four_unic", "unic_b"),
        ("table_a/16_ibot_dbot_unic", "unic_b_ibot_dbot"),
        ("table_1/8_dropping", "unic_b_dino_deit3"),
        ("table_2/unic_l", "unic_l"),
        ("table_f/vit_s", "unic_s"),
    ):
        assert content(PAPER / f"{row}.yaml") == content(places.REPOSITORY / "recipes" / f"{whole}.yaml")


@pytest.mark.parametrize("path", sorted(PAPER.rglob("*.yaml")), ids=lambda p: str(p.relative_to(PAPER).with_suffix("")))
def test_a_header_says_command_cost_numbers_and_what_is_unsaid(path: Path) -> None:
    head = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"\n#   python launch/slurm.py {path.relative_to(places.REPOSITORY)}\n" in head
    assert re.search(r"^# Cost: 0\.\d+ ZFLOP, [\d,]+ H200-hours", head, re.MULTILINE)
    assert "\n# Paper: " in head and "\n# Unsaid" in head
    printed = published()["models"].get(str(path.relative_to(PAPER).with_suffix("")))
    for score, value in (printed or {"scores": {}})["scores"].items():
        assert (f"{value:.3f}" if "rmse" in score else f"{value:.1f}") in head


def test_published_rows_are_rows() -> None:
    names = {row.published for table in TABLES.values() for row in table.rows}
    held = published()
    assert set(held["models"]) - set(held["aliases"]) <= names
    assert {one["table"] for one in held["models"].values()} <= set(TABLES)


def commands() -> list[str]:
    found = [command for table in TABLES.values() for command in table.commands]
    found += re.findall(r"`((?:unicscale|python launch)[^`]*)`", PAGE.read_text())
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_paper_parses_and_its_recipes_exist(command: str) -> None:
    words = shlex.split(command)
    for word in words:
        if word.startswith("recipes/"):
            assert (places.REPOSITORY / word).exists(), word
        if word.startswith("runs/paper/"):
            place = PAPER / word.removeprefix("runs/paper/").partition("@")[0]
            assert place.is_dir() or place.with_suffix(".yaml").exists(), word
    if words[0] == "unicscale":
        command_of = get_command(app)
        name, chosen, rest = command_of.resolve_command(command_of.make_context("unicscale", ["x"]), words[1:])
        chosen.make_context(name, list(rest)).close()


def test_the_page_has_a_line_for_every_table_and_figure() -> None:
    text = PAGE.read_text()
    missing = [table.heading for table in TABLES.values() if f"| {table.heading} |" not in text]
    assert not missing
