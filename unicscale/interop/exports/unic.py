"""unic: the layout of the UNIC authors' own training checkpoints, so that what reads theirs reads this."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unicscale.contracts import Features
from unicscale.errors import CheckpointError
from unicscale.interop.exports.plain import dinov2_layout, plain
from unicscale.interop.exports.target import Target, Wishes, save_through, stored
from unicscale.interop.opened import Opened
from unicscale.objective.standardize import EPS, Unchanged
from unicscale.recipe.sections import SHORT_NAMES
from unicscale.student.projector.ladder import Ladder

FILE = "checkpoint.pth"
KINDS = dict(zip(Features._fields, ("cls", "patch"), strict=True))


class Unic(Target):
    """`module.encoder.*`, the ladder as `module.lp.*`, and the statistics of the teachers."""

    name, library, projectors, of_three = "unic", "unic", True, True

    def write(self, opened: Opened, folder: Path, wishes: Wishes) -> None:
        """One .pth, which holds tensors, numbers and an argparse.Namespace, as theirs does."""
        told = plain(opened, self.name)
        state = dinov2_layout(opened)
        if not told.layer_scale:
            state = {name: t for name, t in state.items() if ".ls1." not in name and ".ls2." not in name}
        model = {f"module.encoder.{chunked(name)}": t for name, t in state.items()}
        if wishes.projectors:
            model |= {f"module.lp.{name}": t for name, t in ladder(opened, self.name).items()}
        arch = next((n for n, shape in SHORT_NAMES.items() if shape == (told.width, told.depth, told.heads)), "other")
        said = argparse.Namespace(
            arch=arch,
            patch_size=told.patch,
            drop_path_rate=0.0,
            image_size=told.size,
            teachers=list(opened.statistics),
            num_heads=told.heads,
        )
        content = {
            "model": stored(model, wishes.half),
            "teacher_ft_stats": statistics(opened) if wishes.projectors else {},
            "epoch": 0,
            "args": said,
        }
        save_through(folder / FILE, lambda stream: torch.save(content, stream))

    def use(self, opened: Opened, wishes: Wishes) -> str:
        """Our reader of the authors' files."""
        if wishes.projectors:
            return (
                "import unicscale\n\n"
                f'model = unicscale.load("DIR/{FILE}", projectors=True)\n'
                "(summary, patches), answers = model(images)\n"
            )
        return f'import unicscale\n\nmodel = unicscale.load("DIR/{FILE}")\nsummary, patches = model(images)\n'


def chunked(name: str) -> str:
    """Their blocks lie in chunks, of which there is one."""
    return name.replace("blocks.", "blocks.0.", 1) if name.startswith("blocks.") else name


def ladder(opened: Opened, target: str) -> dict[str, Tensor]:
    """The ladder's layers under the numbers that they have in a Sequential."""
    projector = opened.student.projector
    rungs: list[Any] = [*projector.rungs.values()] if projector else []
    if not isinstance(projector, Ladder) or any("tokens" in rung.kinds for rung in rungs):
        raise CheckpointError(
            f"--to {target}: the authors' layout has a ladder with perceptrons of their own for CLS and patches, and "
            "nothing else.\n  --to safetensors holds these projectors; without --with-projectors the encoder goes."
        )
    renamed = {}
    for block, rung in projector.rungs.items():
        for teacher, kinds in rung.get_submodule("heads").named_children():
            for kind, head in kinds.named_children():
                for number, layer in enumerate(head.children()):
                    for leaf, tensor in layer.state_dict().items():
                        renamed[f"heads.{teacher}.{kind}.{block}.layers.{number}.{leaf}"] = tensor
    return renamed


def statistics(opened: Opened) -> dict[str, Any]:
    """Mean and deviation per teacher and kind, in the shapes of their buffers."""
    found: dict[str, Any] = {}
    for teacher, pair in opened.statistics.items():
        found[teacher] = {}
        for (kind, theirs), one in zip(KINDS.items(), pair, strict=True):
            if one is None:
                continue
            if type(one).__name__ == "PhiS":
                raise CheckpointError(
                    f"--to unic: '{teacher}' was standardised by PHI-S, and the authors' layout holds a mean and a "
                    "deviation per channel.\n  --to safetensors holds it; without --with-projectors the encoder goes."
                )
            shape = (1, -1) if kind == "summary" else (1, 1, -1)
            mean, deviation = (one.mean, one.deviation)
            if isinstance(one, Unchanged):  # what leaves tokens as they are
                mean, deviation = torch.zeros_like(mean), torch.ones_like(deviation) - EPS
            found[teacher][theirs] = {"mean": mean.view(shape).clone(), "std": deviation.view(shape).clone()}
    return found
