"""Data sets of one's own: a labelled folder, images with masks, images with depth; split by folders or by a key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from pydantic import ValidationError, model_validator

from unicscale.data.sets.arrays import SUFFIX
from unicscale.data.sets.folder import SUFFIXES
from unicscale.data.sets.images import Images, open_images
from unicscale.errors import DataError
from unicscale.evaluate.sets.pairs import IGNORE, MILLIMETRE, MOST_CLASSES, Pairs, mask, metres
from unicscale.evaluate.sets.subset import Some
from unicscale.recipe.sections import Count, NonNegative, Positive, Section

SPLITS = {"train": ("train", "training"), "test": ("val", "validation", "valid", "test")}
TARGETS = {"masks": ("masks", "annotations"), "depth": ("depth", "depths")}
MAPS = (".png", ".tif", ".tiff", ".bmp", ".npy")
TEST_SHARE = 0.2  # of every class, where no folders say what the test set is


class Meaning(Section):
    """`set.yaml` beside the images: what the numbers in masks and depth maps mean."""

    classes: Count | list[str] | None = None  # None: up to the largest that any mask holds
    first: int = 0  # how masks count the first class; what lies below it is ignored
    ignore: NonNegative = IGNORE
    values: list[int] | None = None  # how masks say each class, where that is no counting; other numbers: ignored
    unit: Positive | None = None  # metres that 1 stands for; None: millimetres, in whole numbers of 16 bits
    far: Positive = 10.0  # metres: what lies behind does not count

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.values is None:
            return self
        if len(set(self.values)) < len(self.values) or not 2 <= len(self.values) <= MOST_CLASSES:
            raise ValueError(f"values: two to {MOST_CLASSES} different numbers, one for each class")
        if clash := sorted({"first", "ignore"} & self.model_fields_set):
            raise ValueError(f"{clash[0]}: said by values already, which ignore whatever they do not list")
        named = len(self.classes) if isinstance(self.classes, list) else self.classes
        if named not in (None, len(self.values)):
            raise ValueError(f"values: {len(self.values)} numbers for {named} classes")
        return self

    @classmethod
    def of(cls, root: Path) -> Meaning:
        """As the file says; the defaults where there is none."""
        file = root / "set.yaml"
        if not file.is_file():
            return cls()
        try:
            return cls.model_validate(yaml.safe_load(file.read_text()) or {})
        except (OSError, ValueError, yaml.YAMLError, ValidationError) as problem:
            said = problem.errors()[0] if isinstance(problem, ValidationError) else None
            where = ".".join(map(str, said["loc"])) if said else ""
            why = ": ".join(filter(None, [where, said["msg"].removeprefix("Value error, ")])) if said else str(problem)
            raise DataError(f"{file}: {why}\n  It takes: {', '.join(cls.model_fields)}.") from None


def kinds(root: Path) -> list[str]:
    """What a folder can be measured on: `masks` and `depth`, or `labelled`; nothing where it is no set."""
    dense = [kind for kind in TARGETS if _target_folder(root, kind)]
    return dense or (["labelled"] if _has_classes(root) else [])


def part(root: Path, split: str) -> Path | None:
    """The folder or beton of a split, by its customary names."""
    each = (root / f"{name}{end}" for name in SPLITS[split] for end in (".beton", ""))
    return next((path for path in each if path.exists()), None)


def labelled(root: Path, split: str) -> Images:
    """A folder per class: in train/ and val/ or test/, or in one folder, of which a fixed fifth is the test set."""
    if part(root, "train") and (place := part(root, split)):
        images = open_images(str(place))
        if images.labels is None:
            raise DataError(f"{images.path}: no labels; one folder per class is expected here")
        return images
    images = open_images(str(root))
    if images.labels is None:
        raise DataError(f"{root}: no labels; one folder per class is expected here")
    names = [os.path.relpath(images.name(number), root) for number in range(len(images))]
    test = keyed(names, np.asarray(images.labels))
    return Some(images, np.flatnonzero(test if split == "test" else ~test))


def dense(kind: str, root: Path, split: str) -> Pairs:
    """Images with maps of one kind, each pair by its name without the suffix."""
    said, groups = Meaning.of(root), _groups(root, kind)
    pairs = groups[split] if groups["test"] else _by_key(groups["train"], split)
    if not pairs:
        raise DataError(f"{root}: no images for the {split} split")
    if kind == "depth":
        meaning = ("depth", said.unit or MILLIMETRE)
        return Pairs(str(root), pairs, partial(metres, unit=said.unit), far=said.far, meaning=meaning)
    read = partial(mask, first=said.first, ignore=int(said.ignore), values=said.values)
    classes = said.classes if isinstance(said.classes, int) else len(said.classes or said.values or ())
    meaning = ("masks", said.first, said.ignore, *([tuple(said.values)] if said.values else []))
    classes = classes or _largest(root, said) + 1  # pyright: ignore[reportArgumentType]  frozen sections have a hash
    if classes < 2:
        raise DataError(
            f"{root}: all masks hold one class, and nothing can be told apart ({said.ignore:g} is ignored).\n"
            "  Say in set.yaml what their numbers mean: values: [0, 255] where 255 is a class of its own."
        )
    return Pairs(str(root), pairs, read, classes=classes, meaning=meaning)


def keyed(names: Sequence[str], labels: np.ndarray | None = None) -> np.ndarray:
    """Which are for testing: decided by each one's name, so that another file moves none; every class has both."""
    draws = np.array([int.from_bytes(hashlib.sha256(os.fsencode(n)).digest()[:8]) / 2**64 for n in names])
    test = draws < TEST_SHARE
    for label in np.unique(labels) if labels is not None else [None]:
        rows = np.arange(len(names)) if label is None else np.flatnonzero(labels == label)
        if len(rows) > 1 and (test[rows].all() or not test[rows].any()):
            test[rows] = draws[rows] == draws[rows].min()
    return test


def _by_key(pairs: list[tuple[Path, Path]], split: str) -> list[tuple[Path, Path]]:
    test = keyed([image.name for image, _ in pairs])
    return [pair for pair, held in zip(pairs, test, strict=True) if held == (split == "test")]


def _groups(root: Path, kind: str) -> dict[str, list[tuple[Path, Path]]]:
    """The pairs of each split; all are `train` where no folders tell them apart."""
    found: dict[str, list[tuple[Path, Path]]] = {"train": [], "test": []}
    alone: dict[str, Path] = {}  # a split's folder of images without maps, or of maps without images
    for split, names in SPLITS.items():
        for name in names:
            for images, targets in ((f"images/{name}", "{}/" + name), (f"{name}/images", name + "/{}")):
                place = next((p for t in TARGETS[kind] if (p := root / targets.format(t)).is_dir()), None)
                if (root / images).is_dir() and place is not None:
                    found[split] = found[split] or _paired(root / images, place)
                elif (root / images).is_dir() or place is not None:
                    alone.setdefault(split, place or root / images)
    for split, place in alone.items():
        if not found[split]:
            raise DataError(f"{place}: images/ and {kind}/ have folders of the same names inside, or neither has any")
    if found["test"] and not found["train"]:
        raise DataError(
            f"{root}: images to test on lie in a folder of their own, and none to learn from.\n"
            "  Put those into train/ beside it, or all of them into none: then a fifth is the test set."
        )
    if not found["train"]:
        place = _target_folder(root, kind)
        if place is None:
            raise DataError(f"{root}: images/ with {' or '.join(f'{t}/' for t in TARGETS[kind])} is expected here")
        found = {"train": _paired(root / "images", place), "test": []}
    return found


def _paired(images: Path, targets: Path) -> list[tuple[Path, Path]]:
    pictures = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    maps: dict[Path, Path] = {}
    for path in sorted(path for path in targets.rglob("*") if path.suffix.lower() in MAPS):
        if (other := maps.setdefault(path.relative_to(targets).with_suffix(""), path)) is not path:
            raise DataError(f"{path}: {other.name} is a map of the same name; which of them counts?")
    names = [picture.relative_to(images).with_suffix("") for picture in pictures]
    lacking = next((picture for picture, name in zip(pictures, names, strict=True) if name not in maps), None)
    if lacking is not None:
        raise DataError(f"{lacking}: {targets} has nothing of its name (looked for {', '.join(MAPS)})")
    return [(picture, maps[name]) for picture, name in zip(pictures, names, strict=True)]


@cache
def _largest(root: Path, said: Any) -> int:
    """The largest class in any mask, of both splits, so that both have the same classes."""
    groups = _groups(root, "masks")
    values = [mask(target, first=said.first, ignore=int(said.ignore)) for _, target in groups["train"] + groups["test"]]
    counted = [int(one[one != IGNORE].max()) for one in values if (one != IGNORE).any()]
    if not counted:
        raise DataError(f"{root}: no mask holds a class")
    return max(counted)


def _target_folder(root: Path, kind: str) -> Path | None:
    for base in (root, root / "train", root / "training"):
        for name in TARGETS[kind]:
            if (base / "images").is_dir() and (base / name).is_dir():
                return base / name
    return None


def _has_classes(root: Path) -> bool:
    """Whether images lie in folders of folders, looked at as far as the first of them."""
    if not root.is_dir():
        return False
    if (place := part(root, "train")) is not None and part(root, "test") is not None:
        return place.suffix == ".beton" or _has_classes(place)
    inner = [entry.path for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
    images = {*SUFFIXES, SUFFIX}
    return sum(any(os.path.splitext(e.name)[1].lower() in images for e in os.scandir(p)) for p in sorted(inner)) > 1
