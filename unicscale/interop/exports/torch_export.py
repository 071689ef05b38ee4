"""torch: a program of torch.export, which runs without a line of ours and without timm."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import torch

from unicscale.interop.exports.portable import Portable, answer_names, any_size, probe
from unicscale.interop.exports.target import Target, Wishes
from unicscale.interop.opened import Opened

FILE = "model.pt2"


def program_of(opened: Opened, wishes: Wishes) -> tuple[torch.export.ExportedProgram, list[str]]:
    """The traced student and the names of its outputs; any batch, any size that the patch divides."""
    if wishes.half:
        opened = copy.deepcopy(opened)
        opened.student.half()
    module = Portable(opened, projectors=wishes.projectors).eval().requires_grad_(False)
    images, sides = probe(opened)
    with torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=(sides,), strict=False), module.names


class TorchExport(Target):
    """Positions are resized inside it, as the student does."""

    name, library, projectors, half_computes = "torch", "torch", True, True

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """model.pt2."""
        program, _ = program_of(opened, wishes)
        held = io.BytesIO()  # on a full disk torch's writer of programs ends the process; memory does not fill up so
        torch.export.save(program, held)
        (folder / FILE).write_bytes(held.getbuffer())

    def any_size(self, opened: Opened) -> bool:
        """Where the graph does."""
        return any_size(opened.student.trunk)

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """`torch.export.load`."""
        cast = ".half()" if wishes.half else ""
        more = answer_names(opened) if wishes.projectors else []
        rest = f"answers = dict(zip({more}, found[2:]))  # as the teachers' own tokens\n" if more else ""
        return (
            "import torch\n\n"
            f'model = torch.export.load("DIR/{FILE}").module()\n'
            f"found = model(images{cast})\n"
            f"summary, patches = found[:2]\n{rest}"
        )
