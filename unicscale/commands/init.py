"""Commands: init."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from unicscale.recipe.outline import Outline

EVALUATED = ("val", "valid", "validation", "test")  # what people call the folder beside `train`
TEACHER = "NAME, NAME:option=value,option=value (dinov2:size=base), or ./file.py:Class"


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command()(init)


def init(
    recipe: Annotated[Path, typer.Argument(metavar="[RECIPE]", help="The file to write.")] = Path("recipe.yaml"),
    images: Annotated[
        str | None, typer.Option(help="A folder of images or a beton; one that holds train/ and val/ gives both.")
    ] = None,
    val: Annotated[str | None, typer.Option(help="Images to measure on; their folders are their classes.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(help=f"{TEACHER}; repeatable.")] = None,
    student: Annotated[str, typer.Option(help="vit_tiny, vit_small, vit_base, vit_large, or timm's name.")] = "",
    gpus: Annotated[int | None, typer.Option(min=0, help="On each machine; those of this one if left out.")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    epochs: Annotated[float, typer.Option(min=0.01, help="Passes over the images.")] = 100,
    size: Annotated[int, typer.Option(min=16, help="Pixels, a multiple of the student's patch.")] = 224,
    out: Annotated[str | None, typer.Option(help="The run folder; runs/ and the recipe's name if left out.")] = None,
) -> None:
    """Write a commented recipe for your images, GPUs and teachers; asks on a terminal for what you leave out."""
    from unicscale.errors import RecipeError
    from unicscale.recipe.outline import Outline

    if recipe.exists():
        raise RecipeError(f"{recipe} is there already, and would be lost. Name another file: unicscale init NEW.yaml")
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    images = images or _ask("Images to learn from (a folder, or a .beton)", "--images", asks)
    teacher = teacher or _ask(f"Teachers, with spaces between ({TEACHER})", "--teacher", asks, shown=_names()).split()
    student = student or (_ask("Student", "--student", asks, default="vit_small") if asks else "vit_small")
    teachers = _teachers(teacher)
    gpus = gpus if gpus is not None else _gpus()
    train, found = _parts(images)
    count, _ = _looked_at(train)
    val = val or found
    outline = Outline(
        file=str(recipe),
        out=out or f"runs/{recipe.stem}",
        train=train,
        images=count,
        val=val,
        labelled=val is not None and _looked_at(val)[1],
        student=student,
        size=size,
        teachers=teachers,
        gpus=gpus,
        nodes=nodes,
        epochs=epochs,
    )
    said = _checked(outline)
    try:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        with recipe.open("x", encoding="utf-8") as file:
            file.write(outline.text)
    except OSError as problem:
        raise RecipeError(f"{recipe} cannot be written: {problem.strerror}.") from None
    print(f"wrote {recipe}: {said}\nnext: unicscale check {recipe}; the first lines of the file name the rest")


def _ask(what: str, option: str, asks: bool, default: str | None = None, shown: str = "") -> str:
    """On a terminal a question; elsewhere nobody would answer."""
    from unicscale.errors import RecipeError

    if not asks:
        names = f" Installed: {shown}." if shown else ""
        raise RecipeError(f"say {option}: questions are asked on a terminal only.{names}")
    try:
        return str(typer.prompt(f"{what}\n  {shown}\n " if shown else what, default=default, err=True))
    except (typer.Abort, EOFError):
        raise RecipeError("nothing was written.") from None


def _names() -> str:
    from unicscale.teacher.finding import listing

    return ", ".join(sorted({one.name for one in listing()}))


def _gpus() -> int:
    """Without importing torch: whoever has GPUs has their driver's program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        said = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in said.stdout.splitlines())


def _parts(images: str) -> tuple[str, str | None]:
    """What to learn from, and what to measure on, where one folder holds both."""
    root = os.path.expanduser(images)
    train = os.path.join(root, "train")
    if not os.path.isdir(train):
        return root, None
    beside = [os.path.join(root, name) for name in EVALUATED if os.path.isdir(os.path.join(root, name))]
    return train, beside[0] if beside else None


def _looked_at(path: str) -> tuple[int | None, bool]:
    """How many images, and whether they have classes; (None, False) where the path is filled in elsewhere."""
    if "${" in path:
        return None, False
    from unicscale.data.sets.images import open_images

    held = open_images(path)
    return len(held), held.labels is not None and len(set(held.labels.tolist())) > 1


def _teachers(asked: list[str]) -> dict[str, dict[str, Any]]:
    """Sections by name; the same plug-in twice is told apart by a number."""
    from unicscale.commands.teachers import parse
    from unicscale.teacher.finding import is_adapter, select

    sections: dict[str, dict[str, Any]] = {}
    for one in asked:
        if is_adapter(one):
            sections[one.rpartition(":")[2].lower()] = {"adapter": one}
            continue
        plugin, _, options = one.strip(",").partition(":")
        select(plugin)  # refused by the nearest name
        name, number = plugin, 2
        while name in sections:
            name, number = f"{plugin}_{number}", number + 1
        sections[name] = {"plugin": plugin} | parse(options.split(",") if options else None)
    return sections


def _checked(outline: Outline) -> str:
    """What `check` says of it; nothing is written that it would refuse."""
    from unicscale.commands.seen import verdict
    from unicscale.recipe import load
    from unicscale.teacher.cards import introduce

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / Path(outline.file).name
        file.write_text(outline.text, encoding="utf-8")
        recipe = load(str(file), unset="keep" if "${" in outline.train + (outline.val or "") else "refuse")
    for name, section in recipe.teachers.items():
        introduce(name, section)
    return verdict(recipe)
