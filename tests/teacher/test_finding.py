"""Plug-ins: found without being imported, refused alone when they are broken, explained when they are misused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unicscale.cli import app
from unicscale.errors import RecipeError, TeacherError
from unicscale.recipe.sections import TeacherSection
from unicscale.teacher.files import file_name
from unicscale.teacher.finding import find, listing
from unicscale.teacher.options import options_of

GOOD = """
from unicscale.contracts import IMAGENET_MEAN, IMAGENET_STD, TeacherSpec
from unicscale.teacher import Teacher

class Mine(Teacher):
    api_version = 1
    licence = "MIT"
    files = {"only": "https://example.org/mine.pth"}
    def spec(self, options):
        return TeacherSpec(8, 4, 16, IMAGENET_MEAN, IMAGENET_STD, self.licence)

    def build(self, options):
        raise AssertionError("these tests only describe")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Distributions as an installer lays them down, on a path of their own; subprocesses see them too."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    def add(distribution: str, plugin: str, source: str, version: str = "2.0") -> None:
        module = f"mod_{distribution}_{abs(hash((distribution, source)))}"
        info = site / f"{distribution}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[unicscale.teachers]\n{plugin} = {module}:Mine\n")
        (site / f"{module}.py").write_text(source)

    return add


def refusal(plugin: str) -> str:
    begun = time.monotonic()
    with pytest.raises(TeacherError) as caught:
        find(plugin)
    assert caught.value.exit_code == 4
    assert time.monotonic() - begun < 10  # 5 s on a machine that does nothing else
    return str(caught.value)


def test_a_plugin_is_found_by_its_name_and_the_others_are_not_imported(install) -> None:
    install("good_dist", "mine", GOOD)
    install("loud_dist", "loud", "raise RuntimeError('never import me')")
    assert {"mine", "loud", "dinov2"} <= {listed.name for listed in listing()}
    assert find("mine").spec(None).dim == 8


def test_a_plugin_that_cannot_build_is_refused_by_what_it_lacks(install) -> None:
    install("half_dist", "half", GOOD[: GOOD.index("    def build")])
    said = refusal("half")
    assert "'half' of half_dist 2.0 has no build()." in said and "docs/teacher.md" in said


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('no licence server')", "cannot be imported: RuntimeError: no licence server"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: it calls exit(3)"),
        ("import os; os._exit(0)", "leaves the process at import, with exit code 0"),
        ("import time\nwhile True:\n    time.sleep(0.1)", "hangs at import: still in "),
        ("syntax error here", "cannot be imported: SyntaxError"),
    ],
    ids=["raises", "exits", "exits hard", "hangs", "does not parse"],
)
def test_a_broken_plugin_is_reported_with_its_distribution_and_cause(install, source: str, cause: str) -> None:
    install("broken_dist", "broken", source, version="1.4")
    said = refusal("broken")
    assert "'broken' of broken_dist 1.4" in said
    assert cause in said
    assert "Other teachers are unaffected" in said
    assert find("dinov2") is not None


def test_a_plugin_that_hangs_is_told_by_its_line(install) -> None:
    install("slow_dist", "slow", "import time\n\n\ntime.sleep(1000)")
    assert ".py:4 after 3 s" in refusal("slow")


def test_two_plugins_of_one_name_are_both_named_and_can_be_told_apart(install) -> None:
    install("first_dist", "mine", GOOD)
    install("second_dist", "mine", GOOD.replace("(8, 4", "(9, 4"))
    said = refusal("mine")
    assert "first_dist 2.0 and second_dist 2.0" in said
    assert "`plugin: second_dist:mine`" in said
    assert find("x", TeacherSection(plugin="second_dist:mine")).spec(None).dim == 9


@pytest.mark.parametrize("version", ["0", "2", "None"])
def test_another_api_version_is_refused(install, version: str) -> None:
    install("old_dist", "old", GOOD.replace("api_version = 1", f"api_version = {version}"))
    said = refusal("old")
    assert f"'old' of old_dist 2.0 was written for plug-in API {version}; this unicscale speaks 1" in said


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    said = refusal("dinov")
    assert "no teacher plug-in is called 'dinov'. Did you mean 'dino" in said


def test_an_adapter_file_serves_a_one_off(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    assert find("x", TeacherSection(adapter=f"{tmp_path}/mine.py:Mine")).spec(None).dim == 8


LATER = """
from __future__ import annotations
from typing import Literal
from unicscale_teachers.dino import Dino

class Mine(Dino):
    class Options(Dino.Options):
        flavour: Literal["sweet", "sour"] = "sweet"
"""


def test_an_adapter_may_leave_its_annotations_for_later(tmp_path: Path) -> None:
    for folder, flavour in ((tmp_path / "a", "sweet"), (tmp_path / "b", "bitter")):
        folder.mkdir()
        (folder / "mine.py").write_text(LATER.replace("sweet", flavour))
        plugin = find("x", TeacherSection(adapter=f"{folder}/mine.py:Mine"))
        assert options_of(plugin, "x", {}).flavour == flavour
        with pytest.raises(RecipeError, match=f"'teachers.x.flavour' is 'salty'.*It takes: {flavour}, sour"):
            options_of(plugin, "x", {"flavour": "salty"})


def test_commands_take_an_adapter_in_place_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(LATER)
    shown = CliRunner().invoke(app, ["teachers", "show", f"{tmp_path}/mine.py:Mine", "size=small"])
    assert shown.exit_code == 0 and "flavour: sweet | sour (default sweet)" in shown.output, shown.output


@pytest.mark.parametrize(
    ("adapter", "cause"),
    [("./nowhere.py:Mine", "nowhere.py does not exist"), ("./mine.py", "should read ./file.py:Class")],
)
def test_a_wrong_adapter_is_explained(adapter: str, cause: str) -> None:
    with pytest.raises(TeacherError, match=cause):
        find("x", TeacherSection(adapter=adapter))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sise": "giant"}, r"'teachers\.t\.sise' is not a key\. Did you mean 'size'\?"),
        ({"size": "gigant"}, r"'teachers\.t\.size' is 'gigant'\. Did you mean 'giant'\? It takes: small, base, large"),
        ({"size": {"depth": 2}}, r"'teachers\.t\.size\.embed_dim' is missing"),
        ({"registers": 5}, r"'teachers\.t\.registers': Input should be a valid boolean"),
    ],
)
def test_wrong_options_are_named_as_the_recipe_names_them(given: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        options_of(find("dinov2"), "t", given)


# --- the command line -----------------------------------------------------------------------------


def unicscale(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unicscale", *words],
        capture_output=True, text=True, env=os.environ | environment, timeout=120,
    )  # fmt: skip


def test_list_names_every_plugin_and_imports_none(install, tmp_path: Path) -> None:
    install("loud_dist", "loud", "raise RuntimeError('never import me')")
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / file_name(find("dinov2").files["giant"])).touch()
    ran = unicscale("teachers", "list", UNICSCALE_CACHE=str(tmp_path))
    assert ran.returncode == 0
    rows = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert "loud_dist 2.0" in rows["loud"]
    assert rows["dinov2"].split()[-5:] == ["base", "large", "giant", "Apache-2.0", "giant"]
    assert rows["metaclip"].split()[-2:] == ["CC-BY-NC-4.0", "none"]


def test_show_gives_dimensions_and_what_each_option_means() -> None:
    said = unicscale("teachers", "show", "dinov2", "size=large", "registers=true").stdout
    assert "1024 wide, one per 14×14 pixels" in said
    assert "dinov2_vitl14_reg4_pretrain.pth" in said
    assert "The variant with four register tokens" in said


def test_a_broken_plugin_ends_a_command_with_4_and_no_traceback(install) -> None:
    install("broken_dist", "broken", "raise RuntimeError('x')")
    ran = unicscale("teachers", "show", "broken")
    assert ran.returncode == 4
    assert "Traceback" not in ran.stderr


def test_a_new_distribution_is_laid_down_once(tmp_path: Path) -> None:
    ran = unicscale("teachers", "new", "my_teacher", "--out", str(tmp_path))
    assert ran.returncode == 0
    folder = tmp_path / "unicscale-my-teacher"
    assert {p.name for p in folder.iterdir()} == {"pyproject.toml", "README.md", "tests", "unicscale_my_teacher.py"}
    again = unicscale("teachers", "new", "my_teacher", "--out", str(tmp_path))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert unicscale("teachers", "new", "../escape", "--out", str(tmp_path)).returncode == 2
