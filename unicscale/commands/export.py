"""Command: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unicscale.errors import RecipeError

MODEL = (
    "RUN, RUN@STAGE, a checkpoint, an export, a .safetensors, an official UNIC .pth, a folder of timm or transformers"
)


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL + ".")],
    to: Annotated[str, typer.Option(help="timm, hf, dinov2, unic, onnx, torch or safetensors.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    size: Annotated[int | None, typer.Option(help="Pixels that it is exact at; by default the model's own.")] = None,
    with_projectors: Annotated[
        bool, typer.Option("--with-projectors", help="The answers to its teachers too, and their statistics.")
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Weights in fp16.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the export that is there.")] = False,
    push_to: Annotated[str | None, typer.Option(metavar="hf:ORG/NAME", help="Push it to the Hugging Face hub.")] = None,
) -> None:
    """Write MODEL in the form of another library, with a model card, and verify it by that library.

    The export is loaded in a fresh process and its tokens are held against the model's; one that differs is not kept.
    """
    from unicscale.interop import exporting, hub
    from unicscale.interop.exports import target_of
    from unicscale.interop.exports.target import Wishes
    from unicscale.interop.loading import read
    from unicscale.interop.origin import origin_of
    from unicscale.interop.sources import frozen_section

    target = target_of(to)
    target.refuse_missing()
    if frozen_section(model) is not None:
        raise RecipeError(f"{model}: a teacher is not exported; name a run, a checkpoint or a file of a student.")
    exporting.refuse_place(out, force)
    repository = hub.repository(push_to) if push_to else None
    origin = origin_of(model)
    opened = exporting.at_size(read(model, projectors=with_projectors), size)
    wishes = Wishes(half, with_projectors)
    found = exporting.export(opened, origin, target, out, wishes, force=force)
    for one in found:
        agrees = "the same model" if one.agrees else "other positions, by its library's rule; see README.md there"
        typer.echo(f"{target.library} at {one.size} pixels: {one.from_student:.0e} from the student ({agrees})")
    if origin.unfinished:
        typer.echo(f"its training is not finished: step {origin.step:,} of {origin.steps:,}; the card says so")
    typer.echo(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    if repository:
        typer.echo(hub.push(out, repository))
