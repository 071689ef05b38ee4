"""docs/teacher.md, carried out: a distribution is laid down, written, installed, tested, trained from and removed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.kit import places
from tests.kit.recipe import write_images

REPOSITORY = places.REPOSITORY
EXAMPLE = REPOSITORY / "examples" / "teacher_plugin"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Scratch:
    """An environment of its own that sees everything installed here."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.folder, self.written = folder, set[str]()
        venv.create(folder / "env", with_pip=False, symlinks=True)
        self.python = folder / "env" / "bin" / "python"
        site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
        (site / "parent.pth").write_text(f"import site; site.addsitedir({self._parent()!r})\n")
        self.environment = os.environ | {"RUNS": str(folder / "runs"), "IMAGES": str(images)}

    @staticmethod
    def _parent() -> str:
        import typer

        return str(Path(typer.__file__).parent.parent)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        if words[0] == "pip":
            words = self._pip(words[1:])
        elif words[0] == "unicscale":
            words = [str(self.python), "-m", *words]
        else:
            assert words[0] == "python"
            words[0] = str(self.python)
        return subprocess.run(words, capture_output=True, text=True, cwd=self.folder, env=self.environment, timeout=300)

    def _pip(self, words: list[str]) -> list[str]:
        own = Path(sys.executable).with_name("uv")
        uv = str(own) if own.exists() else shutil.which("uv")
        if uv is None:
            pytest.skip("neither uv nor pip for a second environment here")
        # everything it needs is here already, and nothing may be downloaded
        more = ["--no-deps", "--no-build-isolation", "--offline"] if words[0] == "install" else []
        words = [word for word in words if word != "-y"]
        return [uv, "pip", words[0], "--python", str(self.python), *more, *words[1:]]

    def write(self, name: str, text: str) -> None:
        file = self.folder / name
        if name in self.written:  # blank lines as Python's style wants them between methods, and between classes
            text = file.read_text() + ("\n" if text.startswith(" ") else "\n\n") + text
        file.write_text(text)
        self.written.add(name)


def test_the_tutorial_makes_the_example_trains_from_it_and_leaves_nothing(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, write_images(tmp_path / "images", count=8))
    said = {}
    for kind, file, text in BLOCK.findall((REPOSITORY / "docs" / "teacher.md").read_text()):
        if file:
            scratch.write(file, text)
        elif kind == "console":
            for line in text.splitlines():
                ran = scratch.run(line.removeprefix("$ "))
                assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
                said[line.removeprefix("$ ")] = ran.stdout
    assert "64 wide" not in said["unicscale teachers show swag"]
    assert "768 wide, one per 16×16 pixels" in said["unicscale teachers show swag"]
    assert "keeps the contract" in said["unicscale teachers check swag"]
    assert (
        "# swag: 64 wide, patch 16, native 224 px, CC-BY-NC-4.0" in said["unicscale check unicscale-swag/recipe.yaml"]
    )
    assert (tmp_path / "runs" / "swag" / "metrics.jsonl").exists()
    assert "swag" not in scratch.run("unicscale teachers list").stdout
    refused = scratch.run("unicscale train unicscale-swag/recipe.yaml")
    assert refused.returncode == 4
    assert "no teacher plug-in is called 'swag'" in refused.stderr
    for example in (file for file in EXAMPLE.rglob("*") if file.is_file() and "__pycache__" not in file.parts):
        made = tmp_path / "unicscale-swag" / example.relative_to(EXAMPLE)
        assert made.read_text() == example.read_text(), f"{example} differs from what the tutorial makes"
