"""Command: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unicscale.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from unicscale.interop.opened import Opened
    from unicscale.interop.small import Shown

TRIED_ON = 1000  # images at most, evenly over the classes
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
    small: Annotated[
        str | None, typer.Option(metavar="int8|dynamic|N:M", help="Eight-bit weights or products, or N of M weights.")
    ] = None,
    try_on: Annotated[
        Path | None, typer.Option(help="With --small: a folder per class; k-NN before and after goes into the card.")
    ] = None,
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
    from unicscale.interop.small import Small
    from unicscale.interop.sources import frozen_section

    target = target_of(to)
    target.refuse_missing()
    smaller = Small.parse(small) if small else None
    if smaller is not None:
        smaller.refuse(to)
    elif try_on is not None:
        raise RecipeError("--try-on: there is nothing to try without --small.")
    if frozen_section(model) is not None:
        raise RecipeError(f"{model}: a teacher is not exported; name a run, a checkpoint or a file of a student.")
    exporting.refuse_place(out, force)
    repository = hub.repository(push_to) if push_to else None
    origin = origin_of(model)
    opened = exporting.at_size(read(model, projectors=with_projectors), size)
    wishes = Wishes(half, with_projectors, small=smaller)
    shown = trial(opened, try_on) if try_on else None
    found = exporting.export(opened, origin, target, out, wishes, force=force, shown=shown)
    for one in found:
        agrees = "the same model" if one.agrees else "other positions, by its library's rule; see README.md there"
        typer.echo(f"{target.library} at {one.size} pixels: {one.from_student:.0e} from the student ({agrees})")
    if origin.unfinished:
        typer.echo(f"its training is not finished: step {origin.step:,} of {origin.steps:,}; the card says so")
    typer.echo(f"{out}: {', '.join(sorted(file.name for file in out.iterdir()))}")
    if repository:
        typer.echo(hub.push(out, repository))


def trial(opened: Opened, folder: Path) -> Shown:
    """Labelled images, and the k-NN accuracy of each of them against the others."""
    import torch

    from unicscale.contracts import normalise
    from unicscale.data.once import Once
    from unicscale.data.sets.images import open_images
    from unicscale.evaluate.metrics.knn import knn_predict
    from unicscale.evaluate.sets.subset import thin
    from unicscale.interop.small import Shown

    images = open_images(str(folder))
    if images.labels is None:
        raise DataError(f"--try-on {folder}: no labels; one folder per class is expected here")
    some = thin(images, TRIED_ON, 0)
    seen = list(Once(some, range(len(some)), opened.size, 64, torch.device("cpu"), crop=True))
    labels = torch.cat([part for _, part, _ in seen])

    def judge(summaries: Tensor) -> float:
        own = torch.arange(len(labels))
        found = knn_predict(summaries, labels, summaries, ks=[min(20, len(labels) - 1)], own=own)
        return 100 * float((next(iter(found.values())) == labels).float().mean())

    pixels = torch.cat([normalise(part, opened.mean, opened.std) for part, _, _ in seen])
    return Shown(pixels, folder.name, judge)
