"""What a target has to say: how it is written, and the lines by which its own library reads it back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import torch
from torch import Tensor

from unicscale.errors import RecipeError
from unicscale.interop.opened import Opened
from unicscale.interop.small import Small
from unicscale.student.trunk import Grid, resize_positions
from unicscale.student.trunk.plain import PlainViT


class Wishes(NamedTuple):
    """What the user asked of an export beyond its target."""

    half: bool = False
    projectors: bool = False
    licence: str = "other"  # of the whole: the strictest of its teachers'
    small: Small | None = None  # what its matrices become


class Target(ABC):
    """One form that a student can be given."""

    name: ClassVar[str]
    library: ClassVar[str]  # what people will read it with, as it is called on a card
    needs: ClassVar[tuple[str, ...]] = ()  # packages that writing or verifying it takes
    projectors: ClassVar[bool] = False  # whether it has a place for answers
    of_three: ClassVar[bool] = False  # images of three channels are all that its library has a word for
    half_computes: ClassVar[bool] = False  # fp16 weights make its library compute in fp16

    @abstractmethod
    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """Everything that its library reads, into an empty folder; refuses what it cannot express, with the reason."""

    @abstractmethod
    def use(self, opened: Opened, wishes: Wishes) -> str:
        """Lines that make `summary, patches` (and `answers`) of `images`, normalised floats; DIR is the folder.

        They are what the card shows and what verification runs, in a process that has loaded nothing else.
        """

    def any_size(self, opened: Opened) -> bool:
        """Whether it takes images of other sizes than the student's own."""
        return isinstance(opened.student.trunk, PlainViT)

    def positions(self, opened: Opened, table: Tensor, old: Grid, new: Grid) -> Tensor:
        """Patch positions (1, h w, d) as its library resizes them to another grid; ours, where it can."""
        return resize_positions(table, old, new)

    def note(self, opened: Opened) -> str:
        """What else its users should know; a sentence for the card, or nothing."""
        return ""

    def tags(self) -> dict[str, Any]:
        """What the hub reads off the head of the card."""
        return {"library_name": self.library}

    def refuse_missing(self) -> None:
        """Before any work: the packages that it takes."""
        absent = [name for name in self.needs if find_spec(name) is None]
        if absent:
            raise RecipeError(
                f"--to {self.name} needs {', '.join(absent)}, which is not installed: pip install 'unicscale[export]'"
            )


def stored(tensors: dict[str, Tensor], half: bool) -> dict[str, Tensor]:
    """As they go into a file: whole, on the host, in fp16 where asked."""
    return {n: (t.half() if half else t).detach().cpu().contiguous() for n, t in tensors.items()}


def save_through(path: Path, save: Callable[[BinaryIO], None]) -> None:
    """torch's zip writer by a stream of ours: of a full disk it says `unexpected pos`, the stream what happened."""
    try:
        with path.open("wb") as stream:
            save(stream)
    except RuntimeError as problem:
        if isinstance(problem.__context__, OSError):
            raise problem.__context__ from None
        raise


def resized_by_size(table: Tensor, old: Grid, new: Grid, *, antialias: bool) -> Tensor:
    """Bicubic by size alone, as most libraries do it."""
    maps = table.float().unflatten(1, old).permute(0, 3, 1, 2)
    maps = torch.nn.functional.interpolate(maps, new, mode="bicubic", antialias=antialias)
    return maps.flatten(2).mT
