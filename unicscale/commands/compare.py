"""Command: teachers compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unicscale.errors import RecipeError


def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="TEACHER... IMAGES", help="Teachers (timm:ID too), then a folder or a .beton."),
    ],
    weights: Annotated[
        list[str], typer.Option("--weights", metavar="NAME=FILE", help="Where a teacher's weights are; repeatable.")
    ] = [],  # noqa: B006  (typer copies it)
    option: Annotated[
        list[str], typer.Option("--option", metavar="NAME.KEY=VALUE", help="An option of a teacher; repeatable.")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="A .png to draw; the numbers go into a .json beside it.")] = None,
    limit: Annotated[int, typer.Option(help="No more images than this.")] = 2000,
    size: Annotated[int | None, typer.Option(help="Pixels; by default each teacher's native size.")] = None,
    batch: Annotated[int, typer.Option(help="Images per forward.")] = 32,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Which teachers are worth combining: widths, cost, effective rank, and how alike each two see IMAGES.

    Two that are alike say the same twice; one of low rank says little. NAME=PLUGIN names one of two sizes of a plug-in.
    """
    from unicscale.commands.evaluation import said_of_teachers
    from unicscale.evaluate import comparing, keeping
    from unicscale.interop.sources import frozen_section
    from unicscale.ranks.terminal import tell
    from unicscale.recipe.sections import TeacherSection
    from unicscale.report import agreement

    *asked, images = names
    if len(asked) < 2:
        raise RecipeError(f"compare {' '.join(names)}: name two teachers or more, then the images.")
    if out is not None:
        keeping.refuse_unfit(out, ".png")
    said, sections = said_of_teachers(weights, option), {}
    for word in asked:
        name, _, source = word.rpartition("=")
        known, section = frozen_section(source) or (source, {"plugin": source})
        section = section or {"plugin": known}  # teacher:NAME
        name = name or known
        if name in sections:
            raise RecipeError(
                f"'{name}' is named twice. `one={source} two={source}` compares two options of one plug-in."
            )
        sections[name] = TeacherSection.model_validate({**section, **said.pop(name, {})})
    if said:
        raise RecipeError(f"--weights or --option of '{next(iter(said))}', which is not among {', '.join(sections)}.")
    found = comparing.compare(
        sections, images, limit=limit, batch=batch, device=device, size=size, progress=lambda name: tell(f"{name} ...")
    )
    typer.echo(comparing.table(found))
    if out is not None:
        agreement.draw(found, out)
        keeping.write(out.with_suffix(".json"), found.as_json())
        typer.echo(f"{out} {out.with_suffix('.json')}")
