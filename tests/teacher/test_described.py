"""What a recipe says of a teacher means the same to whoever asks: front doors, commands, the run itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner
from unicscale_launch import checks

from tests.kit import places
from tests.kit.recipe import write_images, write_recipe
from unicscale import cli
from unicscale.errors import RecipeError, TeacherError
from unicscale.recipe import load
from unicscale.recipe.sections import Launch, TeacherSection
from unicscale.teacher.cards import introduce
from unicscale.teacher.described import describe
from unicscale.teacher.frozen import open_frozen

YESTERDAY = places.GOLDEN / "unic_official_tiny.pth"
SECTION = TeacherSection.model_validate({"plugin": "unicscale", "run": str(YESTERDAY)})
OWN_OR_NOT = """
from unicscale_teachers.scenes import Scenes

class OwnOrNot(Scenes):
    def own_state(self, options):
        return self.build(options).state_dict() if options.knows == "dense" else None
"""
OF_ITS_WIDTH = """
from unicscale_teachers.scenes import Scenes

class OfItsWidth(Scenes):
    class Options(Scenes.Options):
        dim: int = 1
"""


def recipe_file(folder: Path, **teacher: object) -> Path:
    images = write_images(folder / "images", 8)
    return write_recipe(folder / "r.yaml", images, folder / "run", teachers={"yesterday": teacher})


def test_a_teacher_whose_weights_are_its_own_passes_every_door(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, plugin="unicscale", run=str(YESTERDAY))
    recipe = load(file)
    assert introduce("yesterday", recipe.teachers["yesterday"]).endswith("; weights its own")
    assert open_frozen("yesterday", recipe.teachers["yesterday"]).spec.dim == describe("x", SECTION).spec.dim
    checks.check(recipe, Launch(gpus_per_node=0))
    for arguments in (["fetch", str(file)], ["fetch", "unicscale", f"run={YESTERDAY}"]):
        said = CliRunner().invoke(cli.app, ["teachers", *arguments])
        assert (said.exit_code, said.stdout.partition(": ")[2]) == (0, "nothing to fetch (weights: its own)\n")
    shown = CliRunner().invoke(cli.app, ["teachers", "show", "unicscale", f"run={YESTERDAY}"])
    assert "weights        its own" in shown.stdout


def test_random_weights_are_no_file_and_those_in_the_package_are_one() -> None:
    assert describe("x", SECTION.model_copy(update={"weights": "random"})).file is None
    bundled = describe("scenes", TeacherSection()).file
    assert bundled is not None and bundled.present and bundled.url is None


def test_weights_that_are_its_own_with_some_options_only_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_OR_NOT)
    said = {"adapter": f"{tmp_path}/own.py:OwnOrNot"}
    assert describe("x", TeacherSection.model_validate(said | {"knows": "dense"})).file is None
    assert describe("x", TeacherSection.model_validate(said)).file is not None


def test_what_train_refuses_for_want_of_a_file_is_not_called_its_own() -> None:
    shape = {"embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8, "img_size": 32}
    section = TeacherSection.model_validate({"plugin": "dino", "size": shape})
    for refused in (lambda: introduce("one", section), lambda: open_frozen("one", section)):
        with pytest.raises(TeacherError, match="teacher 'one' has no official file in this form"):
            refused()


def test_an_option_called_dim_is_the_plugins_own(tmp_path: Path) -> None:
    (tmp_path / "wide.py").write_text(OF_ITS_WIDTH)
    file = recipe_file(tmp_path, adapter=f"{tmp_path}/wide.py:OfItsWidth", dim=7)
    assert describe("yesterday", load(file).teachers["yesterday"]).options.dim == 7
    assert describe("yesterday", load(file, ["teachers.yesterday.dim=8"]).teachers["yesterday"]).options.dim == 8


def test_a_plugin_without_an_option_called_dim_refuses_it() -> None:
    with pytest.raises(RecipeError, match=r"'teachers\.one\.dim' is not a key\."):
        describe("one", TeacherSection.model_validate({"plugin": "dino", "dim": 384}))
