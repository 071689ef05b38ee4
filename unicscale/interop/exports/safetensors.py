"""safetensors: our own one file, which says by itself which student it is."""

from __future__ import annotations

from pathlib import Path

from unicscale.errors import CheckpointError
from unicscale.interop import native
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.opened import Opened
from unicscale.student.model import Student

FILE = "model.safetensors"


class Safetensors(Target):
    """Every student, with or without its projectors and the statistics of its teachers."""

    name, library, projectors = "safetensors", "unicscale", True

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """One file."""
        said = opened.description
        if said is None or (wishes.projectors and said.projector is None):
            raise CheckpointError(
                f"--to {self.name}: no recipe can say these projectors, so no file of ours can hold them.\n"
                "  Without --with-projectors the encoder goes."
            )
        if not wishes.projectors:
            opened = Opened(Student(opened.student.trunk), opened.size, mean=opened.mean, std=opened.std)
            said = said.model_copy(update={"projector": None})
        native.write(folder / FILE, opened, said, half=wishes.half)

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`unicscale.load`, from the folder."""
        if wishes.projectors:
            return (
                'import unicscale\n\nmodel = unicscale.load("DIR", projectors=True)\n'
                "(summary, patches), answers = model(images)\n"
            )
        return 'import unicscale\n\nmodel = unicscale.load("DIR")\nsummary, patches = model(images)\n'
