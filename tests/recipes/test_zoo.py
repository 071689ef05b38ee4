"""Other people's recipes: all check, plan, and run at toy size; headers say where their numbers are from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit import places
from tests.kit.toys import toy
from unicscale.cost import report
from unicscale.dry_run import rehearse
from unicscale.errors import TeacherError
from unicscale.evaluate.results.compare import zoo
from unicscale.recipe import Recipe, load
from unicscale.teacher.described import describe

FOLDER = places.REPOSITORY / "recipes" / "zoo"
RECIPES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "base.yaml")
NAMES = {
    "amradio", "cradio_v4", "direct_multi", "dune", "eupe", "eupe_multi", "eupe_proxy", "phi_s_radio", "radio_v2_5",
    "siglino", "theia",
}  # fmt: skip
SHOWN = ("knn", "ade20k/mIoU", "voc/mIoU", "nyud/rmse", "spair/pck@0.1")
every = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def places_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places.REPOSITORY)
    monkeypatch.setenv("IMAGENET", "/data/imagenet")
    monkeypatch.setenv("IMAGES", "/data/images")


def read(name: str) -> Recipe:
    return load(str(FOLDER / f"{name}.yaml"))


def test_there_are_eleven() -> None:
    assert {path.stem for path in RECIPES} == NAMES


@every
def test_a_header_says_command_cost_scores_and_what_is_ours(path: Path) -> None:
    head = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"#   python launch/slurm.py recipes/zoo/{path.name}" in head
    assert re.search(r"^# Cost: [\d.,]+ [ZE]FLOP, [\d.,]+ H200-hours", head, re.MULTILINE)
    assert "\n# Published: " in head and "\n# Ours" in head and "# yaml-language-server: $schema=../schema.json" in head
    assert "arXiv:" in head or path.stem == "direct_multi"
    for name in re.findall(r"--beside (\w+)", head):
        scores = zoo()[name]["scores"]
        for short, number in re.findall(r"(k-NN|ADE20K mIoU|NYUd RMSE) ([\d.]+)", head):
            key = {"k-NN": "knn", "ADE20K mIoU": "ade20k/mIoU", "NYUd RMSE": "nyud/rmse"}[short]
            assert path.stem == "direct_multi" or scores[key] == float(number), (name, short)


@every
def test_a_recipe_extends_the_base_and_says_its_run(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines[:2] == ["extends: base.yaml", f"out: runs/{path.stem}"]
    recipe = load(str(path))
    for name, section in recipe.teachers.items():
        assert any(describe(name, section).widths)


def test_the_page_has_every_model_with_its_numbers() -> None:
    page = (places.REPOSITORY / "docs" / "zoo.md").read_text()
    for name, one in zoo().items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        shown = {key: value for key, value in one["scores"].items() if key in SHOWN}
        assert one["title"] in cells and {f"{value:g}" for value in shown.values()} <= set(cells)


def test_what_a_run_to_come_will_be_is_known_from_its_recipe_and_its_values_are_not() -> None:
    section = read("eupe").teachers["proxy"]
    described = describe("proxy", section)
    assert described.widths.summary == 1664 and described.spec.size == 256 and described.spec.patch == 16
    with pytest.raises(TeacherError, match=r"'run: runs/eupe_proxy': 'runs/eupe_proxy' is neither a file nor a folder"):
        described.plugin.own_state(described.options)


def planned(path: Path) -> None:
    page = report(load(str(path)), None, 141)
    head = path.read_text()
    said = re.search(r"([\d.,]+ [ZE]FLOP, [\d,.]+) H200-hours", page)
    assert said is not None and f"# Cost: {said[1]} H200-hours" in head, page


@pytest.mark.slow
@pytest.mark.timeout(600)
@every
def test_the_plan_is_what_the_header_says(path: Path) -> None:
    planned(path)


def test_the_plan_of_a_chains_second_link_needs_no_first() -> None:
    planned(FOLDER / "eupe.yaml")


QUICK = ("cradio_v4", "siglino")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in sorted(NAMES)]
)
def test_a_toy_of_it_runs_dry(name: str, tmp_path: Path) -> None:
    proxy = toy(read("eupe_proxy"), tmp_path) if name in ("eupe", "eupe_multi") else None
    recipe = toy(read(name), tmp_path, proxy)
    page = rehearse(recipe)
    assert page.startswith("dry run: plain, fp32") and "nan" not in page
    for stage in recipe.stages:
        assert f"{stage.name}, " in page
    assert ("/arkd" in page) is (name == "siglino") and ("/angle" in page) is (name == "cradio_v4")
