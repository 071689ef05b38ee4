"""What teachers said of pixels they have seen before, for hosts on which a look is cheaper than a forward.

Keyed by the pixels themselves, so nothing has to know how a view was made, and no wrong tokens can be found. Each rank
appends to a file that all ranks of its host have mapped; the files have no name any more once they are open, so a run
that is killed leaves none. When a file is full, what is known stays known and nothing is added.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unicscale.errors import RecipeError, RunError, TeacherError
from unicscale.ranks.world import World
from unicscale.recipe.sections import EngineSection

# products of fewer rows are cut in another way on a CPU, and round differently: asked are whole lots
LOT = 16
HEAD, DIGEST, LENGTH = 8, 16, 8  # bytes: how far a file is written; then per record its key, its length, its tokens
GIB = 2**30

Ask = Callable[[Tensor], list[Tensor]]


class Form(NamedTuple):
    """How a record is read."""

    shapes: list[torch.Size]  # of one image
    dtypes: list[torch.dtype]
    ends: list[int]  # of each tensor's bytes, from 0


class Remembered:
    """Raw tokens of all teachers, per image; the same bits whether they were remembered or not."""

    def __init__(self, files: list[mmap.mmap], own: int) -> None:
        self.pages = [np.frombuffer(file, np.uint8) for file in files]
        self.own, self.written = own, HEAD
        self.read = [HEAD] * len(files)  # how far this rank knows each file
        self.known: dict[bytes, tuple[int, int]] = {}  # digest -> file, first byte
        self.forms: dict[bytes, Form] = {}
        self.found = self.asked = 0  # images, for whoever wants to know what it is worth

    @classmethod
    def open(cls, section: EngineSection, world: World, folder: Path) -> Remembered | None:
        """Room as the recipe says, shared by the ranks of a host; None where it says nothing."""
        if section.remember is None:
            return None
        if world.device.type != "cpu":
            raise RecipeError(
                "engine.remember is for CPUs: on a device the teachers' tokens would have to travel over the bus.\n"
                "  Leave it out, or set engine.device: cpu."
            )
        path = folder / f"remembered-{world.rank:04d}"
        size = int(section.remember * GIB) // world.local_size

        def reserve() -> tuple[str, str]:
            try:
                with path.open("wb") as stream:
                    os.posix_fallocate(stream.fileno(), 0, max(size, HEAD))  # a full disk is met now, not in a step
            except OSError as problem:
                path.unlink(missing_ok=True)
                raise RunError(
                    f"engine.remember: {size / GIB:.2f} GiB for this rank could not be reserved in {folder}: "
                    f"{problem.strerror}.\n  Ask for less, or leave it out."
                ) from problem
            return platform.node(), str(path)

        places = world.gather_objects(world.together(reserve))
        here = [(rank, where) for rank, (host, where) in enumerate(places) if host == platform.node()]
        files = [_mapped(where) for _, where in here]
        world.gather_objects(None)  # everybody has them open
        path.unlink()
        return cls(files, [rank for rank, _ in here].index(world.rank))

    def __call__(self, images: Tensor, ask: Ask, salt: str) -> list[Tensor]:
        """What `ask` says of uint8 images (B, 3, H, W), asked only about those it was not asked about before.

        `salt`: what else the answer depends on.
        """
        key = salt.encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        pixels = images.contiguous().numpy()
        digests = [hashlib.blake2b(image, digest_size=DIGEST, key=key).digest() for image in pixels]
        form = self.forms.get(key)
        places = [self.known.get(digest) if form else None for digest in digests]
        missing = [number for number, place in enumerate(places) if place is None]
        self.found, self.asked = self.found + len(images) - len(missing), self.asked + len(missing)
        fresh: np.ndarray | None = None
        if missing:
            said = ask(images[missing + [missing[-1]] * (-len(missing) % LOT)])
            if form is None:
                _refuse_moods(images[missing], said, ask)
                form = self.forms[key] = _form(said)
            fresh = _packed(said, len(missing))
            self._keep([digests[number] for number in missing], fresh)
        assert form is not None
        rows = np.empty((len(images), form.ends[-1]), np.uint8)
        if fresh is not None:
            rows[missing] = fresh
        for number, place in enumerate(places):
            if place is not None:
                file, first = place
                rows[number] = self.pages[file][first : first + form.ends[-1]]
        return _unpacked(torch.from_numpy(rows), form)

    def listen(self) -> None:
        """Learn what other ranks have written; between steps, when whatever they say is there."""
        for number, page in enumerate(self.pages):
            end = int(page[:HEAD].view(np.int64)[0])
            at = self.read[number]
            while at < end:
                digest = page[at : at + DIGEST].tobytes()
                length = int(page[at + DIGEST : at + DIGEST + LENGTH].view(np.int64)[0])
                first = at + DIGEST + LENGTH
                self.known.setdefault(digest, (number, first))
                at = first + length
            self.read[number] = max(at, self.read[number])

    def _keep(self, digests: list[bytes], rows: np.ndarray) -> None:
        page, length = self.pages[self.own], rows.shape[1]
        padded = -length % 8  # numbers stay where a view can read them
        for digest, row in zip(digests, rows, strict=True):
            first = self.written + DIGEST + LENGTH
            if first + length + padded > len(page):
                break
            page[self.written : self.written + DIGEST] = np.frombuffer(digest, np.uint8)
            page[first - LENGTH : first] = np.array([length + padded], np.int64).view(np.uint8)
            page[first : first + length] = row
            self.written = first + length + padded
            self.known.setdefault(digest, (self.own, first))
        page[:HEAD] = np.array([self.written], np.int64).view(np.uint8)  # last: until then nobody looks at them


def _mapped(path: str) -> mmap.mmap:
    with open(path, "r+b") as stream:
        return mmap.mmap(stream.fileno(), 0)


def _form(said: list[Tensor]) -> Form:
    bytes_ = [tensor[0].numel() * tensor.element_size() for tensor in said]
    ends = [0, *np.cumsum(bytes_).tolist()]
    return Form([tensor.shape[1:] for tensor in said], [tensor.dtype for tensor in said], ends)


def _packed(said: list[Tensor], count: int) -> np.ndarray:
    """(count, bytes)"""
    return torch.cat([t[:count].contiguous().flatten(1).view(torch.uint8) for t in said], dim=1).numpy()


def _unpacked(rows: Tensor, form: Form) -> list[Tensor]:
    parts = rows.split([end - start for start, end in zip(form.ends, form.ends[1:], strict=False)], dim=1)
    return [
        part.clone(memory_format=torch.contiguous_format).view(dtype).view(len(rows), *shape)
        for part, shape, dtype in zip(parts, form.shapes, form.dtypes, strict=True)
    ]


def _refuse_moods(images: Tensor, said: list[Tensor], ask: Ask) -> None:
    """Tokens that depend on the other images of a batch cannot be remembered: the same ones are asked in another."""
    turned = list(range(len(images)))[::-1][:LOT]
    again = ask(images[turned + [turned[-1]] * (-len(turned) % LOT)])
    if not all(torch.equal(one[: len(turned)], other[turned]) for one, other in zip(again, said, strict=True)):
        raise TeacherError(
            "engine.remember: on this machine a teacher's tokens depend on the other images of a batch, by rounding "
            "or by what it computes, and a run could not be repeated.\n  Leave engine.remember out."
        )
