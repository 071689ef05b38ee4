"""Where tasks get their data and features from; what was computed once is not computed again."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unicscale.contracts import Features
from unicscale.data.once import Once
from unicscale.data.sets.images import Images
from unicscale.errors import DataError
from unicscale.evaluate.features import store
from unicscale.evaluate.features.extract import DTYPES, extract
from unicscale.evaluate.features.marks import sha_of_images, sha_of_pairs
from unicscale.evaluate.features.progress import progress
from unicscale.evaluate.sets.catalogue import open_split
from unicscale.evaluate.sets.pairs import Matches, Pairs
from unicscale.evaluate.sets.subset import thin
from unicscale.evaluate.terms import Labelled, Settings, Subject
from unicscale.ranks.device import slow_in
from unicscale.ranks.terminal import tell
from unicscale.ranks.world import World


@dataclass(slots=True)
class Shelf:
    """Data sets below one folder, features in a cache beside it."""

    data: Path
    cache: Path
    settings: Settings
    world: World
    opened: dict[tuple[str, str, int | None, int], Any] = field(
        default_factory=dict
    )  # splits: listed once for all tasks
    hashed: dict[int, tuple[Any, str]] = field(default_factory=dict)  # by identity, which a set held here keeps

    def __post_init__(self) -> None:
        if self.world.main and (slow := slow_in(self.settings.dtype, self.device)):
            _tell_once(f"--dtype {self.settings.dtype}: {slow}")

    @property
    def device(self) -> torch.device:
        """Where models and large products run."""
        return self.world.device

    @property
    def dtype(self) -> torch.dtype:
        """What encoders compute in."""
        auto = "bf16" if self.device.type == "cuda" else "fp32"
        return DTYPES[auto if self.settings.dtype == "auto" else self.settings.dtype]

    def split(self, name: str, split: str) -> Any:
        """A labelled split, cut down to `limit` images evenly over its classes; pairs where the set is dense."""
        limit, seed = self.settings.limit, self.settings.seed
        if (key := (name, split, limit, seed)) not in self.opened:
            images = open_split(self.data, name, split)
            self.opened[key] = (
                images.thinned(limit) if isinstance(images, Pairs | Matches) else thin(images, limit, seed)
            )
        return self.opened[key]

    def sha(self, images: Images | Pairs | Matches) -> str:
        """Of a set; made once, for it reads of every file."""
        if id(images) not in self.hashed:
            sha = sha_of_pairs(images) if isinstance(images, Pairs | Matches) else sha_of_images(images)
            self.hashed[id(images)] = images, sha
        return self.hashed[id(images)][1]

    def features(self, subject: Subject, name: str, split: str, answer: str | None = None) -> Labelled:
        """The subject's summaries of a split (or its answer for one teacher), computed or from the cache."""
        images = self.split(name, split)
        if images.labels is None:
            raise DataError(f"{images.path}: no labels; one folder per class is expected here")
        found = self.summaries(subject, images, answer)
        classes = len(images.classes) or int(np.asarray(images.labels).max()) + 1
        return Labelled(found["summary"], found["labels"], classes, names=tuple(images.classes))

    def summaries(self, subject: Subject, images: Images, answer: str | None = None) -> dict[str, Tensor]:
        """Features of any images, through the cache."""
        size = self.settings.size or subject.size
        kind = "features" if answer is None else f"answer-{answer}"
        facts = {
            "model": subject.sha,
            "data": self.sha(images),
            "size": str(size),
            "dtype": str(self.dtype).removeprefix("torch."),
            "kind": kind,
        }
        name = f"{facts['model'][:16]}-{facts['data'][:16]}-{size}-{facts['dtype']}-{kind}.safetensors"
        file = self.cache / name
        if not self.world.broadcast_object(file.exists()):
            once = self.once(images, size)
            with progress(f"{subject.name}: {images.path}", len(images), self.world) as advance:
                extract(
                    encoder(subject, answer), once, file,
                    dtype=self.dtype, world=self.world, metadata=facts, progress=advance,
                )  # fmt: skip
        return store.read(file, facts)

    def write(self, subject: Subject, images: Images, out: Path, *, patches: bool) -> None:
        """All tokens of some images and the names of their files, into a file of the caller's."""
        root = images.path if os.path.isdir(images.path) else os.path.dirname(images.path)
        names = b"\0".join(os.fsencode(os.path.relpath(images.name(n), root)) for n in range(len(images)))
        size = self.settings.size or subject.size
        metadata = {"model": subject.sha, "name": subject.name, "data": self.sha(images), "size": str(size)}
        with progress(f"{subject.name}: {images.path}", len(images), self.world) as advance:
            extract(
                subject.encode, self.once(images, size), out,
                dtype=self.dtype, world=self.world, patches=patches, metadata=metadata, names=names,
                resumable=True, progress=advance,
            )  # fmt: skip

    def once(self, images: Images, size: int) -> Once:
        """This rank's part of a set."""
        rank, world, count = self.world.rank, self.world.size, len(images)
        part = range(rank * count // world, (rank + 1) * count // world)
        return Once(images, part, size, self.settings.batch, self.device, crop=True)


def encoder(subject: Subject, answer: str | None) -> Callable[[Tensor], Features]:
    """The subject's own features, or its guess of a teacher's."""
    if answer is None:
        return subject.encode
    see = subject.see
    assert see is not None, "tasks that ask for answers check that there is a projector"
    return lambda images: see(images).answers[answer]


@cache
def _tell_once(text: str) -> None:
    """Not again for every checkpoint of a run."""
    tell(text)
