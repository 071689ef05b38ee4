"""The code as it is now, under the run folder: what is edited later does not change a queued job."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from unicscale.errors import RecipeError
from unicscale.recipe.sections import Recipe

PACKAGES = ("unicscale", "unicscale_teachers", "unicscale_launch")
SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
MOST = 100e6  # bytes of one package; ours has 3 MB


def copy_code(into: Path) -> None:
    """Our packages under their import names, with the metadata that lists the plug-ins."""
    for name in PACKAGES:
        home = home_of(name)
        refuse_bulk(home)
        try:
            shutil.copytree(home, into / name, ignore=SKIPPED, ignore_dangling_symlinks=True)
        except (shutil.Error, OSError) as problem:
            raise RecipeError(f"the code in {home} cannot be copied for the job: {problem}") from None
    metadata = Path(str(importlib.metadata.distribution("unicscale")._path))  # type: ignore[attr-defined]
    shutil.copytree(metadata, into / metadata.name, ignore=shutil.ignore_patterns("direct_url.json", "RECORD"))
    (into / "GIT").write_text(git_state(home_of("unicscale")))


def refuse_bulk(home: Path) -> None:
    """A link to a data set inside a package folder would be copied with all it leads to, for every submission."""
    total, largest = 0, (0, home)
    for folder, below, files in os.walk(home, followlinks=True):
        skipped = SKIPPED(folder, [*below, *files])
        below[:] = [name for name in below if name not in skipped]
        for file in (
            Path(folder, name) for name in files if name not in skipped and os.path.exists(f"{folder}/{name}")
        ):
            largest = max(largest, (file.stat().st_size, file))
            total += file.stat().st_size
            if total > MOST:
                raise RecipeError(
                    f"{home} holds more than {MOST / 1e6:.0f} MB, and is copied for the job. The largest so far:\n"
                    f"  {largest[1]} ({largest[0] / 1e6:.0f} MB). Keep data and weights out of it, and links to them."
                )


def copy_adapters(recipe: Recipe, into: Path) -> Recipe:
    """One-off teachers (`adapter: ./mine.py:Mine`) are code too: copied, and the recipe points at the copies."""
    teachers = dict(recipe.teachers)
    for name, teacher in teachers.items():
        if teacher.adapter is None:
            continue
        file, colon, of_class = teacher.adapter.rpartition(":")
        if not Path(file).is_file():
            raise RecipeError(f"'teachers.{name}.adapter' is {teacher.adapter}, and there is no file {file}.")
        copy = into / name / Path(file).name
        copy.parent.mkdir(parents=True)
        shutil.copy2(file, copy)
        teachers[name] = teacher.model_copy(update={"adapter": f"{copy}{colon}{of_class}"})
    return recipe.model_copy(update={"teachers": teachers})


def adapters(recipe: Recipe) -> list[str]:
    """The files that would be copied."""
    return sorted({t.adapter.rpartition(":")[0] for t in recipe.teachers.values() if t.adapter is not None})


def home_of(package: str) -> Path:
    """The folder a package is imported from."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise RecipeError(f"the package {package} is not installed in this Python. `make setup` installs it.")
    return Path(next(iter(found.submodule_search_locations))).resolve()


def git_state(folder: Path) -> str:
    """The commit and what was not committed; empty outside a checkout."""
    said = []
    for command in (["rev-parse", "HEAD"], ["status", "--short"], ["diff", "HEAD"]):
        try:
            done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        said.append(done.stdout)
    return "\n".join(said)
