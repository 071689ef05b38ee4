"""`unicscale look`: which images, which pictures of them, and what they show in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unicscale.data.sets.images import Images
from unicscale.errors import DataError
from unicscale.evaluate.features.shelf import Shelf
from unicscale.evaluate.pictures import maps, sheet
from unicscale.evaluate.pictures.colours import shared
from unicscale.evaluate.pictures.crew import Crew, Views, muster, view
from unicscale.evaluate.pictures.sheet import Cell, Row, Sheet, drawing, photo
from unicscale.evaluate.sets import own
from unicscale.evaluate.sets.files import Files
from unicscale.evaluate.sets.loose import open_pictures
from unicscale.evaluate.sets.subset import Some, evenly, thin
from unicscale.evaluate.terms import Settings
from unicscale.ranks.world import World

NEIGHBOURS = 5
QUERIES = 3  # images whose neighbours are shown, by every model
HARDEST = 8  # per teacher
OF_MAPS = {"masks": ("segmentation", maps.segmentation), "depth": ("depth", maps.depth)}  # by the folder beside images/


class Asked(NamedTuple):
    """One call of the command."""

    run: str
    images: Sequence[Path]  # none: the run's own
    count: int  # images on a sheet
    pool: int  # images among which neighbours and the worst learned are looked for
    settings: Settings  # of the dense heads
    given: Mapping[str, Mapping[str, Any]]  # what is said of teachers
    alone: bool  # without them


def look(asked: Asked, world: World) -> dict[str, Sheet]:
    """Every sheet that these images allow, by name."""
    crew = muster(asked.run, world.device, asked.given, alone=asked.alone)
    pool, dense = _sets(asked if asked.images else asked._replace(images=[_own_images(crew)]))
    views = view(crew, pool, asked.count)
    found: dict[str, Sheet] = {}
    if views.patches:
        found["patches"] = patches(views)
    if len(views.names) > NEIGHBOURS:
        found["neighbours"] = neighbours(views)
    if views.distances:
        found["worst"] = worst(views)
    shelf = Shelf(Path("."), Path("."), asked.settings, world)
    models = {name: one for name, one in crew.models.items() if "patches" in one.tokens}
    for root, kind in dense:
        name, draw = OF_MAPS[kind]
        found[name] = draw(root, models, shelf, asked.count)
    return found


def _own_images(crew: Crew) -> Path:
    """Those that the run was validated on, else those it was trained on."""
    data = crew.recipe.data
    first = (data.val or data.train)[0]
    return Path(first if isinstance(first, str) else first.path)


def _sets(asked: Asked) -> tuple[Images, list[tuple[Path, str]]]:
    """The pool, whose first images are those to show, and folders with maps: each named once, what it is is seen."""
    dense, loose = [], []
    for path in asked.images:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder.")
        kinds = own.kinds(path) if path.is_dir() else []
        dense += [(path, kind) for kind in kinds if kind in OF_MAPS]
        if not set(kinds) & set(OF_MAPS):
            loose.append(own.labelled(path, "test") if kinds and own.part(path, "train") else open_pictures(path))
    if len(loose) > 1:
        raise DataError(f"{asked.images[1]}: one folder of images at a time, besides folders with masks or depth.")
    if not loose:
        root, kind = dense[0]
        loose.append(Files(root, [image for image, _ in own.dense(kind, root, "test")]))
    return _shown_first(thin(loose[0], asked.pool, asked.settings.seed), asked), dense


def _shown_first(images: Images, asked: Asked) -> Images:
    """Those to show, one class after the other where there are some, and then the rest."""
    count = min(asked.count, len(images))
    if images.labels is None or (np.asarray(images.labels) < 0).any():
        first = np.arange(count) * len(images) // count
    else:
        first = evenly(np.asarray(images.labels), count, asked.settings.seed)
    return Some(images, np.concatenate([first, np.setdiff1d(np.arange(len(images)), first)]))


def patches(views: Views) -> Sheet:
    """Patch tokens as colours: the same colour means the same, whoever painted it."""
    tokens = {name: held.flatten(0, 1) for name, held in views.patches.items()}
    painted, share = shared(tokens)
    few, places, _ = next(iter(views.patches.values())).shape
    side = round(places**0.5)
    grids = {name: one.reshape(few, side, side, 3).numpy() for name, one in painted.items()}
    rows = []
    for number in range(few):
        cells = [_photo(views, number, ""), *(Cell(image=drawing(grid[number])) for grid in grids.values())]
        rows.append(Row(name=_named(views, number), cells=cells))
    said = ", ".join(f"{name} {100 * one:.0f} %" for name, one in share.items())
    return Sheet(
        title="What the patch tokens see",
        finding=f"Of the colours that all models share, each can paint: {said}.",
        says="Patch tokens in one colour space: the three directions that all models together express best, painted by "
        "a linear map of each model's own tokens. Where two pictures have the same colour, the models say the same.",
        columns=["image", *grids], rows=rows,
    )  # fmt: skip


def neighbours(views: Views) -> Sheet:
    """What each model takes for similar."""
    nearest = {name: _nearest(held) for name, held in views.summaries.items()}  # (N, NEIGHBOURS)
    rows = []
    for query in range(min(QUERIES, len(views.names))):
        for name, found in nearest.items():
            cells = [_photo(views, query), *(_photo(views, int(n)) for n in found[query])]
            rows.append(Row(name=name, cells=cells))
    return Sheet(
        title="Nearest neighbours", finding=_agreement(views, nearest),
        says=f"By cosine of the summaries, among {len(views.names)} images; a row for each model and query.",
        columns=["query", *(str(n + 1) for n in range(NEIGHBOURS))], rows=rows,
    )  # fmt: skip


def _nearest(summaries: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(summaries, dim=1)
    like = unit @ unit.T
    like.fill_diagonal_(-2)
    return like.topk(NEIGHBOURS, dim=1).indices


def _agreement(views: Views, nearest: Mapping[str, Tensor]) -> str:
    """Of all images of the pool, not only of those shown."""
    parts = []
    if bool((views.labels >= 0).all()):
        right = {n: float((views.labels[f] == views.labels[:, None]).float().mean()) for n, f in nearest.items()}
        said = ", ".join(f"{name} {100 * one:.0f} %" for name, one in right.items())
        parts.append(f"Neighbours that are of the query's class: {said}.")
    own = nearest["student"]
    common = {
        name: float((own[:, :, None] == found[:, None, :]).any(2).float().sum(1).mean())
        for name, found in nearest.items() if name != "student"
    }  # fmt: skip
    if common:
        said = ", ".join(f"{one:.1f} with {name}" for name, one in common.items())
        parts.append(f"Of {NEIGHBOURS} neighbours, the student has in common: {said}.")
    return " ".join(parts) or f"The student's {NEIGHBOURS} nearest images of {len(views.names)}."


def worst(views: Views) -> Sheet:
    """The images whose teachers' tokens the student guesses worst."""
    rows, said = [], []
    for name, distances in views.distances.items():
        order = distances.argsort(descending=True)[:HARDEST]
        cells = [_photo(views, int(n), f"{float(distances[n]):.2f}") for n in order]
        rows.append(Row(name=name, cells=cells))
        middle, top = float(distances.median()), float(distances[order[0]])
        said.append(f"{top:.2f} from {name} (half of all images are nearer than {middle:.2f})")
    count = min(HARDEST, len(views.names))
    return Sheet(
        title="Worst learned images", finding=f"The student's guess is at most {'; '.join(said)}.",
        says=f"1 - cosine between the student's guess and the teacher's standardised tokens, the mean of summary and "
        f"patches: 0 is right, 1 unrelated. Of {len(views.names)} images, the {count} farthest.",
        columns=[str(n + 1) for n in range(count)], rows=rows,
    )  # fmt: skip


def _photo(views: Views, number: int, says: str | None = None) -> Cell:
    said = says if says is not None else _named(views, number) if int(views.labels[number]) >= 0 else ""
    return Cell(image=photo(views.tiles[number].permute(1, 2, 0).numpy()), says=said[:200])


def _named(views: Views, number: int) -> str:
    """Its class, where it has one with a name; else its file."""
    label = int(views.labels[number])
    if label >= 0:
        return (views.classes[label] if label < len(views.classes) else str(label))[:200]
    return Path(views.names[number]).name[:200]


def write(folder: Path, sheets: dict[str, Sheet]) -> None:
    """Beside the run; the report finds them there."""
    try:
        sheet.write(folder, sheets)
    except OSError as problem:
        raise DataError(f"{folder} cannot be written: {problem.strerror}.\n  Choose another with --out.") from None
