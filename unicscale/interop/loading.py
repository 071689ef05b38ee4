"""`load`: one name or path -> a frozen model in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unicscale.contracts import Features, Seen
from unicscale.errors import CheckpointError
from unicscale.interop import native, unic
from unicscale.interop.opened import Opened
from unicscale.student.model import Student
from unicscale.teacher.frozen import open_teacher


class Model(nn.Module):
    """A frozen student. uint8 images are normalised inside, floats are taken as normalised."""

    def __init__(self, opened: Opened, *, projectors: bool) -> None:
        super().__init__()
        student = opened.student
        self.student, self.size, self.projectors = student, opened.size, projectors
        kinds = {n: zip("01", pair, strict=True) for n, pair in opened.statistics.items()}  # of summary, of patches
        self.statistics = nn.ModuleDict(
            {n: nn.ModuleDict({kind: s for kind, s in pair if s is not None}) for n, pair in kinds.items()}
        )
        self.width, self.patch = student.trunk.width, student.trunk.patch
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Model:
        """It stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features | Seen:
        """(B, 3, H, W) -> Features, or Seen where projectors were asked for; answers are still standardised."""
        seen = self.student(images)
        return seen if self.projectors else seen.features

    def unstandardise(self, teacher: str, answer: Features) -> Features:
        """An answer as the teacher's own tokens: for its classifier, its text tower, its heads."""
        if teacher not in self.statistics:
            raise CheckpointError(f"no statistics of '{teacher}' here, only of {sorted(self.statistics)}.")
        held: Any = self.statistics[teacher]
        kinds = zip("01", answer, strict=True)
        return Features(*(None if t is None or kind not in held else held[kind].invert(t) for kind, t in kinds))

    def answers_summary(self, teacher: str) -> bool:
        """Whether a guess of this teacher's summary can be had: some teach patches only."""
        held: Any = self.statistics[teacher]
        return "0" in held


def load(
    source: str | Path,
    projectors: bool = False,
    weights: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A run folder, checkpoint, export, our safetensors, an official UNIC file or `teacher:NAME`, ready to use."""
    name = str(source)
    if name.startswith("teacher:"):
        return open_teacher(name.removeprefix("teacher:"), weights, options)
    opened = read(name)
    if not projectors:
        opened.student.projector = None
    elif opened.student.projector is None:
        raise CheckpointError(f"{name}: projectors=True, but there are no projectors in it, only the encoder.")
    return Model(opened, projectors=projectors)


def both(opened: Opened) -> tuple[Model, Model | None]:
    """The encoder alone and, where there are projectors, the whole student: two faces of one trunk."""
    student = opened.student
    whole = None if student.projector is None else Model(opened, projectors=True)
    bare = Opened(Student(student.trunk), opened.size, opened.statistics)
    return Model(bare, projectors=False), whole


def read(source: str | Path) -> Opened:
    """A student from a run folder, a checkpoint, an export, a file of ours, or an official UNIC file."""
    path = Path(source)
    if not path.exists():
        raise CheckpointError(
            f"'{source}' is neither a file nor a folder here. A teacher is written 'teacher:NAME'; "
            "`unicscale teachers list` names them."
        )
    return native.read(path) if path.is_dir() or path.suffix == ".safetensors" else unic.read(path)
