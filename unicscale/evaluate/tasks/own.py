"""Tasks on folders of one's own: k-NN and linear on labels, segmentation on masks, depth on distances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unicscale.errors import DataError
from unicscale.evaluate.sets import own
from unicscale.evaluate.task import Task
from unicscale.evaluate.tasks.classify import Knn, Logistic
from unicscale.evaluate.tasks.dense import Depth, Segment

LAYOUTS = """  labelled:      train/CLASS/*.jpg and val/CLASS/*.jpg (or test/); or CLASS/*.jpg, of which a fifth tests
  segmentation:  images/ and masks/, one number per pixel; with train/ and val/ in both, or split by name
  depth:         images/ and depth/, the same way
  set.yaml beside them may say classes, first, ignore, values (masks), unit, far (depth)"""
# task -> the kind of set it wants, how it is made of its name and its set
MAKE: dict[str, tuple[str, Callable[[str, tuple[str, ...]], Task]]] = {
    "knn": ("labelled", Knn),
    "linear": ("labelled", lambda name, needs: Logistic(name, needs, solver="lbfgs")),
    "segment": ("masks", Segment),
    "depth": ("depth", lambda name, needs: Depth(name, needs, own=True)),
}


def task(name: str, data: Path) -> Task:
    """`knn:photos`: photos/ below --data, or --data itself."""
    base, _, folder = name.partition(":")
    kind, make = MAKE[base]
    place = folder if (data / folder).is_dir() or data.resolve().name != folder else "."
    if kind not in own.kinds(data / place):
        raise DataError(f"{name}: {data / place} is no {kind} set.\n{LAYOUTS}")
    return make(name, (f"own-{kind}:{place}",))


def suite(data: Path) -> list[Task]:
    """Whatever the folder, or the folders in it, can be measured on."""
    inside = sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = own.kinds(data)
    places = {data.resolve().name: found} if found else {path.name: own.kinds(path) for path in inside}
    tasks = [
        task(f"{base}:{name}", data)
        for name, kinds in places.items()
        for base, (kind, _) in MAKE.items()
        if kind in kinds
    ]
    if not tasks:
        raise DataError(f"{data}: no data set is recognised here or in its folders.\n{LAYOUTS}")
    return tasks
