"""docs/extend.md, carried out: each change is made in a copy of the package, and used for a few steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import places, tiny_sets
from tests.kit.recipe import write_images, write_recipe

PAGE = (places.REPOSITORY / "docs" / "extend.md").read_text()
SECTIONS = {
    title: text for title, text in re.findall(r"^## (\d+\. .*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
}
BLOCK = re.compile(r"^(?:(New file|In) `([^`]+)`:\n\n)?```(python|diff|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
MOST = 23  # code files to touch, summed over the page


def touched(text: str) -> list[str]:
    """The code files that a section makes or changes."""
    return [file for _, file, _, _ in BLOCK.findall(text) if file]


def patched(text: str, diff: str) -> str:
    """The text with each hunk's lines replaced; they must be found once, or the page is out of date."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        old = "\n".join(line[1:] for line in lines if line[:1] in (" ", "-"))
        new = "\n".join(line[1:] for line in lines if line[:1] in (" ", "+"))
        assert text.count(old) == 1, f"found {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


def run(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if "unicscale" in words:  # the copy beside the recipe, not the one that is installed
        at = words.index("unicscale")
        words[at : at + 1] = [sys.executable, "-m", "unicscale"]
    elif words[0] == "python":
        words[0] = sys.executable
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, timeout=280)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A copy of the package beside a recipe of eight steps."""
    shutil.copytree(places.REPOSITORY / "unicscale", tmp_path / "unicscale")
    write_recipe(
        tmp_path / "recipe.yaml", write_images(tmp_path / "images", count=16), tmp_path / "runs" / "r", steps=8
    )
    return tmp_path


@pytest.mark.slow  # ten trainings
@pytest.mark.parametrize("title", SECTIONS)
def test_a_change_is_made_as_the_page_says(scratch: Path, title: str) -> None:
    if "evaluation" in title:
        tiny_sets.imagenet(scratch / "data")
    for how, file, kind, text in BLOCK.findall(SECTIONS[title]):
        if how == "New file":
            assert not (scratch / file).exists(), file
            (scratch / file).write_text(text)
        elif kind == "diff":
            (scratch / file).write_text(patched((scratch / file).read_text(), text))
        else:
            assert kind == "console", f"{title}: what is this block for?"
            for command, expected in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", text, re.MULTILINE):
                ran = run(scratch, command)
                assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
                for line in expected.splitlines():
                    assert line in ran.stdout + ran.stderr, f"{command}\n{ran.stdout}\n{ran.stderr}"


def test_every_change_still_finds_its_place() -> None:
    """Quick, and in every `make test`: whether the change then works is carried out above."""
    for text in SECTIONS.values():
        for how, file, kind, block in BLOCK.findall(text):
            if how == "In" and kind == "diff":
                patched((places.REPOSITORY / file).read_text(), block)


def test_ten_changes_touch_few_files() -> None:
    counts = {title: len(touched(text)) for title, text in SECTIONS.items()}
    print(counts, sum(counts.values()))
    assert [int(title.split(".")[0]) for title in counts] == list(range(1, 11))
    assert sum(counts.values()) <= MOST, counts
